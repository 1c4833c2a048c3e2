// From a warpgroup's sums to memory: rounding to 16 bits, and an exchange between lanes that gives each 16 contiguous bytes.
#pragma once
#include "common.cuh"

#ifndef D2DMOE_EMULATED
#include <type_traits>

template <typename T> __device__ __forceinline__ unsigned hopper_pack(float low, float high);
template <> __device__ __forceinline__ unsigned hopper_pack<bf16>(float low, float high) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
  return *reinterpret_cast<const unsigned *>(&pair);
}
template <> __device__ __forceinline__ unsigned hopper_pack<__half>(float low, float high) {
  const __half2 pair = __floats2half2_rn(low, high);
  return *reinterpret_cast<const unsigned *>(&pair);
}
// The same of values below 0 as 0; NaN stays NaN.
template <typename T> __device__ __forceinline__ unsigned hopper_pack_relu(float low, float high) {
  unsigned pair;
  if constexpr (std::is_same<T, bf16>::value)
    asm("cvt.rn.relu.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  else
    asm("cvt.rn.relu.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
}

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
#endif
