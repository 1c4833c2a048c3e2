// Layer norm over the last axis and its gradient; RMS norm where `centred` is 0.
//
//   nvcc -ptx -arch=compute_80 -std=c++17 layer-norm.cu
//
// A row is held in registers between its two passes (mean, then variance around it), so it is read once: by one warp
// up to 1,024 wide, by a block of 256 up to 4,096; wider rows, and widths that are no multiple of 4, go through the
// plain kernels at the end, which read a row again instead. In the gradient each warp adds up its rows' share of the
// sums for scale and shift in registers; a block's warps, then the blocks, are added in a fixed order, so the result
// does not vary from run to run.
#include "rows.cuh"

struct RowStatistics {
  float mean, inverse;
};

// Mean and 1 / √(variance + epsilon) of a row whose values lie in registers, zeros beyond its end.
template <int THREADS, int VECTORS>
__device__ __forceinline__ RowStatistics row_statistics(const float4 (&v)[VECTORS], int lane, int d, float epsilon,
                                                        int centred, float *shared) {
  float mean = 0;
  if (centred) {
    float sum = 0;
#pragma unroll
    for (int i = 0; i < VECTORS; i++) sum += (v[i].x + v[i].y) + (v[i].z + v[i].w);
    mean = row_sum<THREADS>(sum, shared) / d;
  }
  float squares = 0;
#pragma unroll
  for (int i = 0; i < VECTORS; i++) {
    if ((lane + i * THREADS) * 4 >= d) continue;
    const float x = v[i].x - mean, y = v[i].y - mean, z = v[i].z - mean, w = v[i].w - mean;
    squares += (x * x + y * y) + (z * z + w * w);
  }
  const float variance = row_sum<THREADS>(squares, shared) / d;
  return {mean, rsqrtf(variance + epsilon)};
}

template <int THREADS, int VECTORS, typename T>
__device__ __forceinline__ void load_row(float4 (&v)[VECTORS], const T *row, int lane, int d) {
#pragma unroll
  for (int i = 0; i < VECTORS; i++) {
    const int column = (lane + i * THREADS) * 4;
    v[i] = column < d ? load4(row + column) : make_float4(0, 0, 0, 0);
  }
}

// out [rows, d], and where out16 is not null the same in bf16; shift may be null.
template <typename T, int THREADS, int VECTORS>
__device__ __forceinline__ void layer_norm_rows(const T *__restrict__ x, const float *__restrict__ scale,
                                                const float *__restrict__ shift, float *__restrict__ out,
                                                bf16 *__restrict__ out16, int rows, int d, float epsilon,
                                                int centred) {
  __shared__ float shared[32];
  constexpr int perBlock = 256 / THREADS;
  const int lane = threadIdx.x % THREADS;
  for (int row = blockIdx.x * perBlock + threadIdx.x / THREADS; row < rows; row += gridDim.x * perBlock) {
    const size_t start = (size_t)row * d;
    float4 v[VECTORS];
    load_row<THREADS, VECTORS>(v, x + start, lane, d);
    const RowStatistics s = row_statistics<THREADS, VECTORS>(v, lane, d, epsilon, centred, shared);
#pragma unroll
    for (int i = 0; i < VECTORS; i++) {
      const int column = (lane + i * THREADS) * 4;
      if (column >= d) continue;
      const float4 a = load4(scale + column);
      const float4 b = shift ? load4(shift + column) : make_float4(0, 0, 0, 0);
      const float4 y = make_float4((v[i].x - s.mean) * s.inverse * a.x + b.x, (v[i].y - s.mean) * s.inverse * a.y + b.y,
                                   (v[i].z - s.mean) * s.inverse * a.z + b.z, (v[i].w - s.mean) * s.inverse * a.w + b.w);
      store4(out + start + column, y);
      if (out16) store4(out16 + start + column, y);
    }
  }
}

#define LAYER_NORM(suffix, T, THREADS, VECTORS)                                                                     \
  KERNEL __launch_bounds__(256) layer_norm_##suffix(const T *x, const float *scale, const float *shift, float *out, \
                                                    bf16 *out16, int rows, int d, float epsilon, int centred) {     \
    layer_norm_rows<T, THREADS, VECTORS>(x, scale, shift, out, out16, rows, d, epsilon, centred);                    \
  }
