// The emulator's own test: what its fibers, warps and checks must do.
#include <cuda_bf16.h>

#define UNARY(name, expression)                                                          \
  extern "C" __global__ void __launch_bounds__(256) toy_##name(const float* x, float* y, int n) { \
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) {     \
      float v = x[i];                                                                    \
      y[i] = expression;                                                                 \
    }                                                                                    \
  }
UNARY(double, v * 2.0f)
UNARY(negate, -v)

extern "C" __global__ void toy_add(const float* a, const float* b, float* c, long long n) {
  for (long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x; i < n; i += (long long)gridDim.x * blockDim.x) {
    c[i] = a[i] + b[i];
  }
}

// One block; `char` and `double` between ints show the alignment of arguments.
extern "C" __global__ void toy_pack(int* out, int a, double b, float c, long long d, unsigned char e, int f) {
  out[0] = a, out[1] = (int)b, out[2] = (int)c, out[3] = (int)d, out[4] = e, out[5] = f;
}

struct Dims {
  int d[8];
};
extern "C" __global__ void toy_struct(int* out, Dims dims, float scale) {
  if (threadIdx.x < 8) out[threadIdx.x] = (int)(dims.d[threadIdx.x] * scale);
}

// Sum by a tree in shared memory.
extern "C" __global__ void toy_block_sum(const float* x, float* y, int n) {
  __shared__ float partial[256];
  float sum = 0;
  for (int i = threadIdx.x; i < n; i += blockDim.x) sum += x[i];
  partial[threadIdx.x] = sum;
  __syncthreads();
  for (int half = blockDim.x / 2; half > 0; half /= 2) {
    if (threadIdx.x < half) partial[threadIdx.x] += partial[threadIdx.x + half];
    __syncthreads();
  }
  if (threadIdx.x == 0) y[blockIdx.x] = partial[0];
}

template <class T>
__device__ T warpSum(T value) {
#pragma unroll
  for (int delta = 16; delta > 0; delta /= 2) value += __shfl_down_sync(0xffffffffu, value, delta);
  return value;
}

// Sum by warp shuffles and dynamic shared memory, over threads in two dimensions.
extern "C" __global__ void toy_warp_sum(const float* x, float* y, int n) {
  extern __shared__ __align__(16) float warps[];
  int t = threadIdx.y * blockDim.x + threadIdx.x, threads = blockDim.x * blockDim.y;
  float sum = 0;
  for (int i = t; i < n; i += threads) sum += x[i];
  sum = warpSum(sum);
  if (t % 32 == 0) warps[t / 32] = sum;
  __syncthreads();
  if (t < 32) {
    sum = t < threads / 32 ? warps[t] : 0.0f;
    sum = warpSum(sum);
    if (t == 0) *y = sum;
  }
}

extern "C" __global__ void toy_votes(const int* x, unsigned* out) {
  int lane = threadIdx.x % 32;
  unsigned odd = __ballot_sync(~0u, x[threadIdx.x] & 1);
  int up = __shfl_up_sync(~0u, x[threadIdx.x], 1, 8);
  int across = __shfl_xor_sync(~0u, x[threadIdx.x], 3);
  int total = __syncthreads_count(x[threadIdx.x] > 2);
  if (lane == 0) out[threadIdx.x / 32] = odd;
  out[32 + threadIdx.x] = up;
  out[32 + blockDim.x + threadIdx.x] = across;
  if (threadIdx.x == 0) out[31] = total;
}

extern "C" __global__ void toy_bfloat16(const float* x, __nv_bfloat16* y, float* back, int n) {
  for (int i = threadIdx.x; i < n; i += blockDim.x) {
    y[i] = __float2bfloat16(x[i]);
    back[i] = __half2float(__float2half(x[i]));
  }
}

extern "C" __global__ void toy_histogram(const int* x, int* counts, float* sum, int n) {
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) {
    atomicAdd(&counts[x[i]], 1);
    atomicAdd(sum, 1);
  }
}

// Mistakes, each of which the emulator must find.
extern "C" __global__ void toy_past_end(float* x, int n) { x[n + threadIdx.x] = 1; }
extern "C" __global__ void toy_wild(float* x) { x[1ll << 40] = 1; }
extern "C" __global__ void toy_misaligned(float* x) { *reinterpret_cast<float4*>(x + 1) = make_float4(1, 2, 3, 4); }
extern "C" __global__ void toy_divergent(float* x) {
  if (threadIdx.x < 7) __syncthreads();
  if (threadIdx.x >= 7) __shfl_sync(0xffffffffu, 1, 0);
}
extern "C" __global__ void toy_bounds(float* x, int n) {
  __shared__ float few[4];
  few[n] = 1;
  x[0] = few[0];
}
