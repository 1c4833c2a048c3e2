// CUDA C++ as g++ can compile it. The build puts this file before every kernel file; what comes after its last line is
// the kernel file's own text. Kernels run one thread at a time, so plain memory operations are atomic here.
#pragma once

#include <assert.h>
#include <float.h>
#include <limits.h>
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cfloat>
#include <climits>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>
#include <utility>

// Attributes that the build finds again in the preprocessed text.
#define __global__ __attribute__((emulated_global))
#define __shared__ __attribute__((emulated_shared))

#define __device__
#define __host__
#define __constant__
#define __managed__
#define __grid_constant__
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)
#define __cluster_dims__(...)
#define __align__(n) __attribute__((aligned(n)))
#define __builtin_align__(n) __attribute__((aligned(n)))

// Vector types, aligned as CUDA aligns them: a misaligned access is found.
#define EMULATED_VECTORS(T, name, a2, a4)                                       \
  struct name##1 { T x; };                                                      \
  struct alignas(a2) name##2 { T x, y; };                                       \
  struct name##3 { T x, y, z; };                                                \
  struct alignas(a4) name##4 { T x, y, z, w; };                                 \
  inline name##1 make_##name##1(T x) { return {x}; }                            \
  inline name##2 make_##name##2(T x, T y) { return {x, y}; }                    \
  inline name##3 make_##name##3(T x, T y, T z) { return {x, y, z}; }            \
  inline name##4 make_##name##4(T x, T y, T z, T w) { return {x, y, z, w}; }
EMULATED_VECTORS(signed char, char, 2, 4)
EMULATED_VECTORS(unsigned char, uchar, 2, 4)
EMULATED_VECTORS(short, short, 4, 8)
EMULATED_VECTORS(unsigned short, ushort, 4, 8)
EMULATED_VECTORS(int, int, 8, 16)
EMULATED_VECTORS(unsigned int, uint, 8, 16)
EMULATED_VECTORS(long long, longlong, 16, 16)
EMULATED_VECTORS(unsigned long long, ulonglong, 16, 16)
EMULATED_VECTORS(float, float, 8, 16)
EMULATED_VECTORS(double, double, 16, 16)
#undef EMULATED_VECTORS

struct dim3 {
  unsigned int x = 1, y = 1, z = 1;
};

#include "engine.h"

#define threadIdx (emulator::thread)
#define blockIdx (emulator::block)
#define blockDim (emulator::blockSize)
#define gridDim (emulator::gridSize)
constexpr int warpSize = 32;

// The dynamic shared memory of the block, as an array of T.
#define DYNAMIC_SHARED(T, name) T* name = reinterpret_cast<T*>(emulator::sharedMemory)

// Barriers and warps.
inline void __syncthreads() { emulator::barrier(0); }
inline int __syncthreads_count(int predicate) { return emulator::barrier(predicate != 0).count; }
inline int __syncthreads_or(int predicate) { return emulator::barrier(predicate != 0).count > 0; }
inline int __syncthreads_and(int predicate) {
  emulator::BarrierResult result = emulator::barrier(predicate != 0);
  return result.count == result.threads;
}
inline void __syncwarp(unsigned mask = ~0u) { emulator::warp(emulator::WarpOp::sync, mask, 0, 0); }
inline unsigned __ballot_sync(unsigned mask, int predicate) {
  return (unsigned)emulator::warp(emulator::WarpOp::ballot, mask, predicate != 0, 0);
}
inline int __any_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) != 0; }
inline int __all_sync(unsigned mask, int predicate) { return __ballot_sync(mask, !predicate) == 0; }
inline unsigned __activemask() { return emulator::liveLanes(); }

