// Images [batch, height, width, channels]: resizing and its gradients, crops, flips, rotations and
// projective transforms. A thread makes one output element, channels fastest. Coordinates are
// float64: which pixel is the nearest must not depend on float32's rounding.
#include "common.cuh"

/** Where an element of an image batch lies. */
struct ImagePlace {
  int batch, row, col, channel;
};

__device__ inline ImagePlace image_place(size_t i, int height, int width, int channels) {
  ImagePlace p;
  p.channel = (int)(i % channels);
  i /= channels;
  p.col = (int)(i % width);
  i /= width;
  p.row = (int)(i % height);
  p.batch = (int)(i / height);
  return p;
}

__device__ inline size_t image_offset(int batch, int row, int col, int channel, int height,
                                      int width, int channels) {
  return (((size_t)batch * height + row) * width + col) * channels + channel;
}

/** JavaScript's Math.round: halves go up. */
__device__ inline double round_half_up(double v) { return floor(v + 0.5); }

__device__ inline float mix(float from, float to, double share) {
  return (float)(from + ((double)to - from) * share);
}

struct Sizes {
  int height, width, newHeight, newWidth, channels;
};

// `rowScale` and `colScale` are input pixels per output pixel; `shift` is 0.5 where pixels have
// their centres at halves, else 0.
KERNEL images_resize_bilinear(const float* __restrict__ x, float* __restrict__ y, Sizes s,
                              double rowScale, double colScale, double shift, long long n) {
  for (GRID_LOOP(i, n)) {
    ImagePlace p = image_place(i, s.newHeight, s.newWidth, s.channels);
    double row = rowScale * (p.row + shift) - shift;
    double col = colScale * (p.col + shift) - shift;
    int top = max(0, (int)floor(row)), bottom = min(s.height - 1, (int)ceil(row));
    int left = max(0, (int)floor(col)), right = min(s.width - 1, (int)ceil(col));
    size_t topAt = image_offset(p.batch, top, 0, p.channel, s.height, s.width, s.channels);
    size_t bottomAt = image_offset(p.batch, bottom, 0, p.channel, s.height, s.width, s.channels);
    float above = mix(x[topAt + (size_t)left * s.channels], x[topAt + (size_t)right * s.channels],
                      col - left);
    float below = mix(x[bottomAt + (size_t)left * s.channels],
                      x[bottomAt + (size_t)right * s.channels], col - left);
    y[i] = mix(above, below, row - top);
  }
}

/** The outputs that can touch input coordinate `at`: those with |output * scale - at| <= 1. */
__device__ inline void touching(int at, double scale, int outputs, int* begin, int* end) {
  *begin = scale == 0.0 ? 0 : max(0, (int)floor((at - 1) / scale) - 1);
  *end = scale == 0.0 ? outputs : min(outputs, (int)ceil((at + 1) / scale) + 2);
}

/** Weight of input coordinate `at` in the bilinear output coordinate `out`. */
__device__ inline double bilinear_weight(int out, double scale, int at, int size) {
  double source = out * scale;
  int low = (int)floor(source);
  int high = min((int)ceil(source), size - 1);
  double share = source - low;
  return (low == at ? 1.0 - share : 0.0) + (high == at ? share : 0.0);
}

// dx [.., height, width, ..] from dy [.., newHeight, newWidth, ..].
KERNEL images_resize_bilinear_grad(const float* __restrict__ dy, float* __restrict__ dx, Sizes s,
                                   double rowScale, double colScale, long long n) {
  for (GRID_LOOP(i, n)) {
    ImagePlace p = image_place(i, s.height, s.width, s.channels);
    int rowBegin, rowEnd, colBegin, colEnd;
    touching(p.row, rowScale, s.newHeight, &rowBegin, &rowEnd);
    touching(p.col, colScale, s.newWidth, &colBegin, &colEnd);
    double sum = 0.0;
    for (int row = rowBegin; row < rowEnd; ++row) {
      double rowWeight = bilinear_weight(row, rowScale, p.row, s.height);
      if (rowWeight == 0.0) continue;
      for (int col = colBegin; col < colEnd; ++col) {
        double weight = rowWeight * bilinear_weight(col, colScale, p.col, s.width);
        if (weight == 0.0) continue;
        sum += weight * dy[image_offset(p.batch, row, col, p.channel, s.newHeight, s.newWidth,
                                        s.channels)];
      }
    }
    dx[i] = (float)sum;
  }
}

