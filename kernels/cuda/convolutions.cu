// Convolutions. A dense convolution is one matrix product: the input's windows are written out as
// the rows of a matrix [pixels, taps * inChannels] (im2col), or, where windows coincide with
// pixels, the input is that matrix already. Its gradients are the transposed products, and the
// gradient of the input gathers from the windows' matrix (col2im), so nothing depends on the order
// of atomics. Depthwise convolutions have too little arithmetic for products: they are direct.
#include "common.cuh"
#include "window.cuh"

// Rows of `columns` are output pixels, a warp each; along a row, channels are fastest as in the
// filter [depth, height, width, inChannels, outChannels].
KERNEL convolutions_im2col(const float* __restrict__ x, float* __restrict__ columns, Window w,
                           long long pixels) {
  int rowLength = w.filterDepth * w.filterHeight * w.filterWidth * w.inChannels;
  for (size_t pixel = blockIdx.x * (size_t)blockDim.y + threadIdx.y; pixel < (size_t)pixels;
       pixel += (size_t)gridDim.x * blockDim.y) {
    Place p = place_of(pixel, w.outDepth, w.outHeight, w.outWidth, 1);
    int depth0 = p.depth * w.strideDepth - w.padDepth;
    int row0 = p.row * w.strideHeight - w.padHeight;
    int col0 = p.col * w.strideWidth - w.padWidth;
    float* out = columns + pixel * rowLength;
    for (int k = threadIdx.x; k < rowLength; k += blockDim.x) {
      int channel = k % w.inChannels;
      int tap = k / w.inChannels;
      int col = col0 + tap % w.filterWidth * w.dilationWidth;
      tap /= w.filterWidth;
      int row = row0 + tap % w.filterHeight * w.dilationHeight;
      int depth = depth0 + tap / w.filterHeight * w.dilationDepth;
      bool inside = depth >= 0 && depth < w.inDepth && row >= 0 && row < w.inHeight && col >= 0 &&
                    col < w.inWidth;
      out[k] = inside ? x[input_pixel(w, p.batch, depth, row, col) + channel] : 0.0f;
    }
  }
}

// dx of `n` elements from the windows' gradient: each element sums what the windows over it hold.
KERNEL convolutions_col2im(const float* __restrict__ columns, float* __restrict__ dx, Window w,
                           long long n) {
  int taps = w.filterDepth * w.filterHeight * w.filterWidth;
  for (GRID_LOOP(i, n)) {
    Place p = input_place(i, w);
    float sum = 0.0f;
    each_window_over(w, p, [&](size_t pixel, int tap) {
      sum += columns[(pixel * taps + tap) * w.inChannels + p.channel];
    });
    dx[i] = sum;
  }
}

// [batch, rows, columns] -> [batch, columns, rows], a tile of 32 x 32 by a block of 32 x 8 at a
// time: channel-first images to channel-last ones and back.
KERNEL convolutions_transpose(const float* __restrict__ x, float* __restrict__ y, long long batch,
                              int rows, int columns) {
  __shared__ float tile[32][33];
  int across = (columns + 31) / 32;
  size_t perMatrix = (size_t)((rows + 31) / 32) * across;
  for (size_t t = blockIdx.x; t < perMatrix * batch; t += gridDim.x) {
    size_t base = t / perMatrix * rows * columns;
    int row0 = (int)(t % perMatrix / across) * 32;
    int col0 = (int)(t % perMatrix % across) * 32;
    int col = col0 + threadIdx.x;
    for (int r = threadIdx.y; r < 32; r += blockDim.y) {
      if (row0 + r < rows && col < columns) {
        tile[r][threadIdx.x] = x[base + (size_t)(row0 + r) * columns + col];
      }
    }
    __syncthreads();
    int row = row0 + threadIdx.x;
    for (int c = threadIdx.y; c < 32; c += blockDim.y) {
      if (col0 + c < columns && row < rows) {
        y[base + (size_t)(col0 + c) * rows + row] = tile[threadIdx.x][c];
      }
    }
    __syncthreads();
  }
}

// y[i] = the sum over `parts` matrices of `n` elements each, in their order.
KERNEL convolutions_sum_parts(const float* __restrict__ x, float* __restrict__ y, int parts,
                              long long n) {
  for (GRID_LOOP(i, n)) {
    float sum = 0.0f;
    for (int part = 0; part < parts; ++part) sum += x[part * (size_t)n + i];
    y[i] = sum;
  }
}

struct Strides4 {
  int s[4];
};

struct Dims4 {
  int d[4];
};

// The codes that convolutions.ts gives to tfjs's names.
enum { LINEAR, RELU, RELU6, ELU, PRELU, LEAKY_RELU, SIGMOID };