namespace emulator {
template <class T>
inline T exchange(unsigned mask, T value, int source) {
  static_assert(sizeof(T) <= 8, "a shuffle moves at most 8 bytes");
  uint64_t bits = 0;
  memcpy(&bits, &value, sizeof(T));
  bits = warp(WarpOp::shuffle, mask, bits, source);
  memcpy(&value, &bits, sizeof(T));
  return value;
}
template <class T>
inline T reduce(WarpOp op, unsigned mask, T value) {
  return (T)warp(op, mask, (uint64_t)(int64_t)value, 0);
}
}  // namespace emulator

template <class T>
inline T __shfl_sync(unsigned mask, T value, int source, int width = 32) {
  int lane = emulator::lane();
  return emulator::exchange(mask, value, (lane & ~(width - 1)) + (source & (width - 1)));
}
template <class T>
inline T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32) {
  int lane = emulator::lane(), source = lane - (int)delta;
  return emulator::exchange(mask, value, source < (lane & ~(width - 1)) ? lane : source);
}
template <class T>
inline T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32) {
  int lane = emulator::lane(), source = lane + (int)delta;
  return emulator::exchange(mask, value, source > (lane | (width - 1)) ? lane : source);
}
template <class T>
inline T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32) {
  int lane = emulator::lane(), source = lane ^ bits;
  return emulator::exchange(mask, value, source > (lane | (width - 1)) ? lane : source);
}
inline unsigned __match_any_sync(unsigned mask, uint64_t value) {
  return (unsigned)emulator::warp(emulator::WarpOp::match, mask, value, 0);
}
template <class T>
inline T __reduce_add_sync(unsigned mask, T value) {
  return emulator::reduce(emulator::WarpOp::add, mask, value);
}
template <class T>
inline T __reduce_max_sync(unsigned mask, T value) {
  return emulator::reduce(emulator::WarpOp::max, mask, value);
}
template <class T>
inline T __reduce_min_sync(unsigned mask, T value) {
  return emulator::reduce(emulator::WarpOp::min, mask, value);
}
inline void __threadfence() {}
inline void __threadfence_block() {}
inline void __threadfence_system() {}
inline void __nanosleep(unsigned) {}
[[noreturn]] inline void __trap() { emulator::trap(); }

// Atomics.
namespace emulator {
template <class T>
struct Same {
  using type = T;
};
template <class T, class F>
inline T exchangeWith(T* address, F&& next) {
  T old = *address;
  *address = next(old);
  return old;
}
}  // namespace emulator
#define EMULATED_ATOMIC(name, expression)                                                   \
  template <class T>                                                                        \
  inline T name(T* address, typename emulator::Same<T>::type value) {                       \
    return emulator::exchangeWith(address, [=](T old) -> T { return expression; });         \
  }                                                                                         \
  template <class T>                                                                        \
  inline T name##_block(T* address, typename emulator::Same<T>::type value) {               \
    return name(address, value);                                                            \
  }
EMULATED_ATOMIC(atomicAdd, old + value)
EMULATED_ATOMIC(atomicSub, old - value)
EMULATED_ATOMIC(atomicExch, value)
EMULATED_ATOMIC(atomicMax, old < value ? value : old)
EMULATED_ATOMIC(atomicMin, value < old ? value : old)
EMULATED_ATOMIC(atomicAnd, old & value)
EMULATED_ATOMIC(atomicOr, old | value)
EMULATED_ATOMIC(atomicXor, old ^ value)
EMULATED_ATOMIC(atomicInc, old >= value ? 0 : old + 1)
EMULATED_ATOMIC(atomicDec, old == 0 || old > value ? value : old - 1)
#undef EMULATED_ATOMIC
template <class T>
inline T atomicCAS(T* address, typename emulator::Same<T>::type expected,
                   typename emulator::Same<T>::type value) {
  return emulator::exchangeWith(address, [=](T old) { return old == expected ? value : old; });
}

