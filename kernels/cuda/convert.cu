// float32 to a 16-bit type (rounded to nearest even) and back: the forms that a float32 tensor may have. Both read and
// write whole vectors; every allocation begins at a multiple of 256 bytes, so only the end needs single elements.
#include "common.cuh"

template <typename T> struct __align__(8) convert_four {
  T v[4];
};

template <typename T> __device__ __forceinline__ void convert_to(const float *__restrict__ x, T *__restrict__ y, long long n) {
  const long long vectors = n / 4;
  const float4 *x4 = reinterpret_cast<const float4 *>(x);
  convert_four<T> *y4 = reinterpret_cast<convert_four<T> *>(y);
  for (GRID_LOOP(i, vectors)) {
    const float4 v = x4[i];
    y4[i] = {from_float<T>(v.x), from_float<T>(v.y), from_float<T>(v.z), from_float<T>(v.w)};
  }
  const long long i = vectors * 4 + blockIdx.x * (long long)blockDim.x + threadIdx.x;
  if (i < n) y[i] = from_float<T>(x[i]);
}

template <typename T> __device__ __forceinline__ void convert_from(const T *__restrict__ x, float *__restrict__ y, long long n) {
  const long long vectors = n / 4;
  const convert_four<T> *x4 = reinterpret_cast<const convert_four<T> *>(x);
  float4 *y4 = reinterpret_cast<float4 *>(y);
  for (GRID_LOOP(i, vectors)) {
    const convert_four<T> v = x4[i];
    y4[i] = make_float4(to_float(v.v[0]), to_float(v.v[1]), to_float(v.v[2]), to_float(v.v[3]));
  }
  const long long i = vectors * 4 + blockIdx.x * (long long)blockDim.x + threadIdx.x;
  if (i < n) y[i] = to_float(x[i]);
}

KERNEL convert_f32_to_bf16(const float *x, bf16 *y, long long n) { convert_to(x, y, n); }
KERNEL convert_f32_to_f16(const float *x, __half *y, long long n) { convert_to(x, y, n); }
KERNEL convert_bf16_to_f32(const bf16 *x, float *y, long long n) { convert_from(x, y, n); }
KERNEL convert_f16_to_f32(const __half *x, float *y, long long n) { convert_from(x, y, n); }
