// Sums over the leading axis of a matrix, in a fixed order: chunks of rows first, then the chunks.
//
//   nvcc -ptx -arch=compute_80 -std=c++17 column-sum.cu
#include "rows.cuh"

// partial [gridDim.y, columns]; 128 columns a block, four a thread and 8 rows at a time. columns is a multiple of 4.
template <typename T>
__device__ __forceinline__ void column_sum_chunks(const T *__restrict__ x, float *__restrict__ partial, int rows,
                                                  int columns) {
  __shared__ float4 sums[8][32];
  const int lane = threadIdx.x % 32, group = threadIdx.x / 32, column = blockIdx.x * 128 + lane * 4;
  float4 total = make_float4(0, 0, 0, 0);
  if (column < columns) {
#pragma unroll 4
    for (int row = blockIdx.y * 8 + group; row < rows; row += gridDim.y * 8) {
      const float4 v = load4(x + (size_t)row * columns + column);
      total.x += v.x, total.y += v.y, total.z += v.z, total.w += v.w;
    }
  }
  sums[group][lane] = total;
  __syncthreads();
  const int at = blockIdx.x * 128 + threadIdx.x;
  if (threadIdx.x < 128 && at < columns) {
    float sum = 0;
#pragma unroll
    for (int i = 0; i < 8; i++) sum += reinterpret_cast<const float *>(sums[i])[threadIdx.x];
    partial[(size_t)blockIdx.y * columns + at] = sum;
  }
}

KERNEL __launch_bounds__(256) column_sum_f32(const float *x, float *partial, int rows, int columns) {
  column_sum_chunks(x, partial, rows, columns);
}
KERNEL __launch_bounds__(256) column_sum_bf16(const bf16 *x, float *partial, int rows, int columns) {
  column_sum_chunks(x, partial, rows, columns);
}

// The same for any number of columns: 32 a block.
KERNEL __launch_bounds__(256) column_sum_f32_any(const float *x, float *partial, int rows, int columns) {
  __shared__ float sums[8][32];
  const int lane = threadIdx.x % 32, group = threadIdx.x / 32, column = blockIdx.x * 32 + lane;
  float total = 0;
  if (column < columns) {
    for (int row = blockIdx.y * 8 + group; row < rows; row += gridDim.y * 8) total += x[(size_t)row * columns + column];
  }
  sums[group][lane] = total;
  __syncthreads();
  if (group == 0 && column < columns) {
    total = 0;
    for (int i = 0; i < 8; i++) total += sums[i][lane];
    partial[(size_t)blockIdx.y * columns + column] = total;
  }
}

// Adds the chunks up: partial [chunks, columns] to the first `split` columns in out, the others in rest (which may be
// null where there are none, or nobody wants them).
KERNEL __launch_bounds__(1024) column_sum_finish(const float *partial, float *out, float *rest, int chunks, int columns,
                                                 int split) {
  __shared__ float sums[32][33];
  const int lane = threadIdx.x % 32, group = threadIdx.x / 32, column = blockIdx.x * 32 + lane;
  float total = 0;
  if (column < columns) {
    for (int chunk = group; chunk < chunks; chunk += 32) total += partial[(size_t)chunk * columns + column];
  }
  sums[group][lane] = total;
  __syncthreads();
  // Transposed, so that a warp adds one column.
  total = warp_sum(sums[lane][group]);
  const int at = blockIdx.x * 32 + group;
  if (lane == 0 && at < columns) {
    if (at < split) out[at] = total;
    else if (rest) rest[at - split] = total;
  }
}