LAYER_NORM(f32_256, float, 32, 2)
LAYER_NORM(f32_512, float, 32, 4)
LAYER_NORM(f32_1024, float, 32, 8)
LAYER_NORM(f32_4096, float, 256, 4)
LAYER_NORM(bf16_256, bf16, 32, 2)
LAYER_NORM(bf16_512, bf16, 32, 4)
LAYER_NORM(bf16_1024, bf16, 32, 8)
LAYER_NORM(bf16_4096, bf16, 256, 4)

// dx [rows, d]; partial [gridDim.x, 2, d], of dscale and dshift. One warp a row; d at most 128 · VECTORS.
template <typename T, typename G, int VECTORS>
__device__ __forceinline__ void layer_norm_grad_rows(const T *__restrict__ x, const float *__restrict__ scale,
                                                     const G *__restrict__ dy, float *__restrict__ dx,
                                                     float *__restrict__ partial, int rows, int d, float epsilon,
                                                     int centred) {
  __shared__ float4 sums[2][8][32];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  float4 dscale[VECTORS], dshift[VECTORS];
#pragma unroll
  for (int i = 0; i < VECTORS; i++) dscale[i] = dshift[i] = make_float4(0, 0, 0, 0);
  for (int row = blockIdx.x * 8 + warp; row < rows; row += gridDim.x * 8) {
    const size_t start = (size_t)row * d;
    float4 v[VECTORS], g[VECTORS];
    load_row<32, VECTORS>(v, x + start, lane, d);
    load_row<32, VECTORS>(g, dy + start, lane, d);
    const RowStatistics s = row_statistics<32, VECTORS>(v, lane, d, epsilon, centred, nullptr);
    float across = 0, along = 0;
#pragma unroll
    for (int i = 0; i < VECTORS; i++) {
      const int column = (lane + i * 32) * 4;
      if (column >= d) continue;
      v[i] = make_float4((v[i].x - s.mean) * s.inverse, (v[i].y - s.mean) * s.inverse, (v[i].z - s.mean) * s.inverse,
                         (v[i].w - s.mean) * s.inverse);
      dshift[i].x += g[i].x, dshift[i].y += g[i].y, dshift[i].z += g[i].z, dshift[i].w += g[i].w;
      dscale[i].x += g[i].x * v[i].x, dscale[i].y += g[i].y * v[i].y;
      dscale[i].z += g[i].z * v[i].z, dscale[i].w += g[i].w * v[i].w;
      const float4 a = load4(scale + column);
      g[i] = make_float4(g[i].x * a.x, g[i].y * a.y, g[i].z * a.z, g[i].w * a.w);
      across += (g[i].x + g[i].y) + (g[i].z + g[i].w);
      along += (g[i].x * v[i].x + g[i].y * v[i].y) + (g[i].z * v[i].z + g[i].w * v[i].w);
    }
    across = centred ? warp_sum(across) / d : 0;
    along = warp_sum(along) / d;
#pragma unroll
    for (int i = 0; i < VECTORS; i++) {
      const int column = (lane + i * 32) * 4;
      if (column >= d) continue;
      store4(dx + start + column,
             make_float4(s.inverse * (g[i].x - across - v[i].x * along), s.inverse * (g[i].y - across - v[i].y * along),
                         s.inverse * (g[i].z - across - v[i].z * along), s.inverse * (g[i].w - across - v[i].w * along)));
    }
  }
  float *out = partial + (size_t)blockIdx.x * 2 * d;
  const int column = threadIdx.x % 128, which = threadIdx.x / 128;
#pragma unroll
  for (int i = 0; i < VECTORS; i++) {
    __syncthreads();
    sums[0][warp][lane] = dscale[i];
    sums[1][warp][lane] = dshift[i];
    __syncthreads();
    float total = 0;
#pragma unroll
    for (int w = 0; w < 8; w++) total += reinterpret_cast<const float *>(sums[which][w])[column];
    if (i * 128 + column < d) out[which * d + i * 128 + column] = total;
  }
}

#define LAYER_NORM_GRAD(suffix, T, G, VECTORS)                                                                   \
  KERNEL __launch_bounds__(256) layer_norm_grad_##suffix(const T *x, const float *scale, const G *dy, float *dx,  \
                                                         float *partial, int rows, int d, float epsilon,         \
                                                         int centred) {                                          \
    layer_norm_grad_rows<T, G, VECTORS>(x, scale, dy, dx, partial, rows, d, epsilon, centred);                    \
  }
