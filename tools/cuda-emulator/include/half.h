// bfloat16 and half as CUDA's headers name them: stored in 16 bits, computed in float32, rounded to nearest even.
#pragma once

namespace emulator {

inline uint16_t bfloat16Bits(float x) {
  uint32_t u = bits<uint32_t>(x);
  if (x != x) return 0x7fff;
  return (uint16_t)((u + 0x7fff + ((u >> 16) & 1)) >> 16);
}
inline float bfloat16Value(uint16_t x) { return bits<float>((uint32_t)x << 16); }

inline uint16_t halfBits(float x) {
  uint32_t u = bits<uint32_t>(x), sign = (u >> 16) & 0x8000, magnitude = u & 0x7fffffff;
  if (magnitude > 0x7f800000) return 0x7fff;
  if (magnitude >= 0x477ff000) return (uint16_t)(sign | 0x7c00);
  if (magnitude < 0x38800000) {
    // Subnormal: adding 0.5 leaves the rounded multiple of 2^-24 in the low bits.
    uint32_t rounded = bits<uint32_t>(bits<float>(magnitude) + 0.5f) - 0x3f000000;
    return (uint16_t)(sign | rounded);
  }
  uint32_t rounded = magnitude + 0xfff + ((magnitude >> 13) & 1);
  return (uint16_t)(sign | ((rounded - 0x38000000) >> 13));
}
inline float halfValue(uint16_t x) {
  uint32_t sign = (uint32_t)(x & 0x8000) << 16, magnitude = x & 0x7fff;
  if (magnitude >= 0x7c00) return bits<float>(sign | 0x7f800000 | (magnitude & 0x3ff) << 13);
  float value = magnitude < 0x400 ? (float)magnitude * 0x1p-24f
                                  : bits<float>((magnitude << 13) + 0x38000000);
  return sign ? -value : value;
}

}  // namespace emulator

#define EMULATED_16_BIT(T, toBits, toFloat)                                                   \
  struct T {                                                                                  \
    unsigned short __x;                                                                       \
    T() = default;                                                                            \
    T(float x) : __x(toBits(x)) {}                                                            \
    T(double x) : __x(toBits((float)x)) {}                                                    \
    T(int x) : __x(toBits((float)x)) {}                                                       \
    operator float() const { return toFloat(__x); }                                           \
    T& operator+=(T other) { return *this = T((float)*this + (float)other); }                 \
    T& operator-=(T other) { return *this = T((float)*this - (float)other); }                 \
    T& operator*=(T other) { return *this = T((float)*this * (float)other); }                 \
    T& operator/=(T other) { return *this = T((float)*this / (float)other); }                 \
  };                                                                                          \
  inline T operator+(T a, T b) { return T((float)a + (float)b); }                             \
  inline T operator-(T a, T b) { return T((float)a - (float)b); }                             \
  inline T operator*(T a, T b) { return T((float)a * (float)b); }                             \
  inline T operator/(T a, T b) { return T((float)a / (float)b); }                             \
  inline T operator-(T a) { return T(-(float)a); }                                            \
  inline bool operator<(T a, T b) { return (float)a < (float)b; }                             \
  inline bool operator>(T a, T b) { return (float)a > (float)b; }                             \
  inline bool operator<=(T a, T b) { return (float)a <= (float)b; }                           \
  inline bool operator>=(T a, T b) { return (float)a >= (float)b; }                           \
  inline bool operator==(T a, T b) { return (float)a == (float)b; }                           \
  inline bool operator!=(T a, T b) { return (float)a != (float)b; }                           \
  struct alignas(4) T##2 {                                                                    \
    T x, y;                                                                                   \
  };                                                                                          \
  inline T __hadd(T a, T b) { return a + b; }                                                 \
  inline T __hsub(T a, T b) { return a - b; }                                                 \
  inline T __hmul(T a, T b) { return a * b; }                                                 \
  inline T __hdiv(T a, T b) { return a / b; }                                                 \
  inline T __hneg(T a) { return -a; }                                                         \
  inline T __hfma(T a, T b, T c) { return T(fmaf((float)a, (float)b, (float)c)); }            \
  inline T __hmax(T a, T b) { return T(fmaxf((float)a, (float)b)); }                          \
  inline T __hmin(T a, T b) { return T(fminf((float)a, (float)b)); }                          \
  inline bool __hisnan(T a) { return (float)a != (float)a; }                                  \
  inline T##2 __hadd2(T##2 a, T##2 b) { return {a.x + b.x, a.y + b.y}; }                      \
  inline T##2 __hmul2(T##2 a, T##2 b) { return {a.x * b.x, a.y * b.y}; }                      \
  inline T##2 __hfma2(T##2 a, T##2 b, T##2 c) {                                               \
    return {__hfma(a.x, b.x, c.x), __hfma(a.y, b.y, c.y)};                                    \
  }