// Loads and stores with a cache hint are plain ones.
template <class T>
inline T __ldg(const T* address) { return *address; }
template <class T>
inline T __ldcs(const T* address) { return *address; }
template <class T>
inline T __ldcg(const T* address) { return *address; }
template <class T>
inline T __ldca(const T* address) { return *address; }
template <class T>
inline T __ldlu(const T* address) { return *address; }
template <class T>
inline T __ldcv(const T* address) { return *address; }
template <class T>
inline void __stcs(T* address, typename emulator::Same<T>::type value) { *address = value; }
template <class T>
inline void __stcg(T* address, typename emulator::Same<T>::type value) { *address = value; }
template <class T>
inline void __stwb(T* address, typename emulator::Same<T>::type value) { *address = value; }
template <class T>
inline void __stwt(T* address, typename emulator::Same<T>::type value) { *address = value; }

// Bits.
namespace emulator {
template <class To, class From>
inline To bits(From value) {
  static_assert(sizeof(To) == sizeof(From), "sizes differ");
  To result;
  memcpy(&result, &value, sizeof(To));
  return result;
}
}  // namespace emulator
inline int __float_as_int(float x) { return emulator::bits<int>(x); }
inline unsigned __float_as_uint(float x) { return emulator::bits<unsigned>(x); }
inline float __int_as_float(int x) { return emulator::bits<float>(x); }
inline float __uint_as_float(unsigned x) { return emulator::bits<float>(x); }
inline long long __double_as_longlong(double x) { return emulator::bits<long long>(x); }
inline double __longlong_as_double(long long x) { return emulator::bits<double>(x); }
inline int __clz(int x) { return x == 0 ? 32 : __builtin_clz((unsigned)x); }
inline int __clzll(long long x) { return x == 0 ? 64 : __builtin_clzll((unsigned long long)x); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __ffsll(long long x) { return __builtin_ffsll(x); }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
inline unsigned __brev(unsigned x) {
  unsigned result = 0;
  for (int i = 0; i < 32; ++i) result |= ((x >> i) & 1u) << (31 - i);
  return result;
}
inline unsigned __umulhi(unsigned a, unsigned b) { return (unsigned)(((uint64_t)a * b) >> 32); }
inline int __mulhi(int a, int b) { return (int)(((int64_t)a * b) >> 32); }
inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
  return (unsigned long long)(((unsigned __int128)a * b) >> 64);
}
inline unsigned __funnelshift_l(unsigned low, unsigned high, unsigned shift) {
  return (unsigned)((((uint64_t)high << 32 | low) << (shift & 31)) >> 32);
}
inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned shift) {
  return (unsigned)(((uint64_t)high << 32 | low) >> (shift & 31));
}

// Arithmetic with its rounding in the name. What rounds up or down has no caller here.
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
inline float __fsqrt_rn(float x) { return sqrtf(x); }
inline float __frcp_rn(float x) { return 1.0f / x; }
inline double __dadd_rn(double a, double b) { return a + b; }
inline double __dmul_rn(double a, double b) { return a * b; }
inline double __fma_rn(double a, double b, double c) { return fma(a, b, c); }

// Conversions of floats to ints saturate, and NaN gives 0, as the card has it.
namespace emulator {
template <class I, class F>
inline I saturate(F x) {
  if (x != x) return 0;
  if (x >= (F)std::numeric_limits<I>::max()) return std::numeric_limits<I>::max();
  if (x <= (F)std::numeric_limits<I>::min()) return std::numeric_limits<I>::min();
  return (I)x;
}
}  // namespace emulator
inline int __float2int_rz(float x) { return emulator::saturate<int>(truncf(x)); }
inline int __float2int_rn(float x) { return emulator::saturate<int>(nearbyintf(x)); }
inline int __float2int_rd(float x) { return emulator::saturate<int>(floorf(x)); }
inline int __float2int_ru(float x) { return emulator::saturate<int>(ceilf(x)); }
inline unsigned __float2uint_rz(float x) { return emulator::saturate<unsigned>(truncf(x)); }
inline unsigned __float2uint_rn(float x) { return emulator::saturate<unsigned>(nearbyintf(x)); }
inline long long __float2ll_rz(float x) { return emulator::saturate<long long>(truncf(x)); }
inline long long __float2ll_rn(float x) { return emulator::saturate<long long>(nearbyintf(x)); }
inline int __double2int_rz(double x) { return emulator::saturate<int>(trunc(x)); }
inline int __double2int_rn(double x) { return emulator::saturate<int>(nearbyint(x)); }
inline long long __double2ll_rz(double x) { return emulator::saturate<long long>(trunc(x)); }
inline float __double2float_rn(double x) { return (float)x; }
inline float __int2float_rn(int x) { return (float)x; }
inline float __uint2float_rn(unsigned x) { return (float)x; }
inline float __ll2float_rn(long long x) { return (float)x; }
inline float __ull2float_rn(unsigned long long x) { return (float)x; }
inline double __int2double_rn(int x) { return (double)x; }

