// Counters in memory by which blocks of one launch know of each other: what a block wrote before a release is visible to
// whoever waits for the count. In the emulator blocks run one after the other, and nothing is waited for.
#pragma once
#include "common.cuh"

#ifdef D2DMOE_EMULATED

inline unsigned counter_add(unsigned *counter, unsigned more) {
  const unsigned before = *counter;
  *counter += more;
  return before;
}
inline void counter_release(unsigned *counter, unsigned more) { *counter += more; }
inline void counter_wait(const unsigned *, unsigned) {}

#else

__device__ __forceinline__ unsigned counter_add(unsigned *counter, unsigned more) {
  unsigned before;
  asm volatile("atom.relaxed.gpu.global.add.u32 %0, [%1], %2;" : "=r"(before) : "l"(counter), "r"(more) : "memory");
  return before;
}
__device__ __forceinline__ void counter_release(unsigned *counter, unsigned more) {
  asm volatile("red.release.gpu.global.add.u32 [%0], %1;" ::"l"(counter), "r"(more) : "memory");
}
// Until the counter, which may run over, has come to `target`.
__device__ __forceinline__ void counter_wait(const unsigned *counter, unsigned target) {
  unsigned now;
  do {
    asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(now) : "l"(counter) : "memory");
  } while ((int)(now - target) < 0);
}

#endif
