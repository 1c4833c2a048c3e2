// Matrix products out = op(a) · op(b) + bias on tensor cores through mma.sync (sm_80 and later): bf16 or fp16 operands, or
// float32 ones rounded to tf32; float32 sums; results in float32 or in the operands' 16 bits. Split sums as in products.cu.
#include "products.cuh"
#include "tensor-core.cuh"

// d += a · b of a warp, 8 deep in tf32, sums as mma_16 has them: lane 4g + t holds a (g, t), (g + 8, t), (g, t + 4),
// (g + 8, t + 4) and b (t, g), (t + 4, g).
__device__ __forceinline__ void products_mma_tf32(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
#ifdef D2DMOE_EMULATED
  const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  for (int s = 0; s < 8; s++) {
    const int high = s / 4, from = s % 4;
    const float top = __int_as_float((int)__shfl_sync(0xffffffffu, a[2 * high], g * 4 + from));
    const float bottom = __int_as_float((int)__shfl_sync(0xffffffffu, a[2 * high + 1], g * 4 + from));
    const float left = __int_as_float((int)__shfl_sync(0xffffffffu, b[high], 2 * t * 4 + from));
    const float right = __int_as_float((int)__shfl_sync(0xffffffffu, b[high], (2 * t + 1) * 4 + from));
    d[0] += top * left;
    d[1] += top * right;
    d[2] += bottom * left;
    d[3] += bottom * right;
  }
#else
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#endif
}

__device__ __forceinline__ unsigned products_tf32(float x) {
#ifdef D2DMOE_EMULATED
  // Round to nearest, halves away from zero, at 10 bits; not where that would turn NaN into infinity.
  const unsigned bits = (unsigned)__float_as_int(x);
  return (bits & 0x7f800000u) == 0x7f800000u ? bits : (bits + 0x1000u) & 0xffffe000u;
#else
  unsigned y;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(y) : "f"(x));
  return y;
#endif
}

// One operand's tile of SIDE rows (of a) or columns (of b) by 64 bytes of the sum, in shared memory as it lies in
// device memory: along the sum (ALONG) or across it. The padding keeps a warp's reads in different banks.
template <typename T, bool ALONG> struct products_operand {
  static constexpr int SIDE = 128, DEPTH = 64 / sizeof(T), VECTOR = 16 / sizeof(T);
  static constexpr int PAD = ALONG || sizeof(T) == 2 ? VECTOR : 2 * VECTOR;
  static constexpr int PITCH = (ALONG ? DEPTH : SIDE) + PAD, LINES = ALONG ? SIDE : DEPTH;
  static constexpr int ELEMENTS = PITCH * LINES;
  static constexpr int VECTORS = (ALONG ? DEPTH : SIDE) / VECTOR;  // of a line

  // `side0` and `at` are where the tile begins, `side` and `end` where the operand ends, `pitch` its own line.
  static __device__ __forceinline__ void load(T *tile, const T *from, int side0, int at, int side, int end,
                                              long long pitch, bool aligned) {
    for (int i = threadIdx.x; i < LINES * VECTORS; i += 256) {
      const int line = i / VECTORS, first = i % VECTORS * VECTOR;
      const int s = ALONG ? at + first : at + line, r = ALONG ? side0 + line : side0 + first;
      T *to = tile + line * PITCH + first;
      const T *source = from + (ALONG ? r * pitch + s : s * pitch + r);
      if (aligned) {
        const bool there = r < side && s < end;
        copy16(to, there ? source : from, there);
      } else {
#pragma unroll
        for (int e = 0; e < VECTOR; e++) {
          const bool there = ALONG ? r < side && s + e < end : r + e < side && s < end;
          to[e] = there ? source[e] : from_float<T>(0.0f);
        }
      }
    }
  }
};