LAYER_NORM_GRAD(f32_f32_256, float, float, 2)
LAYER_NORM_GRAD(f32_f32_512, float, float, 4)
LAYER_NORM_GRAD(f32_f32_1024, float, float, 8)
LAYER_NORM_GRAD(f32_bf16_256, float, bf16, 2)
LAYER_NORM_GRAD(f32_bf16_512, float, bf16, 4)
LAYER_NORM_GRAD(f32_bf16_1024, float, bf16, 8)

// Any width: a block a row, which it reads again for each pass.
KERNEL __launch_bounds__(256) layer_norm_f32_any(const float *x, const float *scale, const float *shift, float *out,
                                                 bf16 *out16, int rows, int d, float epsilon, int centred) {
  __shared__ float shared[32];
  for (int row = blockIdx.x; row < rows; row += gridDim.x) {
    const float *in = x + (size_t)row * d;
    float mean = 0, squares = 0;
    if (centred) {
      for (int i = threadIdx.x; i < d; i += 256) mean += in[i];
      mean = block_sum(mean, shared) / d;
    }
    for (int i = threadIdx.x; i < d; i += 256) squares += (in[i] - mean) * (in[i] - mean);
    const float inverse = rsqrtf(block_sum(squares, shared) / d + epsilon);
    for (int i = threadIdx.x; i < d; i += 256) {
      const float y = (in[i] - mean) * inverse * scale[i] + (shift ? shift[i] : 0);
      out[(size_t)row * d + i] = y;
      if (out16) out16[(size_t)row * d + i] = from_float<bf16>(y);
    }
  }
}

// Any width: dx, and each row's mean and inverse deviation [rows, 2] for layer_norm_grad_columns.
KERNEL __launch_bounds__(256) layer_norm_grad_f32_any(const float *x, const float *scale, const float *dy, float *dx,
                                                      float *statistics, int rows, int d, float epsilon, int centred) {
  __shared__ float shared[32];
  for (int row = blockIdx.x; row < rows; row += gridDim.x) {
    const float *in = x + (size_t)row * d, *g = dy + (size_t)row * d;
    float mean = 0, squares = 0, across = 0, along = 0;
    if (centred) {
      for (int i = threadIdx.x; i < d; i += 256) mean += in[i];
      mean = block_sum(mean, shared) / d;
    }
    for (int i = threadIdx.x; i < d; i += 256) squares += (in[i] - mean) * (in[i] - mean);
    const float inverse = rsqrtf(block_sum(squares, shared) / d + epsilon);
    for (int i = threadIdx.x; i < d; i += 256) {
      across += g[i] * scale[i];
      along += g[i] * scale[i] * (in[i] - mean) * inverse;
    }
    across = block_sum(across, shared) / d;
    along = block_sum(along, shared) / d;
    if (!centred) across = 0;
    for (int i = threadIdx.x; i < d; i += 256) {
      dx[(size_t)row * d + i] = inverse * (g[i] * scale[i] - across - (in[i] - mean) * inverse * along);
    }
    if (threadIdx.x == 0) {
      statistics[2 * row] = mean;
      statistics[2 * row + 1] = inverse;
    }
  }
}

// Any width: partial [gridDim.y, 2, d] from the rows of a chunk; 32 columns a block, 8 rows at a time.
KERNEL __launch_bounds__(256) layer_norm_grad_columns(const float *x, const float *dy, const float *statistics,
                                                      float *partial, int rows, int d) {
  __shared__ float sums[2][8][32];
  const int lane = threadIdx.x % 32, group = threadIdx.x / 32, column = blockIdx.x * 32 + lane;
  float dscale = 0, dshift = 0;
  if (column < d) {
    for (int row = blockIdx.y * 8 + group; row < rows; row += gridDim.y * 8) {
      const size_t at = (size_t)row * d + column;
      dscale += dy[at] * (x[at] - statistics[2 * row]) * statistics[2 * row + 1];
      dshift += dy[at];
    }
  }
  sums[0][group][lane] = dscale;
  sums[1][group][lane] = dshift;
  __syncthreads();
  if (group < 2 && column < d) {
    float total = 0;
    for (int i = 0; i < 8; i++) total += sums[group][i][lane];
    partial[((size_t)blockIdx.y * 2 + group) * d + column] = total;
  }
}
