// The activation of a matrix product's results, in place, 16 bytes a thread and step.
#include "common.cuh"

enum products_activation { PRODUCTS_RELU = 1, PRODUCTS_RELU6, PRODUCTS_ELU, PRODUCTS_SIGMOID, PRODUCTS_LEAKY_RELU };

// NaN goes through every one of them, as it does through Math.max.
__device__ __forceinline__ float products_activate(float x, int activation, float alpha) {
  switch (activation) {
    case PRODUCTS_RELU: return x < 0.0f ? 0.0f : x;
    case PRODUCTS_RELU6: return x < 0.0f ? 0.0f : (x > 6.0f ? 6.0f : x);
    case PRODUCTS_ELU: return x < 0.0f ? expm1f(x) : x;
    case PRODUCTS_SIGMOID: return 1.0f / (1.0f + expf(-x));
    case PRODUCTS_LEAKY_RELU: return x < 0.0f ? alpha * x : x;
    default: return x;
  }
}

// Where x does not begin at 16 bytes, all of it goes by single elements.
template <typename T>
__device__ __forceinline__ void products_activate_all(T *__restrict__ x, long long count, int activation, float alpha) {
  constexpr int LENGTH = 16 / sizeof(T);
  struct __align__(16) vector {
    T v[LENGTH];
  };
  vector *vectors = reinterpret_cast<vector *>(x);
  const long long whole = reinterpret_cast<unsigned long long>(x) % 16 == 0 ? count / LENGTH : 0;
  for (GRID_LOOP(i, whole)) {
    vector v = vectors[i];
#pragma unroll
    for (int e = 0; e < LENGTH; e++) v.v[e] = from_float<T>(products_activate(to_float(v.v[e]), activation, alpha));
    vectors[i] = v;
  }
  for (GRID_LOOP(i, count - whole * LENGTH)) {
    const long long at = whole * LENGTH + i;
    x[at] = from_float<T>(products_activate(to_float(x[at]), activation, alpha));
  }
}
KERNEL products_activate_f32(float *x, long long count, int activation, float alpha) {
  products_activate_all(x, count, activation, alpha);
}
KERNEL products_activate_bf16(bf16 *x, long long count, int activation, float alpha) {
  products_activate_all(x, count, activation, alpha);
}
KERNEL products_activate_f16(__half *x, long long count, int activation, float alpha) {
  products_activate_all(x, count, activation, alpha);
}