// Tiles of 128 x 128 results by eight warps of 64 x 32, 64 bytes of the sum a step, four steps under way.
template <typename T, bool TA, bool TB>
__device__ __forceinline__ void products_mma(const T *__restrict__ a, const T *__restrict__ b, void *__restrict__ out,
                                             const void *__restrict__ bias, int m, int n, int k, long long stride_a,
                                             long long stride_b, long long stride_out, int batch, int splits,
                                             int per_split, int aligned_a, int aligned_b, int out16) {
  using A = products_operand<T, !TA>;
  using B = products_operand<T, TB>;
  constexpr int STAGES = 4, DEPTH = A::DEPTH, STEP = sizeof(T) == 2 ? 16 : 8;
  DYNAMIC_SHARED(T, shared);
  T *tiles_a = shared, *tiles_b = shared + STAGES * A::ELEMENTS;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, t = lane % 4;
  const int warp_row = warp % 2 * 64, warp_column = warp / 2 * 32;
  int tile_row, tile_column;
  products_tile_at<8>(blockIdx.x, (m + 127) / 128, (n + 127) / 128, tile_row, tile_column);
  const int row0 = tile_row * 128, column0 = tile_column * 128;
  const int split = blockIdx.y, k0 = split * per_split, k1 = min(k, k0 + per_split);
  const int steps = k1 > k0 ? (k1 - k0 + DEPTH - 1) / DEPTH : 0;

  for (int item = blockIdx.z; item < batch; item += gridDim.z) {
    const T *left = a + item * stride_a, *right = b + item * stride_b;
    float sum[4][4][4];
#pragma unroll
    for (int i = 0; i < 64; i++) sum[i / 16][i / 4 % 4][i % 4] = 0.0f;
    auto load = [&](int step) {
      if (step < steps) {
        const int at = k0 + step * DEPTH, stage = step % STAGES;
        A::load(tiles_a + stage * A::ELEMENTS, left, row0, at, m, k1, TA ? m : k, aligned_a);
        B::load(tiles_b + stage * B::ELEMENTS, right, column0, at, n, k1, TB ? k : n, aligned_b);
      }
      copies_commit();
    };
#pragma unroll
    for (int step = 0; step < STAGES - 1; step++) load(step);

    for (int step = 0; step < steps; step++) {
      copies_wait<STAGES - 2>();
      __syncthreads();
      load(step + STAGES - 1);
      const T *tile_a = tiles_a + step % STAGES * A::ELEMENTS, *tile_b = tiles_b + step % STAGES * B::ELEMENTS;
#pragma unroll
      for (int s = 0; s < DEPTH; s += STEP) {
        unsigned x[4][4], y[4][2];
        if constexpr (sizeof(T) == 2) {
          const int block = lane / 8, in = lane % 8;
#pragma unroll
          for (int i = 0; i < 4; i++) {
            const int r = warp_row + i * 16;
            if constexpr (TA)
              load_matrices_transposed(x[i], tile_a + (s + block / 2 * 8 + in) * A::PITCH + r + block % 2 * 8);
            else
              load_matrices(x[i], tile_a + (r + lane % 16) * A::PITCH + s + lane / 16 * 8);
          }
#pragma unroll
          for (int j = 0; j < 4; j += 2) {
            const int c = warp_column + j * 8;
            unsigned z[4];
            if constexpr (TB)
              load_matrices(z, tile_b + (c + block / 2 * 8 + in) * B::PITCH + s + block % 2 * 8);
            else
              load_matrices_transposed(z, tile_b + (s + block % 2 * 8 + in) * B::PITCH + c + block / 2 * 8);
            y[j][0] = z[0], y[j][1] = z[1], y[j + 1][0] = z[2], y[j + 1][1] = z[3];
          }
#pragma unroll
          for (int i = 0; i < 4; i++)
#pragma unroll
            for (int j = 0; j < 4; j++) mma_16<T>(sum[i][j], x[i], y[j][0], y[j][1]);
        } else {
          auto left_at = [&](int r, int q) { return products_tf32(TA ? tile_a[q * A::PITCH + r] : tile_a[r * A::PITCH + q]); };
          auto right_at = [&](int q, int c) { return products_tf32(TB ? tile_b[c * B::PITCH + q] : tile_b[q * B::PITCH + c]); };
#pragma unroll
          for (int i = 0; i < 4; i++) {
            const int r = warp_row + i * 16 + g;
            x[i][0] = left_at(r, s + t), x[i][1] = left_at(r + 8, s + t);
            x[i][2] = left_at(r, s + t + 4), x[i][3] = left_at(r + 8, s + t + 4);
          }
#pragma unroll
          for (int j = 0; j < 4; j++) {
            const int c = warp_column + j * 8 + g;
            y[j][0] = right_at(s + t, c), y[j][1] = right_at(s + t + 4, c);
          }
#pragma unroll
          for (int i = 0; i < 4; i++)
#pragma unroll
            for (int j = 0; j < 4; j++) products_mma_tf32(sum[i][j], x[i], y[j]);
        }
      }
    }
    copies_wait<0>();
    __syncthreads();

    const long long begin = (split * (long long)batch + item) * stride_out;
    auto put = [&](int row, int column, float x) {
      if (row >= m || column >= n) return;
      if (bias) x += out16 ? to_float(static_cast<const T *>(bias)[column]) : static_cast<const float *>(bias)[column];
      const long long at = begin + row * (long long)n + column;
      if (out16)
        static_cast<T *>(out)[at] = from_float<T>(x);
      else
        static_cast<float *>(out)[at] = x;
    };
#pragma unroll
    for (int i = 0; i < 4; i++)
#pragma unroll
      for (int j = 0; j < 4; j++) {
        const int row = row0 + warp_row + i * 16 + g, column = column0 + warp_column + j * 8 + 2 * t;
        put(row, column, sum[i][j][0]);
        put(row, column + 1, sum[i][j][1]);
        put(row + 8, column, sum[i][j][2]);
        put(row + 8, column + 1, sum[i][j][3]);
      }
  }
}

#define PRODUCTS_MMA(NAME, T, TA, TB)                                                                                  \
  extern "C" __global__ void __launch_bounds__(256)                                                                    \
      NAME(const T *a, const T *b, void *out, const void *bias, int m, int n, int k, long long stride_a,               \
           long long stride_b, long long stride_out, int batch, int splits, int per_split, int aligned_a,              \
           int aligned_b, int out16) {                                                                                 \
    products_mma<T, TA, TB>(a, b, out, bias, m, n, k, stride_a, stride_b, stride_out, batch, splits, per_split,        \
                            aligned_a, aligned_b, out16);                                                              \
  }
PRODUCTS_MMA(products_mma_bf16_nn, bf16, false, false)
PRODUCTS_MMA(products_mma_bf16_nt, bf16, false, true)
PRODUCTS_MMA(products_mma_bf16_tn, bf16, true, false)
PRODUCTS_MMA(products_mma_bf16_tt, bf16, true, true)
PRODUCTS_MMA(products_mma_f16_nn, __half, false, false)
PRODUCTS_MMA(products_mma_f16_nt, __half, false, true)
PRODUCTS_MMA(products_mma_f16_tn, __half, true, false)
PRODUCTS_MMA(products_mma_f16_tt, __half, true, true)
PRODUCTS_MMA(products_mma_tf32_nn, float, false, false)
PRODUCTS_MMA(products_mma_tf32_nt, float, false, true)
PRODUCTS_MMA(products_mma_tf32_tn, float, true, false)
PRODUCTS_MMA(products_mma_tf32_tt, float, true, true)
