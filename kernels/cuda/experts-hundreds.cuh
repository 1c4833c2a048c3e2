// What the kernels of some hundred rows have of their own beside hopper.cuh.
#pragma once
#include "counters.cuh"
#include "experts-units.cuh"
#include "hopper-activations.cuh"
#include "hopper.cuh"

#ifndef PROBE
#define PROBE(i)
#define PROBE_BEGIN(key)
#endif

#ifdef D2DMOE_EMULATED

constexpr bool EXPERTS_EMULATED = true;
inline void experts_add(float *to, float4 v) { to[0] += v.x, to[1] += v.y, to[2] += v.z, to[3] += v.w; }

#else

constexpr bool EXPERTS_EMULATED = false;
__device__ __forceinline__ void experts_add(float *to, float4 v) {
  asm volatile("red.relaxed.gpu.global.add.v4.f32 [%0], {%1, %2, %3, %4};" ::"l"(to), "f"(v.x), "f"(v.y), "f"(v.z), "f"(v.w) : "memory");
}

#endif
