// Softmax cross-entropy of rows of logits against class numbers, and its gradient, without the one-hot matrix.
//
//   nvcc -ptx -arch=compute_80 -std=c++17 cross-entropy.cu
//
// The forward pass reads the logits once, each thread with a running maximum (Milakov and Gimelshein 2018); of it the
// gradient needs one number a row, the logarithm of the sum of exponentials. A warp takes a row of up to 1,024
// classes, a block of 256 threads a longer one.
#include "rows.cuh"

// The running maximum and the sum of exp(x − maximum).
struct Exponentials {
  float max, sum;
  __device__ __forceinline__ void add(float x) {
    if (x > max) {
      sum *= expf(max - x);
      max = x;
    }
    sum += expf(x - max);
  }
  __device__ __forceinline__ void add(float4 v) {
    const float greatest = fmaxf(fmaxf(v.x, v.y), fmaxf(v.z, v.w));
    if (greatest > max) {
      sum *= expf(max - greatest);
      max = greatest;
    }
    sum += (expf(v.x - max) + expf(v.y - max)) + (expf(v.z - max) + expf(v.w - max));
  }
};

template <typename T, int THREADS>
__device__ __forceinline__ void cross_entropy_rows(const T *__restrict__ logits, const int *__restrict__ labels,
                                                   float *__restrict__ loss, float *__restrict__ log_sum, int rows,
                                                   int classes) {
  __shared__ float shared[32];
  constexpr int perBlock = 256 / THREADS;
  const int lane = threadIdx.x % THREADS;
  for (int row = blockIdx.x * perBlock + threadIdx.x / THREADS; row < rows; row += gridDim.x * perBlock) {
    const T *in = logits + (size_t)row * classes;
    // The least finite number in place of −∞, so that a thread without a class of its own contributes 0 and not NaN.
    Exponentials e = {-3.402823466e38f, 0};
    if (classes % 4 == 0) {
#pragma unroll 4
      for (int i = lane * 4; i < classes; i += THREADS * 4) e.add(load4(in + i));
    } else {
      for (int i = lane; i < classes; i += THREADS) e.add(to_float(in[i]));
    }
    const float max = row_max<THREADS>(e.max, shared);
    const float log_total = logf(row_sum<THREADS>(e.sum * expf(e.max - max), shared));
    if (lane == 0) {
      const int label = labels[row];
      const bool counted = label >= 0 && label < classes;
      // In this order, large logits leave a small loss its digits.
      loss[row] = counted ? log_total + (max - to_float(in[label])) : 0;
      log_sum[row] = max + log_total;
    }
  }
}

// (softmax − one-hot) · dy, 0 in a row without a label.
template <typename T, int THREADS>
__device__ __forceinline__ void cross_entropy_grad_rows(const T *__restrict__ logits, const int *__restrict__ labels,
                                                        const float *__restrict__ log_sum,
                                                        const float *__restrict__ dy, T *__restrict__ out, int rows,
                                                        int classes) {
  constexpr int perBlock = 256 / THREADS;
  const int lane = threadIdx.x % THREADS;
  for (int row = blockIdx.x * perBlock + threadIdx.x / THREADS; row < rows; row += gridDim.x * perBlock) {
    const T *in = logits + (size_t)row * classes;
    T *to = out + (size_t)row * classes;
    const int label = labels[row];
    const bool counted = label >= 0 && label < classes;
    const float total = log_sum[row], weight = counted ? dy[row] : 0;
    if (classes % 4 == 0) {
#pragma unroll 4
      for (int i = lane * 4; i < classes; i += THREADS * 4) {
        float4 v = make_float4(0, 0, 0, 0);
        if (counted) {
          v = load4(in + i);
          v.x = (expf(v.x - total) - (i == label)) * weight;
          v.y = (expf(v.y - total) - (i + 1 == label)) * weight;
          v.z = (expf(v.z - total) - (i + 2 == label)) * weight;
          v.w = (expf(v.w - total) - (i + 3 == label)) * weight;
        }
        store4(to + i, v);
      }
    } else {
      for (int i = lane; i < classes; i += THREADS) {
        to[i] = from_float<T>(counted ? (expf(to_float(in[i]) - total) - (i == label)) * weight : 0);
      }
    }
  }
}

#define CROSS_ENTROPY(suffix, T, THREADS)                                                                            \
  KERNEL __launch_bounds__(256) cross_entropy_##suffix(const T *logits, const int *labels, float *loss,               \
                                                       float *log_sum, int rows, int classes) {                      \
    cross_entropy_rows<T, THREADS>(logits, labels, loss, log_sum, rows, classes);                                     \
  }                                                                                                                  \
  KERNEL __launch_bounds__(256) cross_entropy_grad_##suffix(const T *logits, const int *labels, const float *log_sum, \
                                                            const float *dy, T *out, int rows, int classes) {        \
    cross_entropy_grad_rows<T, THREADS>(logits, labels, log_sum, dy, out, rows, classes);                             \
  }
CROSS_ENTROPY(f32_warp, float, 32)
CROSS_ENTROPY(f32_block, float, 256)
CROSS_ENTROPY(bf16_warp, bf16, 32)
CROSS_ENTROPY(bf16_block, bf16, 256)