__device__ inline int nearest(int out, double scale, double shift, int rounds, int size) {
  double source = scale * (out + shift);
  return max(0, min(size - 1, (int)(rounds ? round_half_up(source) : floor(source))));
}

// `rounds`: to the nearest pixel, where corners are aligned; else down. Copies any 4-byte type.
KERNEL images_resize_nearest(const unsigned* __restrict__ x, unsigned* __restrict__ y, Sizes s,
                             double rowScale, double colScale, double shift, int rounds,
                             long long n) {
  for (GRID_LOOP(i, n)) {
    ImagePlace p = image_place(i, s.newHeight, s.newWidth, s.channels);
    int row = nearest(p.row, rowScale, shift, rounds, s.height);
    int col = nearest(p.col, colScale, shift, rounds, s.width);
    y[i] = x[image_offset(p.batch, row, col, p.channel, s.height, s.width, s.channels)];
  }
}

KERNEL images_resize_nearest_grad(const float* __restrict__ dy, float* __restrict__ dx, Sizes s,
                                  double rowScale, double colScale, int rounds, long long n) {
  for (GRID_LOOP(i, n)) {
    ImagePlace p = image_place(i, s.height, s.width, s.channels);
    int rowBegin, rowEnd, colBegin, colEnd;
    touching(p.row, rowScale, s.newHeight, &rowBegin, &rowEnd);
    touching(p.col, colScale, s.newWidth, &colBegin, &colEnd);
    float sum = 0.0f;
    for (int row = rowBegin; row < rowEnd; ++row) {
      if (nearest(row, rowScale, 0.0, rounds, s.height) != p.row) continue;
      for (int col = colBegin; col < colEnd; ++col) {
        if (nearest(col, colScale, 0.0, rounds, s.width) != p.col) continue;
        sum += dy[image_offset(p.batch, row, col, p.channel, s.newHeight, s.newWidth, s.channels)];
      }
    }
    dx[i] = sum;
  }
}

/** Where crop coordinate `at` of `size` lies in an image's coordinate of `imageSize`. */
__device__ inline double crop_coordinate(double from, double to, int at, int size, int imageSize) {
  if (size == 1) return 0.5 * (from + to) * (imageSize - 1);
  return from * (imageSize - 1) + at * ((to - from) * (imageSize - 1) / (size - 1));
}

// boxes [boxes, 4] are (y1, x1, y2, x2) in shares of the image; a box whose image does not exist
// gives zeros, a place outside of its image gives `outside`. newHeight and newWidth: of a crop.
KERNEL images_crop_and_resize(const float* __restrict__ image, const float* __restrict__ boxes,
                              const int* __restrict__ imageOfBox, float* __restrict__ y, Sizes s,
                              int batch, int bilinear, float outside, long long n) {
  for (GRID_LOOP(i, n)) {
    ImagePlace p = image_place(i, s.newHeight, s.newWidth, s.channels);
    const float* box = boxes + (size_t)p.batch * 4;
    int from = imageOfBox[p.batch];
    double row = crop_coordinate(box[0], box[2], p.row, s.newHeight, s.height);
    double col = crop_coordinate(box[1], box[3], p.col, s.newWidth, s.width);
    if (from < 0 || from >= batch) {
      y[i] = 0.0f;
    } else if (!(row >= 0 && row <= s.height - 1 && col >= 0 && col <= s.width - 1)) {
      y[i] = outside;
    } else {
      const float* pixels =
          image + image_offset(from, 0, 0, p.channel, s.height, s.width, s.channels);
      size_t rowStride = (size_t)s.width * s.channels;
      if (bilinear) {
        size_t top = (size_t)floor(row) * rowStride, bottom = (size_t)ceil(row) * rowStride;
        size_t left = (size_t)floor(col) * s.channels, right = (size_t)ceil(col) * s.channels;
        double colShare = col - floor(col);
        float above = mix(pixels[top + left], pixels[top + right], colShare);
        float below = mix(pixels[bottom + left], pixels[bottom + right], colShare);
        y[i] = mix(above, below, row - floor(row));
      } else {
        y[i] = pixels[(size_t)round_half_up(row) * rowStride +
                      (size_t)round_half_up(col) * s.channels];
      }
    }
  }
}

KERNEL images_flip_left_right(const float* __restrict__ x, float* __restrict__ y, int width,
                              int channels, long long n) {
  for (GRID_LOOP(i, n)) {
    ImagePlace p = image_place(i, 1, width, channels);
    y[i] = x[i + ((size_t)(width - 1 - p.col) - p.col) * channels];
  }
}

