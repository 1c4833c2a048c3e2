// Normalizations with given statistics (batch normalization) and across channels (local response).
#include "common.cuh"

// y = offset + (x - mean) * scale / sqrt(variance + epsilon). A parameter of `length` elements is
// repeated along x; offset and scale may be null (0 and 1).
KERNEL normalization_batch(const float* __restrict__ x, const float* __restrict__ mean,
                           long long meanLength, const float* __restrict__ variance,
                           long long varianceLength, const float* __restrict__ offset,
                           long long offsetLength, const float* __restrict__ scale,
                           long long scaleLength, float epsilon, float* __restrict__ y,
                           long long n) {
  for (GRID_LOOP(i, n)) {
    float v = x[i] - mean[i % meanLength];
    if (scale) v *= scale[i % scaleLength];
    v /= sqrtf(variance[i % varianceLength] + epsilon);
    y[i] = offset ? offset[i % offsetLength] + v : v;
  }
}

// norms[i] = bias + alpha * (sum of squares of the channels within `radius` of i's).
__device__ inline float local_norm(const float* x, size_t i, int channels, int radius, float bias,
                                   float alpha) {
  int channel = (int)(i % channels);
  const float* pixel = x + (i - channel);
  float sum = 0.0f;
  int end = min(channels - 1, channel + radius);
  for (int c = max(0, channel - radius); c <= end; ++c) sum += pixel[c] * pixel[c];
  return bias + alpha * sum;
}

// y = x * norm^-beta.
KERNEL normalization_local_response(const float* __restrict__ x, float* __restrict__ y,
                                    int channels, int radius, float bias, float alpha, float beta,
                                    long long n) {
  for (GRID_LOOP(i, n)) {
    y[i] = x[i] * powf(local_norm(x, i, channels, radius, bias, alpha), -beta);
  }
}

KERNEL normalization_local_norms(const float* __restrict__ x, float* __restrict__ norms,
                                 int channels, int radius, float bias, float alpha, long long n) {
  for (GRID_LOOP(i, n)) {
    norms[i] = local_norm(x, i, channels, radius, bias, alpha);
  }
}

// dx = dy * norm^-beta - 2 alpha beta x * (sum of dy * y / norm of the channels within `radius`).
KERNEL normalization_local_response_grad(const float* __restrict__ x, const float* __restrict__ y,
                                         const float* __restrict__ dy,
                                         const float* __restrict__ norms, float* __restrict__ dx,
                                         int channels, int radius, float alpha, float beta,
                                         long long n) {
  for (GRID_LOOP(i, n)) {
    int channel = (int)(i % channels);
    size_t pixel = i - channel;
    float sum = 0.0f;
    int end = min(channels - 1, channel + radius);
    for (int c = max(0, channel - radius); c <= end; ++c) {
      sum += dy[pixel + c] * y[pixel + c] / norms[pixel + c];
    }
    dx[i] = dy[i] * powf(norms[i], -beta) - 2.0f * alpha * beta * x[i] * sum;
  }
}
