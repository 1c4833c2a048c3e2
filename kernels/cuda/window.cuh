// A window that slides over channel-last volumes [batch, depth, height, width, channels]: what
// convolutions, pooling and morphological dilation share. A plane image is a volume of depth 1.
#pragma once

struct Window {
  int batch, inDepth, inHeight, inWidth, inChannels;
  int outDepth, outHeight, outWidth, outChannels;
  int filterDepth, filterHeight, filterWidth;
  int strideDepth, strideHeight, strideWidth;
  int dilationDepth, dilationHeight, dilationWidth;
  // Padding before the first element; `same` in three dimensions can make it negative.
  int padDepth, padHeight, padWidth;
};

/** Where an element lies in a channel-last volume. */
struct Place {
  int batch, depth, row, col, channel;
};

__device__ inline Place place_of(size_t i, int depth, int height, int width, int channels) {
  Place p;
  p.channel = (int)(i % channels);
  i /= channels;
  p.col = (int)(i % width);
  i /= width;
  p.row = (int)(i % height);
  i /= height;
  p.depth = (int)(i % depth);
  p.batch = (int)(i / depth);
  return p;
}

__device__ inline Place input_place(size_t i, const Window& w) {
  return place_of(i, w.inDepth, w.inHeight, w.inWidth, w.inChannels);
}

__device__ inline Place output_place(size_t i, const Window& w) {
  return place_of(i, w.outDepth, w.outHeight, w.outWidth, w.outChannels);
}

/** Offset of channel 0 of a pixel of the input. */
__device__ inline size_t input_pixel(const Window& w, int batch, int depth, int row, int col) {
  size_t row0 = ((size_t)batch * w.inDepth + depth) * w.inHeight;
  return ((row0 + row) * w.inWidth + col) * w.inChannels;
}

/** Number of a pixel of the output; times outChannels it is an offset. */
__device__ inline size_t output_pixel(const Window& w, int batch, int depth, int row, int col) {
  return (((size_t)batch * w.outDepth + depth) * w.outHeight + row) * w.outWidth + col;
}

/**
 * The output coordinate whose window has input coordinate `x` under its tap, or -1 where there is
 * none.
 */
__device__ inline int window_over(int x, int pad, int tap, int dilation, int stride, int out) {
  int begin = x + pad - tap * dilation;
  if (begin < 0 || begin % stride != 0) return -1;
  begin /= stride;
  return begin < out ? begin : -1;
}

/** Calls visit(output pixel's number, tap) for every window over the input's place `p`. */
template <typename Visit>
__device__ inline void each_window_over(const Window& w, Place p, Visit visit) {
  for (int fd = 0; fd < w.filterDepth; ++fd) {
    int depth = window_over(p.depth, w.padDepth, fd, w.dilationDepth, w.strideDepth, w.outDepth);
    if (depth < 0) continue;
    for (int fr = 0; fr < w.filterHeight; ++fr) {
      int row = window_over(p.row, w.padHeight, fr, w.dilationHeight, w.strideHeight, w.outHeight);
      if (row < 0) continue;
      for (int fc = 0; fc < w.filterWidth; ++fc) {
        int col = window_over(p.col, w.padWidth, fc, w.dilationWidth, w.strideWidth, w.outWidth);
        if (col < 0) continue;
        visit(output_pixel(w, p.batch, depth, row, col),
              (fd * w.filterHeight + fr) * w.filterWidth + fc);
      }
    }
  }
}
