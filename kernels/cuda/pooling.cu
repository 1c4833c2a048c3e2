// Pooling and grey-scale dilation over channel-last volumes. Gradients gather: an element of dx
// asks the windows over it, whose maxima a first kernel has found: no atomics are needed.
// As in TensorFlow.js, a maximum passes over NaN and an average does not.
#include "common.cuh"
#include "window.cuh"

/** Least value of a type, which stands where a window holds nothing. */
template <typename T> __device__ inline T lowest();
template <> __device__ inline float lowest<float>() { return -INFINITY; }
template <> __device__ inline int lowest<int>() { return -2147483647 - 1; }
template <> __device__ inline signed char lowest<signed char>() { return -1; }

/** The maximum of a window, its tap's number and its offset in the input; -1 where there is none. */
template <typename T> struct Maximum {
  T value;
  int tap;
  long long at;
};

// In a tie the first tap wins, or the last one (as tfjs has it in three dimensions).
template <typename T>
__device__ inline Maximum<T> window_maximum(const T* x, const Window& w, Place p, bool lastWins) {
  Maximum<T> best = {lowest<T>(), -1, -1};
  for (int fd = 0; fd < w.filterDepth; ++fd) {
    int depth = p.depth * w.strideDepth - w.padDepth + fd * w.dilationDepth;
    if (depth < 0 || depth >= w.inDepth) continue;
    for (int fr = 0; fr < w.filterHeight; ++fr) {
      int row = p.row * w.strideHeight - w.padHeight + fr * w.dilationHeight;
      if (row < 0 || row >= w.inHeight) continue;
      for (int fc = 0; fc < w.filterWidth; ++fc) {
        int col = p.col * w.strideWidth - w.padWidth + fc * w.dilationWidth;
        if (col < 0 || col >= w.inWidth) continue;
        size_t at = input_pixel(w, p.batch, depth, row, col) + p.channel;
        T value = x[at];
        if (value > best.value || (lastWins && value == best.value)) {
          best.value = value;
          best.tap = (fd * w.filterHeight + fr) * w.filterWidth + fc;
          best.at = (long long)at;
        }
      }
    }
  }
  return best;
}

#define MAXIMA(NAME, T)                                                                          \
  KERNEL pooling_max_##NAME(const T* __restrict__ x, T* __restrict__ y, Window w, long long n) { \
    for (GRID_LOOP(i, n)) {                                                                      \
      y[i] = window_maximum(x, w, output_place(i, w), false).value;                              \
    }                                                                                            \
  }                                                                                              \
  /* Taps of the maxima, for the gradient. */                                                    \
  KERNEL pooling_taps_##NAME(const T* __restrict__ x, int* __restrict__ taps, Window w,          \
                             int lastWins, long long n) {                                        \
    for (GRID_LOOP(i, n)) {                                                                      \
      taps[i] = window_maximum(x, w, output_place(i, w), lastWins).tap;                          \
    }                                                                                            \
  }                                                                                              \
  /* Maxima and their offsets in the input, or in their image where imageSize is not 0. */       \
  KERNEL pooling_max_at_##NAME(const T* __restrict__ x, T* __restrict__ y,                       \
                               int* __restrict__ offsets, Window w, long long imageSize,         \
                               long long n) {                                                    \
    for (GRID_LOOP(i, n)) {                                                                      \
      Maximum<T> best = window_maximum(x, w, output_place(i, w), false);                         \
      y[i] = best.value;                                                                         \
      offsets[i] = (int)(imageSize && best.at >= 0 ? best.at % imageSize : best.at);             \
    }                                                                                            \
  }

MAXIMA(float32, float)
MAXIMA(int32, int)
MAXIMA(bool, signed char)

KERNEL pooling_avg(const float* __restrict__ x, float* __restrict__ y, Window w, long long n) {
  for (GRID_LOOP(i, n)) {
    Place p = output_place(i, w);
    int depth0 = p.depth * w.strideDepth - w.padDepth;
    int row0 = p.row * w.strideHeight - w.padHeight;
    int col0 = p.col * w.strideWidth - w.padWidth;
    int depthBegin = max(depth0, 0), depthEnd = min(depth0 + w.filterDepth, w.inDepth);
    int rowBegin = max(row0, 0), rowEnd = min(row0 + w.filterHeight, w.inHeight);
    int colBegin = max(col0, 0), colEnd = min(col0 + w.filterWidth, w.inWidth);
    float sum = 0.0f;
    int count = 0;
    for (int depth = depthBegin; depth < depthEnd; ++depth) {
      for (int row = rowBegin; row < rowEnd; ++row) {
        for (int col = colBegin; col < colEnd; ++col) {
          sum += x[input_pixel(w, p.batch, depth, row, col) + p.channel];
          ++count;
        }
      }
    }
    y[i] = sum / (float)max(count, 1);
  }
}