// y = activation(y + bias) in place, over `n` elements of shape `dims`. `bias` and `slopes` (of
// prelu) are broadcast by their strides; either may be null.
KERNEL convolutions_bias_activation(float* y, const float* __restrict__ bias, Strides4 biasStrides,
                                    const float* __restrict__ slopes, Strides4 slopeStrides,
                                    Dims4 dims, int activation, float alpha, long long n) {
  for (GRID_LOOP(i, n)) {
    size_t rest = i, biasAt = 0, slopeAt = 0;
    for (int axis = 3; axis >= 0; --axis) {
      size_t at = rest % dims.d[axis];
      rest /= dims.d[axis];
      biasAt += at * biasStrides.s[axis];
      slopeAt += at * slopeStrides.s[axis];
    }
    float v = y[i];
    if (bias) v += bias[biasAt];
    switch (activation) {
      // Written so that NaN stays NaN.
      case RELU: v = v < 0.0f ? 0.0f : v; break;
      case RELU6: v = v < 0.0f ? 0.0f : v > 6.0f ? 6.0f : v; break;
      case ELU: v = v < 0.0f ? expm1f(v) : v; break;
      case PRELU: v = v < 0.0f ? v * slopes[slopeAt] : v; break;
      case LEAKY_RELU: v = v < 0.0f ? v * alpha : v; break;
      case SIGMOID: v = 1.0f / (1.0f + expf(-v)); break;
      default: break;
    }
    y[i] = v;
  }
}

// Depthwise: output channel d reads input channel d / multiplier. Filters are [height, width,
// inChannels, multiplier], so that tap * outChannels + d is a filter's element.

KERNEL convolutions_depthwise(const float* __restrict__ x, const float* __restrict__ filter,
                              float* __restrict__ y, Window w, long long n) {
  int multiplier = w.outChannels / w.inChannels;
  for (GRID_LOOP(i, n)) {
    Place p = output_place(i, w);
    int inChannel = p.channel / multiplier;
    float sum = 0.0f;
    for (int fr = 0; fr < w.filterHeight; ++fr) {
      int row = p.row * w.strideHeight - w.padHeight + fr * w.dilationHeight;
      if (row < 0 || row >= w.inHeight) continue;
      for (int fc = 0; fc < w.filterWidth; ++fc) {
        int col = p.col * w.strideWidth - w.padWidth + fc * w.dilationWidth;
        if (col < 0 || col >= w.inWidth) continue;
        sum += x[input_pixel(w, p.batch, 0, row, col) + inChannel] *
               filter[(fr * w.filterWidth + fc) * w.outChannels + p.channel];
      }
    }
    y[i] = sum;
  }
}

KERNEL convolutions_depthwise_input(const float* __restrict__ dy, const float* __restrict__ filter,
                                    float* __restrict__ dx, Window w, long long n) {
  int multiplier = w.outChannels / w.inChannels;
  for (GRID_LOOP(i, n)) {
    Place p = input_place(i, w);
    int outChannel = p.channel * multiplier;
    float sum = 0.0f;
    each_window_over(w, p, [&](size_t pixel, int tap) {
      const float* dyAt = dy + pixel * w.outChannels + outChannel;
      const float* filterAt = filter + (size_t)tap * w.outChannels + outChannel;
      for (int m = 0; m < multiplier; ++m) sum += dyAt[m] * filterAt[m];
    });
    dx[i] = sum;
  }
}

// One block of 32 channels x 32 lanes of pixels for each tap (blockIdx.y): a lane sums every 32nd
// output pixel, then the lanes are added in their order.
KERNEL convolutions_depthwise_filter(const float* __restrict__ x, const float* __restrict__ dy,
                                     float* __restrict__ dw, Window w, long long pixels) {
  __shared__ float sums[32][33];
  int multiplier = w.outChannels / w.inChannels;
  int channel = blockIdx.x * 32 + threadIdx.x;
  int fr = blockIdx.y / w.filterWidth;
  int fc = blockIdx.y % w.filterWidth;
  float sum = 0.0f;
  if (channel < w.outChannels) {
    for (size_t pixel = threadIdx.y; pixel < (size_t)pixels; pixel += 32) {
      Place p = place_of(pixel, 1, w.outHeight, w.outWidth, 1);
      int row = p.row * w.strideHeight - w.padHeight + fr * w.dilationHeight;
      int col = p.col * w.strideWidth - w.padWidth + fc * w.dilationWidth;
      if (row < 0 || row >= w.inHeight || col < 0 || col >= w.inWidth) continue;
      sum += x[input_pixel(w, p.batch, 0, row, col) + channel / multiplier] *
             dy[pixel * w.outChannels + channel];
    }
  }
  sums[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.y == 0 && channel < w.outChannels) {
    for (int lane = 1; lane < 32; ++lane) sum += sums[lane][threadIdx.x];
    dw[(size_t)blockIdx.y * w.outChannels + channel] = sum;
  }
}
