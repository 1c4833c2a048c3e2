// What experts-hundreds.sm90a.cu has of its own beside hopper.cuh: a cluster's barrier and stores to its other blocks'
// shared memory, products of a warp, counters between blocks. The emulator gets counterparts; its
// blocks run one after the other, so barriers of clusters and counters do nothing there.
#pragma once
#include "experts-units.cuh"
#include "hopper-activations.cuh"
#include "hopper.cuh"

constexpr int EXPERTS_HUNDREDS_WARPS = 8, EXPERTS_HUNDREDS_THREADS = 256;
constexpr int EXPERTS_HUNDREDS_ROWS = 1024;     // most rows
constexpr int EXPERTS_HUNDREDS_FILLERS = 64;    // blocks that fill the output: these are resident together whatever the grid
enum { EXPERTS_HUNDREDS_HIDDEN = 1, EXPERTS_HUNDREDS_OUT = 2, EXPERTS_HUNDREDS_EARLY = 4 };

#ifndef PROBE
#define PROBE(i)
#endif

#ifdef D2DMOE_EMULATED

constexpr bool EXPERTS_EMULATED = true;
inline void experts_cluster_arrive() {}
inline void experts_cluster_wait() {}
inline void experts_count_release(unsigned *, unsigned) {}
inline unsigned experts_count(unsigned *, unsigned) { return 0; }
inline void experts_wait_count(const unsigned *, unsigned) {}
inline void experts_add(float *to, float4 v) { to[0] += v.x, to[1] += v.y, to[2] += v.z, to[3] += v.w; }
inline void experts_copies_commit() {}
template <int PENDING = 0> inline void experts_copies_landed() {}
template <typename T> inline float experts_half(unsigned pair, int high) {
  T values[2];
  memcpy(values, &pair, 4);
  return (float)values[high];
}
template <typename T> inline void experts_mma(float (&c)[4], unsigned a0, unsigned a1, unsigned a2, unsigned a3, unsigned b0, unsigned b1) {
  const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  for (int k = 0; k < 16; k += 2) {
    const int source = k % 8 / 2, upper = k / 8;
    const unsigned top = __shfl_sync(~0u, upper ? a2 : a0, g * 4 + source), bottom = __shfl_sync(~0u, upper ? a3 : a1, g * 4 + source);
    const unsigned left = __shfl_sync(~0u, upper ? b1 : b0, 2 * t * 4 + source), right = __shfl_sync(~0u, upper ? b1 : b0, (2 * t + 1) * 4 + source);
    for (int half = 0; half < 2; half++) {
      c[0] += experts_half<T>(top, half) * experts_half<T>(left, half), c[1] += experts_half<T>(top, half) * experts_half<T>(right, half);
      c[2] += experts_half<T>(bottom, half) * experts_half<T>(left, half), c[3] += experts_half<T>(bottom, half) * experts_half<T>(right, half);
    }
  }
}
template <typename T> inline void experts_load(unsigned (&r)[4], const T *row) {
  const int lane = threadIdx.x % 32;
  for (int m = 0; m < 4; m++) r[m] = reinterpret_cast<const unsigned *>(__shfl_sync(~0u, (unsigned long long)row, m * 8 + lane / 4))[lane % 4];
}
template <typename T> inline void experts_load_transposed(unsigned (&r)[4], const T *row) {
  const int lane = threadIdx.x % 32;
  for (int m = 0; m < 4; m++) {
    const auto low = __shfl_sync(~0u, (unsigned long long)row, m * 8 + lane % 4 * 2), high = __shfl_sync(~0u, (unsigned long long)row, m * 8 + lane % 4 * 2 + 1);
    r[m] = reinterpret_cast<const unsigned short *>(low)[lane / 4] | (unsigned)reinterpret_cast<const unsigned short *>(high)[lane / 4] << 16;
  }
}

#else

constexpr bool EXPERTS_EMULATED = false;
// The cluster's barrier: what a block wrote to others' shared memory before it arrives is there when they have waited.
__device__ __forceinline__ void experts_cluster_arrive() { asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory"); }
__device__ __forceinline__ void experts_cluster_wait() { asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory"); }
__device__ __forceinline__ void experts_cluster_store(unsigned address, int block, uint2 v) {
  unsigned there;
  asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(address), "r"(block));
  asm volatile("st.shared::cluster.v2.b32 [%0], {%1, %2};" ::"r"(there), "r"(v.x), "r"(v.y) : "memory");
}
__device__ __forceinline__ void experts_cluster_store4(unsigned address, int block, float4 v) {
  unsigned there;
  asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(address), "r"(block));
  asm volatile("st.shared::cluster.v4.f32 [%0], {%1, %2, %3, %4};" ::"r"(there), "f"(v.x), "f"(v.y), "f"(v.z), "f"(v.w) : "memory");
}

// Counters in memory: what was written before a release is visible to whoever sees the count.
__device__ __forceinline__ void experts_count_release(unsigned *counter, unsigned more) {
  __threadfence();
  asm volatile("red.release.gpu.global.add.u32 [%0], %1;" ::"l"(counter), "r"(more) : "memory");
}
__device__ __forceinline__ unsigned experts_count(unsigned *counter, unsigned more) {
  unsigned before;
  asm volatile("atom.relaxed.gpu.global.add.u32 %0, [%1], %2;" : "=r"(before) : "l"(counter), "r"(more) : "memory");
  return before;
}
__device__ __forceinline__ void experts_wait_count(const unsigned *counter, unsigned target) {
  unsigned now;
  do {
    asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(now) : "l"(counter) : "memory");
  } while ((int)(now - target) < 0);
}

__device__ __forceinline__ void experts_add(float *to, float4 v) {
  asm volatile("red.relaxed.gpu.global.add.v4.f32 [%0], {%1, %2, %3, %4};" ::"l"(to), "f"(v.x), "f"(v.y), "f"(v.z), "f"(v.w) : "memory");
}
// Ends a group of this thread's 16-byte copies; until all groups but the last few have landed.
__device__ __forceinline__ void experts_copies_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int PENDING> __device__ __forceinline__ void experts_copies_landed() {
  asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
}

// c += a · b, 16 x 8 sums of a warp, 16 deep; fragments as in tensor-core.cuh.
template <typename T> __device__ __forceinline__ void experts_mma(float (&c)[4], unsigned a0, unsigned a1, unsigned a2, unsigned a3, unsigned b0, unsigned b1) {
  if constexpr (std::is_same<T, bf16>::value)
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
  else
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}
// Four 8 x 8 matrices, each of the rows at eight lanes' addresses.
template <typename T> __device__ __forceinline__ void experts_load(unsigned (&r)[4], const T *row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];" : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(hopper_address(row)) : "memory");
}
template <typename T> __device__ __forceinline__ void experts_load_transposed(unsigned (&r)[4], const T *row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];" : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(hopper_address(row)) : "memory");
}

#endif
