// Rotary position embedding (Su et al. 2021) of rows of heads.
//
//   nvcc -ptx -arch=compute_80 -std=c++17 rotary.cu
#include "rows.cuh"

// x and out [rows, heads · headDim], cos and sin [positions, headDim]; row r is at position r % positions. sin is
// negated in the first half of each row. direction −1 turns back, which is the gradient. headDim is even.
template <typename T>
__device__ __forceinline__ void rotary_rows(const T *__restrict__ x, const float *__restrict__ cos,
                                            const float *__restrict__ sin, T *__restrict__ out, long long n, int width,
                                            int headDim, int positions, float direction) {
  const int half = headDim / 2;
  for (GRID_LOOP(i, n)) {
    const int column = i % width, at = column % headDim, position = (i / width) % positions;
    const long long partner = at < half ? i + half : i - half;
    const int table = position * headDim + at;
    out[i] = from_float<T>(to_float(x[i]) * cos[table] + direction * to_float(x[partner]) * sin[table]);
  }
}

KERNEL __launch_bounds__(256) rotary_f32(const float *x, const float *cos, const float *sin, float *out, long long n,
                                         int width, int headDim, int positions, float direction) {
  rotary_rows(x, cos, sin, out, n, width, headDim, positions, direction);
}
KERNEL __launch_bounds__(256) rotary_bf16(const bf16 *x, const float *cos, const float *sin, bf16 *out, long long n,
                                          int width, int headDim, int positions, float direction) {
  rotary_rows(x, cos, sin, out, n, width, headDim, positions, direction);
}