// As tfjs has it, every window counts by the filter's size, also at the padded border.
KERNEL pooling_avg_grad(const float* __restrict__ dy, float* __restrict__ dx, Window w,
                        long long n) {
  float size = (float)w.filterDepth * (float)w.filterHeight * (float)w.filterWidth;
  for (GRID_LOOP(i, n)) {
    Place p = input_place(i, w);
    float sum = 0.0f;
    each_window_over(w, p, [&](size_t pixel, int) { sum += dy[pixel * w.outChannels + p.channel]; });
    dx[i] = sum / size;
  }
}

// `taps` are the taps of the windows' maxima; also the gradient of dilation by its input.
#define MAX_GRAD(NAME, T)                                                                \
  KERNEL pooling_max_grad_##NAME(const T* __restrict__ dy, const int* __restrict__ taps, \
                                 T* __restrict__ dx, Window w, long long n) {            \
    for (GRID_LOOP(i, n)) {                                                              \
      Place p = input_place(i, w);                                                       \
      T sum = 0;                                                                         \
      each_window_over(w, p, [&](size_t pixel, int tap) {                                \
        size_t at = pixel * w.outChannels + p.channel;                                   \
        if (taps[at] == tap) sum += dy[at];                                              \
      });                                                                                \
      dx[i] = sum;                                                                       \
    }                                                                                    \
  }

MAX_GRAD(float32, float)
MAX_GRAD(int32, int)

// Dilation: the maximum of x + filter [height, width, channels] over a window, and its tap. Either
// result may be null.
#define DILATION(NAME, T)                                                                        \
  KERNEL pooling_dilation_##NAME(const T* __restrict__ x, const T* __restrict__ filter, T* y,    \
                                 int* taps, Window w, long long n) {                             \
    for (GRID_LOOP(i, n)) {                                                                      \
      Place p = output_place(i, w);                                                              \
      T best = lowest<T>();                                                                      \
      int bestTap = -1;                                                                          \
      for (int tap = 0; tap < w.filterHeight * w.filterWidth; ++tap) {                           \
        int row = p.row * w.strideHeight - w.padHeight + tap / w.filterWidth * w.dilationHeight; \
        int col = p.col * w.strideWidth - w.padWidth + tap % w.filterWidth * w.dilationWidth;    \
        if (row < 0 || row >= w.inHeight || col < 0 || col >= w.inWidth) continue;               \
        T value = x[input_pixel(w, p.batch, 0, row, col) + p.channel] +                          \
                  filter[tap * w.inChannels + p.channel];                                        \
        if (value > best) {                                                                      \
          best = value;                                                                          \
          bestTap = tap;                                                                         \
        }                                                                                        \
      }                                                                                          \
      if (y) y[i] = best;                                                                        \
      if (taps) taps[i] = bestTap;                                                               \
    }                                                                                            \
  }                                                                                              \
  /* A block of 32 channels x 32 lanes of pixels for each tap (blockIdx.y). */                   \
  KERNEL pooling_dilation_filter_##NAME(const T* __restrict__ dy, const int* __restrict__ taps,  \
                                        T* __restrict__ df, int channels, long long pixels) {    \
    __shared__ T sums[32][33];                                                                   \
    int channel = blockIdx.x * 32 + threadIdx.x;                                                 \
    T sum = 0;                                                                                   \
    if (channel < channels) {                                                                    \
      for (size_t pixel = threadIdx.y; pixel < (size_t)pixels; pixel += 32) {                    \
        size_t at = pixel * channels + channel;                                                  \
        if (taps[at] == (int)blockIdx.y) sum += dy[at];                                          \
      }                                                                                          \
    }                                                                                            \
    sums[threadIdx.y][threadIdx.x] = sum;                                                        \
    __syncthreads();                                                                             \
    if (threadIdx.y == 0 && channel < channels) {                                                \
      for (int lane = 1; lane < 32; ++lane) sum += sums[lane][threadIdx.x];                      \
      df[(size_t)blockIdx.y * channels + channel] = sum;                                         \
    }                                                                                            \
  }

DILATION(float32, float)
DILATION(int32, int)
