// dy where x is positive, else 0: the gradient of ReLU.
//
//   nvcc -ptx -arch=compute_80 -std=c++17 relu-grad.cu
#include "rows.cuh"

// The result has the form of x.
template <typename T, typename G>
__device__ __forceinline__ void relu_grad(const T *__restrict__ x, const G *__restrict__ dy, T *__restrict__ out,
                                          long long n) {
  for (GRID_LOOP(v, n / 4)) {
    const float4 a = load4(x + v * 4), g = load4(dy + v * 4);
    store4(out + v * 4, make_float4(a.x > 0 ? g.x : 0, a.y > 0 ? g.y : 0, a.z > 0 ? g.z : 0, a.w > 0 ? g.w : 0));
  }
  const long long i = n / 4 * 4 + blockIdx.x * (long long)blockDim.x + threadIdx.x;
  if (i < n) out[i] = from_float<T>(to_float(x[i]) > 0 ? to_float(dy[i]) : 0);
}

#define RELU_GRAD(suffix, T, G)                                                                             \
  KERNEL __launch_bounds__(256) relu_grad_##suffix(const T *x, const G *dy, T *out, long long n) {          \
    relu_grad(x, dy, out, n);                                                                               \
  }
RELU_GRAD(f32_f32, float, float)
RELU_GRAD(bf16_bf16, bf16, bf16)
RELU_GRAD(bf16_f32, bf16, float)
