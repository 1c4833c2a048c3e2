// Matrix products out = op(a) · op(b) + bias of dense row-major matrices, in batches, on the ordinary units, where
// cuBLASLt is not there or does not take the type:
//   products_simt_*      any transposes and sizes; register-blocked tiles
//   products_rows_*      matrix · vector, the matrix's rows contiguous along the sum: a warp a row
//   products_columns_*   the same, contiguous across the sum
//   products_reduce_*    the sum of what the blocks of a split sum left, for all products of our own
// products-mma.cu and products.sm90a.cu have those on tensor cores; products.md counts operations and bytes.
//
// A sum over k is split over `splits` blocks where the result alone has too few tiles to fill the card; each then
// writes float32 partial sums [splits][batch][m][n] and leaves the bias to products_reduce.
#include "products.cuh"

template <typename T> struct __align__(16) products_four {
  T v[4];
};

// ---- Ordinary units ------------------------------------------------------------------------------------------------

// A tile of BM x BN results by (BM / TM) · (BN / TN) threads, TM x TN each in groups of four; the sum goes in steps of 8
// through two buffers in shared memory, the next step's values waiting in registers.
template <typename T, int BM, int BN, int TM, int TN>
__device__ __forceinline__ void products_simt(const T *__restrict__ a, const T *__restrict__ b, T *__restrict__ out,
                                              const T *__restrict__ bias, int m, int n, int k, int transpose_a,
                                              int transpose_b, long long stride_a, long long stride_b,
                                              long long stride_out, int batch, int splits, int per_split) {
  constexpr int BK = 8, THREADS = (BM / TM) * (BN / TN), LOADS_A = BM * BK / THREADS, LOADS_B = BN * BK / THREADS;
  constexpr int PAD = 4, ACROSS = BN / TN, GROUP_M = BM / (TM / 4), GROUP_N = BN / (TN / 4);
  __shared__ __align__(16) T tile_a[2][BK][BM + PAD];
  __shared__ __align__(16) T tile_b[2][BK][BN + PAD];
  const int thread = threadIdx.x, thread_row = thread / ACROSS, thread_column = thread % ACROSS;
  int tile_row, tile_column;
  products_tile_at<8>(blockIdx.x, (m + BM - 1) / BM, (n + BN - 1) / BN, tile_row, tile_column);
  const int row0 = tile_row * BM, column0 = tile_column * BN;
  const int split = blockIdx.y, k0 = split * per_split, k1 = min(k, k0 + per_split);

  for (int item = blockIdx.z; item < batch; item += gridDim.z) {
    const T *left = a + item * stride_a, *right = b + item * stride_b;
    T sum[TM][TN], next_a[LOADS_A], next_b[LOADS_B];
#pragma unroll
    for (int i = 0; i < TM; i++)
#pragma unroll
      for (int j = 0; j < TN; j++) sum[i][j] = T(0);

    // Neighbouring threads read neighbouring addresses: along the sum where that is contiguous, else across it.
    auto load = [&](int at) {
#pragma unroll
      for (int i = 0; i < LOADS_A; i++) {
        const int e = thread + i * THREADS, r = transpose_a ? e % BM : e / BK, s = transpose_a ? e / BM : e % BK;
        const long long offset = transpose_a ? (at + s) * (long long)m + row0 + r : (row0 + r) * (long long)k + at + s;
        next_a[i] = row0 + r < m && at + s < k1 ? left[offset] : T(0);
      }
#pragma unroll
      for (int i = 0; i < LOADS_B; i++) {
        const int e = thread + i * THREADS, c = transpose_b ? e / BK : e % BN, s = transpose_b ? e % BK : e / BN;
        const long long offset =
            transpose_b ? (column0 + c) * (long long)k + at + s : (at + s) * (long long)n + column0 + c;
        next_b[i] = column0 + c < n && at + s < k1 ? right[offset] : T(0);
      }
    };
    auto keep = [&](int buffer) {
#pragma unroll
      for (int i = 0; i < LOADS_A; i++) {
        const int e = thread + i * THREADS;
        tile_a[buffer][transpose_a ? e / BM : e % BK][transpose_a ? e % BM : e / BK] = next_a[i];
      }
#pragma unroll
      for (int i = 0; i < LOADS_B; i++) {
        const int e = thread + i * THREADS;
        tile_b[buffer][transpose_b ? e % BK : e / BN][transpose_b ? e / BK : e % BN] = next_b[i];
      }
    };

    load(k0);
    keep(0);
    __syncthreads();
    int buffer = 0;
    for (int at = k0; at < k1; at += BK) {
      const bool more = at + BK < k1;
      if (more) load(at + BK);
#pragma unroll
      for (int s = 0; s < BK; s++) {
        products_four<T> x[TM / 4], y[TN / 4];
#pragma unroll
        for (int i = 0; i < TM / 4; i++)
          x[i] = *reinterpret_cast<const products_four<T> *>(&tile_a[buffer][s][i * GROUP_M + thread_row * 4]);
#pragma unroll
        for (int j = 0; j < TN / 4; j++)
          y[j] = *reinterpret_cast<const products_four<T> *>(&tile_b[buffer][s][j * GROUP_N + thread_column * 4]);
#pragma unroll
        for (int i = 0; i < TM; i++)
#pragma unroll
          for (int j = 0; j < TN; j++) sum[i][j] += x[i / 4].v[i % 4] * y[j / 4].v[j % 4];
      }
      if (more) {
        keep(buffer ^ 1);
        __syncthreads();
        buffer ^= 1;
      }
    }

    T *result = out + (split * (long long)batch + item) * stride_out;
#pragma unroll
    for (int i = 0; i < TM; i++) {
      const int row = row0 + (i / 4) * GROUP_M + thread_row * 4 + i % 4;
      if (row >= m) continue;
#pragma unroll
      for (int j = 0; j < TN; j++) {
        const int column = column0 + (j / 4) * GROUP_N + thread_column * 4 + j % 4;
        if (column >= n) continue;
        result[row * (long long)n + column] = bias ? sum[i][j] + bias[column] : sum[i][j];
      }
    }
    __syncthreads();
  }
}

