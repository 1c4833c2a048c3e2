// A warp's matrix instructions (mma.sync and ldmatrix) on bf16 and fp16, and 16-byte copies to shared memory that do not
// wait.
// The emulator gets the same by exchanging registers between lanes, so that kernels need no second form.
//
// Fragments, with g = lane / 4 and t = lane % 4:
//   A 16×16: a[0] row g, a[1] row g + 8, columns 2t and 2t + 1; a[2], a[3] the same rows, 8 columns on
//   B 16×8:  b0 rows 2t and 2t + 1, b1 8 rows on; column g
//   C 16×8:  c[0], c[1] row g, columns 2t and 2t + 1; c[2], c[3] row g + 8
#pragma once
#include "common.cuh"

#include <type_traits>

__device__ __forceinline__ unsigned pack_bf16(float low, float high) {
  const unsigned x = __bfloat16_as_ushort(__float2bfloat16(low)), y = __bfloat16_as_ushort(__float2bfloat16(high));
  return x | y << 16;
}

#ifdef D2DMOE_EMULATED

template <typename T> __device__ inline void mma_16(float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
  const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  auto of = [](unsigned pair, int half) { return to_float(reinterpret_cast<const T *>(&pair)[half]); };
  for (int k = 0; k < 16; k += 2) {
    const int source = k % 8 / 2, upper = k / 8;
    const unsigned top = __shfl_sync(~0u, a[2 * upper], g * 4 + source);
    const unsigned bottom = __shfl_sync(~0u, a[2 * upper + 1], g * 4 + source);
    const unsigned left = __shfl_sync(~0u, upper ? b1 : b0, 2 * t * 4 + source);
    const unsigned right = __shfl_sync(~0u, upper ? b1 : b0, (2 * t + 1) * 4 + source);
    for (int half = 0; half < 2; half++) {
      c[0] += of(top, half) * of(left, half);
      c[1] += of(top, half) * of(right, half);
      c[2] += of(bottom, half) * of(left, half);
      c[3] += of(bottom, half) * of(right, half);
    }
  }
}

// The 8×8 matrix whose rows are at lanes 8m … 8m + 7's addresses goes to r[m].
__device__ inline void load_matrices(unsigned (&r)[4], const void *row) {
  const int lane = threadIdx.x % 32;
  for (int m = 0; m < 4; m++) {
    const auto from = __shfl_sync(~0u, (unsigned long long)row, m * 8 + lane / 4);
    r[m] = reinterpret_cast<const unsigned *>(from)[lane % 4];
  }
}
__device__ inline void load_matrices_transposed(unsigned (&r)[4], const void *row) {
  const int lane = threadIdx.x % 32;
  for (int m = 0; m < 4; m++) {
    const auto low = __shfl_sync(~0u, (unsigned long long)row, m * 8 + lane % 4 * 2);
    const auto high = __shfl_sync(~0u, (unsigned long long)row, m * 8 + lane % 4 * 2 + 1);
    r[m] = reinterpret_cast<const unsigned short *>(low)[lane / 4] |
           (unsigned)reinterpret_cast<const unsigned short *>(high)[lane / 4] << 16;
  }
}

__device__ inline void copy16(void *to, const void *from, bool valid) {
  *reinterpret_cast<uint4 *>(to) = valid ? *reinterpret_cast<const uint4 *>(from) : make_uint4(0, 0, 0, 0);
}
__device__ inline void copies_commit() {}
template <int PENDING> __device__ inline void copies_wait() {}

#else

#define MMA_16(TYPE)                                                                                                \
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32." TYPE "." TYPE ".f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, " \
               "{%8, %9}, {%0, %1, %2, %3};"                                                                      \
               : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])                                                   \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1))
// c += a · b.
template <typename T> __device__ __forceinline__ void mma_16(float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
  if constexpr (std::is_same<T, bf16>::value)
    MMA_16("bf16");
  else
    MMA_16("f16");
}
#undef MMA_16

__device__ __forceinline__ void load_matrices(unsigned (&r)[4], const void *row) {
  const unsigned at = (unsigned)__cvta_generic_to_shared(row);
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(at)
               : "memory");
}
__device__ __forceinline__ void load_matrices_transposed(unsigned (&r)[4], const void *row) {
  const unsigned at = (unsigned)__cvta_generic_to_shared(row);
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(at)
               : "memory");
}

// 16 bytes to shared memory in the background, zeros where they are not valid.
__device__ __forceinline__ void copy16(void *to, const void *from, bool valid) {
  const unsigned at = (unsigned)__cvta_generic_to_shared(to);
  const int bytes = valid ? 16 : 0;
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(at), "l"(from), "r"(bytes) : "memory");
}
__device__ __forceinline__ void copies_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Until all but the latest PENDING groups of this thread have arrived; a barrier makes them visible to the others.
template <int PENDING> __device__ __forceinline__ void copies_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
}

#endif

// Where a lane's row of four 8×8 matrices lies, for a tile in shared memory of `pitch` elements a row.
//
// A from rows [16 of m][16 of k], with load_matrices.
__device__ __forceinline__ const bf16 *a_rows(const bf16 *tile, int pitch, int row, int k) {
  const int lane = threadIdx.x % 32;
  return tile + (row + lane % 16) * pitch + k + lane / 16 * 8;
}
// B of two neighbouring 16×8 tiles from rows [16 of n][16 of k], with load_matrices: r[0], r[1] columns n …, r[2], r[3]
// columns n + 8 ….
__device__ __forceinline__ const bf16 *b_rows(const bf16 *tile, int pitch, int n, int k) {
  const int lane = threadIdx.x % 32;
  return tile + (n + lane / 16 * 8 + lane % 8) * pitch + k + lane / 8 % 2 * 8;
}
// The same from rows [16 of k][16 of n], with load_matrices_transposed.
__device__ __forceinline__ const bf16 *b_columns(const bf16 *tile, int pitch, int k, int n) {
  const int lane = threadIdx.x % 32;
  return tile + (k + lane / 8 % 2 * 8 + lane % 8) * pitch + n + lane / 16 * 8;
}
