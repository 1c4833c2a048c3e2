// What every kernel file includes: the 16-bit types, dynamic shared memory, the loop over a grid, reductions of a warp
// and of a block, 16-byte vectors. The same files are compiled by g++ for the emulator, which defines
// D2DMOE_EMULATED and supplies CUDA's own names in cuda-emulated.h.
#pragma once

#ifdef D2DMOE_EMULATED
#include "cuda-emulated.h"
#else
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#define DYNAMIC_SHARED(T, name)                                  \
  extern __shared__ __align__(16) unsigned char dynamic_shared[]; \
  T *name = reinterpret_cast<T *>(dynamic_shared)
#endif

#include <math.h>

typedef __nv_bfloat16 bf16;

// One kernel that takes part in a module: its name is looked up by cuModuleGetFunction and must be unique.
#define KERNEL extern "C" __global__ void

// for (GRID_LOOP(i, n)) { ... }: every i < n once over the whole grid, with 64-bit counts.
#define GRID_LOOP(i, n)                                                                      \
  long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x; i < (long long)(n);        \
  i += (long long)gridDim.x * blockDim.x

// Four 16-bit values in 8 bytes, eight in 16.
struct __align__(8) bf16x4 {
  bf16 x, y, z, w;
};
struct __align__(16) bf16x8 {
  bf16 v[8];
};

// Reads and writes as float32 whatever the storage is.
__device__ __forceinline__ float to_float(float x) { return x; }
__device__ __forceinline__ float to_float(bf16 x) { return __bfloat162float(x); }
__device__ __forceinline__ float to_float(__half x) { return __half2float(x); }
template <typename T> __device__ __forceinline__ T from_float(float x);
template <> __device__ __forceinline__ float from_float<float>(float x) { return x; }
template <> __device__ __forceinline__ bf16 from_float<bf16>(float x) { return __float2bfloat16(x); }
template <> __device__ __forceinline__ __half from_float<__half>(float x) { return __float2half(x); }

// Sum over the 32 lanes of a warp; every lane gets it.
template <typename T> __device__ __forceinline__ T warp_sum(T x) {
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) x += __shfl_xor_sync(0xffffffffu, x, offset);
  return x;
}

// Sum over the lanes of a warp up to this one, its own value included.
template <typename T> __device__ __forceinline__ T warp_sum_upto(T x) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int offset = 1; offset < 32; offset *= 2) {
    const T other = __shfl_up_sync(0xffffffffu, x, offset);
    if (lane >= offset) x += other;
  }
  return x;
}

// The greatest over a warp, ignoring NaN as fmaxf does.
__device__ __forceinline__ float warp_max(float x) {
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, offset));
  return x;
}

// Sum over a block of whole warps (at most 1024 threads); every thread gets it. `shared` has room for 32 values and may
// be used again after the next __syncthreads.
template <typename T> __device__ __forceinline__ T block_sum(T x, T *shared) {
  x = warp_sum(x);
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, warps = blockDim.x / 32;
  if (lane == 0) shared[warp] = x;
  __syncthreads();
  x = lane < warps ? shared[lane] : T(0);
  x = warp_sum(x);
  __syncthreads();
  return x;
}

// As block_sum, for the greatest.
__device__ __forceinline__ float block_max(float x, float *shared) {
  x = warp_max(x);
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, warps = blockDim.x / 32;
  if (lane == 0) shared[warp] = x;
  __syncthreads();
  x = lane < warps ? shared[lane] : -INFINITY;
  x = warp_max(x);
  __syncthreads();
  return x;
}
