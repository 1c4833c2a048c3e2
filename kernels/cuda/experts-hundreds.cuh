// What the kernels of some hundred rows have of their own beside hopper.cuh: what a block sends to its cluster's others,
// and counters between blocks. In the emulator blocks run one after the other, so that none of it does anything there.
#pragma once
#include "experts-units.cuh"
#include "hopper-activations.cuh"
#include "hopper.cuh"

#ifndef PROBE
#define PROBE(i)
#define PROBE_BEGIN(key)
#endif

#ifdef D2DMOE_EMULATED

constexpr bool EXPERTS_EMULATED = true;
inline void experts_count_release(unsigned *, unsigned) {}
inline unsigned experts_count(unsigned *, unsigned) { return 0; }
inline void experts_wait_count(const unsigned *, unsigned) {}
inline void experts_add(float *to, float4 v) { to[0] += v.x, to[1] += v.y, to[2] += v.z, to[3] += v.w; }

#else

constexpr bool EXPERTS_EMULATED = false;
// Counters in memory: what was written before a release is visible to whoever sees the count.
__device__ __forceinline__ void experts_count_release(unsigned *counter, unsigned more) {
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

#endif