struct Fill {
  float channel[4];
};

// `fill` is what lies outside of the image; its last value also serves channels past the fourth.
KERNEL images_rotate(const float* __restrict__ x, float* __restrict__ y, int height, int width,
                     int channels, double sine, double cosine, double centerX, double centerY,
                     Fill fill, long long n) {
  for (GRID_LOOP(i, n)) {
    ImagePlace p = image_place(i, height, width, channels);
    double dx = p.col - centerX, dy = p.row - centerY;
    double col = round_half_up(dx * cosine - dy * sine + centerX);
    double row = round_half_up(dx * sine + dy * cosine + centerY);
    bool inside = col >= 0 && col < width && row >= 0 && row < height;
    y[i] = inside ? x[image_offset(p.batch, (int)row, (int)col, p.channel, height, width, channels)]
                  : fill.channel[min(p.channel, 3)];
  }
}

// The codes that images.ts gives to tfjs's fill modes.
enum { CONSTANT, REFLECT, WRAP, NEAREST };

/** Brings a coordinate outside of [0, size) back into it, as the fill mode says. */
__device__ inline double map_coordinate(double at, int size, int mode) {
  if (mode == CONSTANT) return at;
  double last = size - 1;
  if (at < 0) {
    if (mode == REFLECT) {
      double period = 2.0 * size;
      if (size <= 1) {
        at = 0;
      } else {
        at += period * trunc(-at / period);
        at = at < -size ? at + period : -at - 1;
      }
    } else if (mode == WRAP) {
      at = size <= 1 ? 0 : at + size * (trunc(-at / last) + 1);
    }
  } else if (at > last) {
    if (mode == REFLECT) {
      double period = 2.0 * size;
      if (size <= 1) {
        at = 0;
      } else {
        at -= period * trunc(at / period);
        if (at >= size) at = period - at - 1;
      }
    } else if (mode == WRAP) {
      at = size <= 1 ? 0 : at - size * trunc(at / last);
    }
  }
  // Also for reflect and wrap: 3.5 in an image of 4 would round to 4.
  return fmin(fmax(at, 0.0), last);
}

__device__ inline double image_or_fill(const float* pixels, double row, double col, int height,
                                       int width, int channels, float fill) {
  bool inside = row >= 0 && row < height && col >= 0 && col < width;
  return inside ? pixels[((size_t)row * width + (size_t)col) * channels] : fill;
}

// `transforms` [batch or 1, 8]: an output pixel (x, y) takes the input's pixel at
// ((a0 x + a1 y + a2) / k, (b0 x + b1 y + b2) / k), k = c0 x + c1 y + 1. `transformStride` is 8, or
// 0 where one transform serves all.
KERNEL images_transform(const float* __restrict__ x, const float* __restrict__ transforms,
                        float* __restrict__ y, Sizes s, int transformStride, int bilinear, int mode,
                        float fill, long long n) {
  for (GRID_LOOP(i, n)) {
    ImagePlace p = image_place(i, s.newHeight, s.newWidth, s.channels);
    const float* t = transforms + (size_t)p.batch * transformStride;
    double scale = (double)t[6] * p.col + (double)t[7] * p.row + 1.0;
    if (scale == 0.0) {
      y[i] = fill;
      continue;
    }
    double col = ((double)t[0] * p.col + (double)t[1] * p.row + t[2]) / scale;
    double row = ((double)t[3] * p.col + (double)t[4] * p.row + t[5]) / scale;
    col = map_coordinate(col, s.width, mode);
    row = map_coordinate(row, s.height, mode);
    const float* pixels = x + image_offset(p.batch, 0, 0, p.channel, s.height, s.width, s.channels);
    if (bilinear) {
      double left = floor(col), top = floor(row);
      double corners[2][2];
      for (int r = 0; r < 2; ++r) {
        for (int c = 0; c < 2; ++c) {
          corners[r][c] =
              image_or_fill(pixels, top + r, left + c, s.height, s.width, s.channels, fill);
        }
      }
      double toRight = col - left, toBottom = row - top;
      double above = (1.0 - toRight) * corners[0][0] + toRight * corners[0][1];
      double below = (1.0 - toRight) * corners[1][0] + toRight * corners[1][1];
      y[i] = (float)((1.0 - toBottom) * above + toBottom * below);
    } else {
      y[i] = (float)image_or_fill(pixels, round_half_up(row), round_half_up(col), s.height, s.width,
                                  s.channels, fill);
    }
  }
}
