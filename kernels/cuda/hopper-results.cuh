// From a warpgroup's sums to memory: an exchange between lanes that gives each 16 contiguous bytes.
#pragma once
#include "common.cuh"

// Of four neighbouring lanes, lane t gives w[j] for lane j and gets, as w[j], what lane j gave for it. With w[j] the sums
// of columns 8j + 2t and the next, lane t then holds columns 8t to 8t + 7.
__device__ __forceinline__ void hopper_exchange(unsigned (&w)[4], int t) {
  const bool odd = t & 1, upper = t & 2;
#pragma unroll
  for (int i = 0; i < 4; i += 2) {
    const unsigned got = __shfl_xor_sync(0xffffffffu, odd ? w[i] : w[i + 1], 1);
    w[i] = odd ? got : w[i];
    w[i + 1] = odd ? w[i + 1] : got;
  }
#pragma unroll
  for (int i = 0; i < 2; i++) {
    const unsigned got = __shfl_xor_sync(0xffffffffu, upper ? w[i] : w[i + 2], 2);
    w[i] = upper ? got : w[i];
    w[i + 2] = upper ? w[i + 2] : got;
  }
}
