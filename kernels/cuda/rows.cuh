// What the kernels over rows share: four neighbouring values of either storage as float32, and reductions over the
// threads that share a row.
#pragma once
#include "common.cuh"

__device__ __forceinline__ float4 load4(const float *p) { return *reinterpret_cast<const float4 *>(p); }
__device__ __forceinline__ float4 load4(const bf16 *p) {
  const bf16x4 v = *reinterpret_cast<const bf16x4 *>(p);
  return make_float4(to_float(v.x), to_float(v.y), to_float(v.z), to_float(v.w));
}
__device__ __forceinline__ void store4(float *p, float4 v) { *reinterpret_cast<float4 *>(p) = v; }
__device__ __forceinline__ void store4(bf16 *p, float4 v) {
  bf16x4 packed;
  packed.x = from_float<bf16>(v.x);
  packed.y = from_float<bf16>(v.y);
  packed.z = from_float<bf16>(v.z);
  packed.w = from_float<bf16>(v.w);
  *reinterpret_cast<bf16x4 *>(p) = packed;
}

// Sum, or the greatest, over the threads of a row: one warp, or the whole block. `shared` has room for 32 values.
template <int THREADS> __device__ __forceinline__ float row_sum(float x, float *shared) {
  if (THREADS == 32) return warp_sum(x);
  return block_sum(x, shared);
}
template <int THREADS> __device__ __forceinline__ float row_max(float x, float *shared) {
  if (THREADS == 32) return warp_max(x);
  return block_max(x, shared);
}