EMULATED_16_BIT(__nv_bfloat16, emulator::bfloat16Bits, emulator::bfloat16Value)
EMULATED_16_BIT(__half, emulator::halfBits, emulator::halfValue)
#undef EMULATED_16_BIT

typedef __nv_bfloat16 nv_bfloat16;
typedef __nv_bfloat162 nv_bfloat162;
typedef __half half;
typedef __half2 half2;
struct __nv_bfloat16_raw {
  unsigned short x;
};
struct __half_raw {
  unsigned short x;
};

inline __nv_bfloat16 __float2bfloat16(float x) { return __nv_bfloat16(x); }
inline __nv_bfloat16 __float2bfloat16_rn(float x) { return __nv_bfloat16(x); }
inline __nv_bfloat16 __double2bfloat16(double x) { return __nv_bfloat16(x); }
inline __nv_bfloat16 __int2bfloat16_rn(int x) { return __nv_bfloat16(x); }
inline float __bfloat162float(__nv_bfloat16 x) { return (float)x; }
inline __nv_bfloat16 __ushort_as_bfloat16(unsigned short x) { return emulator::bits<__nv_bfloat16>(x); }
inline unsigned short __bfloat16_as_ushort(__nv_bfloat16 x) { return x.__x; }
inline __nv_bfloat162 make_bfloat162(__nv_bfloat16 x, __nv_bfloat16 y) { return {x, y}; }
inline __nv_bfloat162 __halves2bfloat162(__nv_bfloat16 x, __nv_bfloat16 y) { return {x, y}; }
inline __nv_bfloat162 __bfloat162bfloat162(__nv_bfloat16 x) { return {x, x}; }
inline __nv_bfloat162 __floats2bfloat162_rn(float x, float y) { return {__nv_bfloat16(x), __nv_bfloat16(y)}; }
inline __nv_bfloat162 __float22bfloat162_rn(float2 v) { return __floats2bfloat162_rn(v.x, v.y); }
inline __nv_bfloat162 __float2bfloat162_rn(float x) { return __floats2bfloat162_rn(x, x); }
inline float2 __bfloat1622float2(__nv_bfloat162 v) { return {(float)v.x, (float)v.y}; }
inline float __low2float(__nv_bfloat162 v) { return (float)v.x; }
inline float __high2float(__nv_bfloat162 v) { return (float)v.y; }
inline __nv_bfloat16 __low2bfloat16(__nv_bfloat162 v) { return v.x; }
inline __nv_bfloat16 __high2bfloat16(__nv_bfloat162 v) { return v.y; }

inline __half __float2half(float x) { return __half(x); }
inline __half __float2half_rn(float x) { return __half(x); }
inline float __half2float(__half x) { return (float)x; }
inline __half __ushort_as_half(unsigned short x) { return emulator::bits<__half>(x); }
inline unsigned short __half_as_ushort(__half x) { return x.__x; }
inline __half2 make_half2(__half x, __half y) { return {x, y}; }
inline __half2 __halves2half2(__half x, __half y) { return {x, y}; }
inline __half2 __floats2half2_rn(float x, float y) { return {__half(x), __half(y)}; }
inline __half2 __float22half2_rn(float2 v) { return __floats2half2_rn(v.x, v.y); }
inline float2 __half22float2(__half2 v) { return {(float)v.x, (float)v.y}; }
inline float __low2float(__half2 v) { return (float)v.x; }
inline float __high2float(__half2 v) { return (float)v.y; }