#define PRODUCTS_SIMT(NAME, T, BM, BN, TM, TN)                                                                        \
  extern "C" __global__ void __launch_bounds__((BM / TM) * (BN / TN))                                                 \
      NAME(const T *a, const T *b, T *out, const T *bias, int m, int n, int k, int transpose_a, int transpose_b,      \
           long long stride_a, long long stride_b, long long stride_out, int batch, int splits, int per_split) {      \
    products_simt<T, BM, BN, TM, TN>(a, b, out, bias, m, n, k, transpose_a, transpose_b, stride_a, stride_b,          \
                                     stride_out, batch, splits, per_split);                                           \
  }
PRODUCTS_SIMT(products_simt_f32_128, float, 128, 128, 8, 8)
PRODUCTS_SIMT(products_simt_f32_64, float, 64, 64, 8, 4)
PRODUCTS_SIMT(products_simt_i32_64, int, 64, 64, 8, 4)

// ---- Matrix and vector ---------------------------------------------------------------------------------------------

// out[i] = Σ matrix[i][·] · vector[·]: a warp a row, four values a lane and step where rows begin at 16 bytes.
extern "C" __global__ void __launch_bounds__(256)
    products_rows_f32(const float *__restrict__ matrix, const float *__restrict__ vector, float *__restrict__ out,
                      const float *__restrict__ bias, int rows, int k, long long stride_matrix,
                      long long stride_vector, long long stride_out, int batch, int bias_step, int aligned) {
  const int lane = threadIdx.x % 32, warps = blockDim.x / 32;
  const long long all = (long long)rows * batch;
  for (long long i = blockIdx.x * (long long)warps + threadIdx.x / 32; i < all; i += (long long)gridDim.x * warps) {
    const int item = (int)(i / rows), row = (int)(i - (long long)item * rows);
    const float *x = matrix + item * stride_matrix + row * (long long)k, *y = vector + item * stride_vector;
    float sum = 0.0f;
    int at = 0;
    if (aligned) {
      const float4 *x4 = reinterpret_cast<const float4 *>(x), *y4 = reinterpret_cast<const float4 *>(y);
#pragma unroll 4
      for (int s = lane; s < k / 4; s += 32) {
        const float4 p = x4[s], q = y4[s];
        sum += p.x * q.x + p.y * q.y + p.z * q.z + p.w * q.w;
      }
      at = k / 4 * 4;
    }
    for (int s = at + lane; s < k; s += 32) sum += x[s] * y[s];
    sum = warp_sum(sum);
    if (lane == 0) {
      out[item * stride_out + row] = bias ? sum + bias[row * bias_step] : sum;
    }
  }
}

// out[j] = Σ vector[·] · matrix[·][j]: 32 columns a block, eight warps share the sum. blockIdx.y is the split.
extern "C" __global__ void __launch_bounds__(256)
    products_columns_f32(const float *__restrict__ matrix, const float *__restrict__ vector, float *__restrict__ out,
                         const float *__restrict__ bias, int columns, int k, long long stride_matrix,
                         long long stride_vector, long long stride_out, int batch, int per_split, int bias_step) {
  __shared__ float sums[8][32];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, column = blockIdx.x * 32 + lane;
  const int k0 = blockIdx.y * per_split, k1 = min(k, k0 + per_split);
  for (int item = blockIdx.z; item < batch; item += gridDim.z) {
    const float *x = matrix + item * stride_matrix + column, *y = vector + item * stride_vector;
    float sum = 0.0f;
    if (column < columns) {
#pragma unroll 8
      for (int s = k0 + warp; s < k1; s += 8) sum += x[s * (long long)columns] * y[s];
    }
    sums[warp][lane] = sum;
    __syncthreads();
    if (warp == 0 && column < columns) {
#pragma unroll
      for (int i = 1; i < 8; i++) sum += sums[i][lane];
      if (bias) sum += bias[column * bias_step];
      out[(blockIdx.y * (long long)batch + item) * stride_out + column] = sum;
    }
    __syncthreads();
  }
}

// ---- Split sums ----------------------------------------------------------------------------------------------------

// out[i] = Σ parts[split][i] + bias[i % n] over `count` = batch · m · n results that lie one behind the other.
template <typename T>
__device__ __forceinline__ void products_reduce(const float *__restrict__ parts, T *__restrict__ out,
                                                const T *__restrict__ bias, long long count, int n, int splits) {
  for (GRID_LOOP(i, count)) {
    float sum = 0.0f;
    for (int split = 0; split < splits; split++) sum += parts[split * count + i];
    if (bias) sum += to_float(bias[i % n]);
    out[i] = from_float<T>(sum);
  }
}
KERNEL products_reduce_f32(const float *parts, float *out, const float *bias, long long count, int n, int splits) {
  products_reduce(parts, out, bias, count, n, splits);
}
KERNEL products_reduce_bf16(const float *parts, bf16 *out, const bf16 *bias, long long count, int n, int splits) {
  products_reduce(parts, out, bias, count, n, splits);
}
KERNEL products_reduce_f16(const float *parts, __half *out, const __half *bias, long long count, int n, int splits) {
  products_reduce(parts, out, bias, count, n, splits);
}
