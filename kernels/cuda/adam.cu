// Adam over many tensors at once, in place, and the factor that clips their gradients by their common norm.
//
//   nvcc -ptx -arch=compute_80 -std=c++17 adam.cu
//
// A launch takes the addresses of up to 64 tensors by value. Blocks are dealt out in pieces of 4,096 elements:
// first[i] is the first block of tensor i, and a block finds its tensor by bisection.
#include "rows.cuh"

constexpr int TENSORS = 64;
constexpr int PIECE = 4096;

struct GradientTensors {
  const float *gradient[TENSORS];
  long long size[TENSORS];
  int first[TENSORS];
};

struct AdamTensors {
  float *param[TENSORS];
  const float *gradient[TENSORS];
  float *m[TENSORS];
  float *v[TENSORS];
  // The parameter's bf16 form; null where it has none.
  bf16 *half[TENSORS];
  long long size[TENSORS];
  int first[TENSORS];
  // 1 − rate · decay
  float keep[TENSORS];
};

// gain is 1 − beta, which float32 would give to five digits only.
struct AdamAttributes {
  float rate, beta1, gain1, beta2, gain2, epsilon;
};

// The tensor that block b works on.
__device__ __forceinline__ int tensor_of_block(const int *first, int count, int b) {
  int low = 0, high = count - 1;
  while (low < high) {
    const int middle = (low + high + 1) / 2;
    if (first[middle] <= b) low = middle;
    else high = middle - 1;
  }
  return low;
}

// partial[offset + block] = the sum of squares of the block's piece.
KERNEL __launch_bounds__(256) gradient_squares(const GradientTensors t, int count, float *partial, int offset) {
  __shared__ float shared[32];
  const int tensor = tensor_of_block(t.first, count, blockIdx.x);
  const float *gradient = t.gradient[tensor];
  const long long start = (long long)(blockIdx.x - t.first[tensor]) * PIECE;
  const long long end = min(start + PIECE, t.size[tensor]);
  float total = 0;
  // A tensor starts at a 16-byte boundary, and so does every piece of it.
  for (long long i = start + threadIdx.x * 4; i < end; i += 1024) {
    if (i + 4 <= end) {
      const float4 v = load4(gradient + i);
      total += (v.x * v.x + v.y * v.y) + (v.z * v.z + v.w * v.w);
    } else {
      for (long long j = i; j < end; j++) total += gradient[j] * gradient[j];
    }
  }
  total = block_sum(total, shared);
  if (threadIdx.x == 0) partial[offset + blockIdx.x] = total;
}

// scale[0] = min(1, maxNorm / (√(sum of partial) + 1e-12)).
KERNEL __launch_bounds__(1024) clipping_scale(const float *partial, float *scale, int count, float maxNorm) {
  __shared__ float shared[32];
  float total = 0;
  for (int i = threadIdx.x; i < count; i += 1024) total += partial[i];
  total = block_sum(total, shared);
  if (threadIdx.x == 0) scale[0] = fminf(maxNorm / (sqrtf(total) + 1e-12f), 1);
}

__device__ __forceinline__ void adam_element(float &p, float g, float &m, float &v, const AdamAttributes &a,
                                             float keep) {
  m = m * a.beta1 + g * a.gain1;
  v = v * a.beta2 + g * g * a.gain2;
  p = p * keep - m * a.rate / (sqrtf(v) + a.epsilon);
}

// One tensor, its new values and moments in new memory.
KERNEL __launch_bounds__(256) adam_step(const float *param, const float *gradient, const float *m, const float *v,
                                        float *paramOut, float *mOut, float *vOut, const AdamAttributes attributes,
                                        float keep, long long n) {
  for (GRID_LOOP(i, n)) {
    float p = param[i], first = m[i], second = v[i];
    adam_element(p, gradient[i], first, second, attributes, keep);
    paramOut[i] = p;
    mOut[i] = first;
    vOut[i] = second;
  }
}

// Up to 64 tensors, in place; the gradients are multiplied by scale[0] where there is one.
KERNEL __launch_bounds__(256) adam_steps(const AdamTensors t, int count, const float *scale,
                                         const AdamAttributes attributes) {
  const int tensor = tensor_of_block(t.first, count, blockIdx.x);
  const float factor = scale ? scale[0] : 1, keep = t.keep[tensor];
  float *param = t.param[tensor], *first = t.m[tensor], *second = t.v[tensor];
  const float *gradient = t.gradient[tensor];
  bf16 *half = t.half[tensor];
  const long long start = (long long)(blockIdx.x - t.first[tensor]) * PIECE;
  const long long end = min(start + PIECE, t.size[tensor]);
  for (long long i = start + threadIdx.x * 4; i < end; i += 1024) {
    if (i + 4 <= end) {
      float4 p = load4(param + i), m = load4(first + i), v = load4(second + i);
      const float4 g = load4(gradient + i);
      adam_element(p.x, g.x * factor, m.x, v.x, attributes, keep);
      adam_element(p.y, g.y * factor, m.y, v.y, attributes, keep);
      adam_element(p.z, g.z * factor, m.z, v.z, attributes, keep);
      adam_element(p.w, g.w * factor, m.w, v.w, attributes, keep);
      store4(param + i, p);
      store4(first + i, m);
      store4(second + i, v);
      if (half) store4(half + i, p);
    } else {
      for (long long j = i; j < end; j++) {
        adam_element(param[j], gradient[j] * factor, first[j], second[j], attributes, keep);
        if (half) half[j] = from_float<bf16>(param[j]);
      }
    }
  }
}