// The fast ones are exact here: a kernel's error on the card is larger than on the emulator.
inline float __expf(float x) { return expf(x); }
inline float __exp10f(float x) { return exp10f(x); }
inline float __logf(float x) { return logf(x); }
inline float __log2f(float x) { return log2f(x); }
inline float __log10f(float x) { return log10f(x); }
inline float __sinf(float x) { return sinf(x); }
inline float __cosf(float x) { return cosf(x); }
inline float __tanf(float x) { return tanf(x); }
inline float __tanhf(float x) { return tanhf(x); }
inline float __powf(float x, float y) { return powf(x, y); }
inline float __fdividef(float a, float b) { return a / b; }
inline float __frsqrt_rn(float x) { return 1.0f / sqrtf(x); }
inline float __saturatef(float x) { return x != x ? 0.0f : x < 0.0f ? 0.0f : x > 1.0f ? 1.0f : x; }
inline void __sincosf(float x, float* s, float* c) { sincosf(x, s, c); }
inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
inline double rsqrt(double x) { return 1.0 / sqrt(x); }
inline float sinpif(float x) { return (float)sin(3.14159265358979323846 * x); }
inline float cospif(float x) { return (float)cos(3.14159265358979323846 * x); }
inline double sinpi(double x) { return sin(3.14159265358979323846 * x); }
inline double cospi(double x) { return cos(3.14159265358979323846 * x); }
inline void sincospif(float x, float* s, float* c) { *s = sinpif(x), *c = cospif(x); }
inline void sincospi(double x, double* s, double* c) { *s = sinpi(x), *c = cospi(x); }
inline float normcdff(float x) { return (float)(0.5 * erfc(-x * 0.70710678118654752440)); }
inline float fdividef(float a, float b) { return a / b; }

#define EMULATED_MIN_MAX(T)                              \
  inline T min(T a, T b) { return b < a ? b : a; }       \
  inline T max(T a, T b) { return a < b ? b : a; }
EMULATED_MIN_MAX(int)
EMULATED_MIN_MAX(unsigned int)
EMULATED_MIN_MAX(long)
EMULATED_MIN_MAX(unsigned long)
EMULATED_MIN_MAX(long long)
EMULATED_MIN_MAX(unsigned long long)
#undef EMULATED_MIN_MAX
inline unsigned min(int a, unsigned b) { return min((unsigned)a, b); }
inline unsigned min(unsigned a, int b) { return min(a, (unsigned)b); }
inline unsigned max(int a, unsigned b) { return max((unsigned)a, b); }
inline unsigned max(unsigned a, int b) { return max(a, (unsigned)b); }
inline float min(float a, float b) { return fminf(a, b); }
inline float max(float a, float b) { return fmaxf(a, b); }
inline double min(double a, double b) { return fmin(a, b); }
inline double max(double a, double b) { return fmax(a, b); }

inline long long clock64() { return emulator::clock(); }
inline size_t __cvta_generic_to_shared(const void* p) { return (size_t)p; }
inline size_t __cvta_generic_to_global(const void* p) { return (size_t)p; }

#include "half.h"

typedef int emulator_end_of_prelude;
