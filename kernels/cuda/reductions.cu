// Reductions, softmax and counts. A reduction sees its operand as [outer, n, inner] and reduces n. Any set of axes becomes a
// sequence of such passes, so that no operand is transposed first. A pass takes one of four forms:
//   lanes    inner = 1, short rows: a power of two of lanes, at most a warp, for each row
//   row      inner = 1, long rows: a block for each part of a row; a row in several parts takes a second pass
//   column   inner > 1: a block reads `width` neighbouring columns; again in parts where there are few columns
//   thread   inner > 1 and short n: a thread for each output
// Partial results lie as [outer, parts, inner]. Every order of summation is fixed by the shape alone: same input, same bits.
// float32 sums and products are kept in float64 within a pass, as JavaScript keeps them.
#include "common.cuh"

#define THREADS 256

__device__ __forceinline__ float read(float x) { return x; }
__device__ __forceinline__ int read(int x) { return x; }
__device__ __forceinline__ unsigned char read(unsigned char x) { return x; }
__device__ __forceinline__ float read(bf16 x) { return __bfloat162float(x); }

// A reduction: Acc is its state; start gets the first element, which step gets too.
struct SumFloat {
  typedef double Acc;
  static __device__ __forceinline__ Acc start(float) { return 0.0; }
  static __device__ __forceinline__ void step(Acc &acc, float x, int) { acc += x; }
  static __device__ __forceinline__ void join(Acc &acc, Acc other) { acc += other; }
  static __device__ __forceinline__ float finish(Acc acc, double) { return (float)acc; }
};
struct MeanFloat : SumFloat {
  static __device__ __forceinline__ float finish(Acc acc, double count) { return (float)(acc / count); }
};
struct ProdFloat {
  typedef double Acc;
  static __device__ __forceinline__ Acc start(float) { return 1.0; }
  static __device__ __forceinline__ void step(Acc &acc, float x, int) { acc *= x; }
  static __device__ __forceinline__ void join(Acc &acc, Acc other) { acc *= other; }
  static __device__ __forceinline__ float finish(Acc acc, double) { return (float)acc; }
};
struct SumInt {
  typedef unsigned Acc;  // wraps
  static __device__ __forceinline__ Acc start(int) { return 0; }
  static __device__ __forceinline__ void step(Acc &acc, int x, int) { acc += (unsigned)x; }
  static __device__ __forceinline__ void join(Acc &acc, Acc other) { acc += other; }
  static __device__ __forceinline__ int finish(Acc acc, double) { return (int)acc; }
};
struct ProdInt {
  typedef unsigned Acc;
  static __device__ __forceinline__ Acc start(int) { return 1; }
  static __device__ __forceinline__ void step(Acc &acc, int x, int) { acc *= (unsigned)x; }
  static __device__ __forceinline__ void join(Acc &acc, Acc other) { acc *= other; }
  static __device__ __forceinline__ int finish(Acc acc, double) { return (int)acc; }
};
// NaN once seen stays: it is taken, and no comparison with it is true.
template <typename T, bool GREATEST> struct Extreme {
  typedef T Acc;
  static __device__ __forceinline__ Acc start(T first) { return first; }
  static __device__ __forceinline__ void step(Acc &acc, T x, int) { join(acc, x); }
  static __device__ __forceinline__ void join(Acc &acc, Acc x) {
    if ((GREATEST ? x > acc : x < acc) || x != x) acc = x;
  }
  static __device__ __forceinline__ T finish(Acc acc, double) { return acc; }
};
template <bool ALL> struct Truth {
  typedef int Acc;
  static __device__ __forceinline__ Acc start(unsigned char) { return ALL; }
  static __device__ __forceinline__ void step(Acc &acc, unsigned char x, int) { join(acc, x != 0); }
  static __device__ __forceinline__ void join(Acc &acc, Acc x) { acc = ALL ? acc & x : acc | x; }
  static __device__ __forceinline__ unsigned char finish(Acc acc, double) { return (unsigned char)acc; }
};
// The first of the greatest elements; NaN is passed over, but as the first element it wins. Each part of the work starts
// from the first element of all, with index 0.
template <typename T> struct Place {
  T value;
  int index;
};
template <typename T, bool GREATEST> struct ArgExtreme {
  typedef Place<T> Acc;
  static __device__ __forceinline__ Acc start(T first) { return Acc{first, 0}; }
  static __device__ __forceinline__ void step(Acc &acc, T x, int index) {
    if (GREATEST ? x > acc.value : x < acc.value) acc = Acc{x, index};
  }
  static __device__ __forceinline__ void join(Acc &acc, Acc x) {
    if ((GREATEST ? x.value > acc.value : x.value < acc.value) || (x.value == acc.value && x.index < acc.index)) acc = x;
  }
  static __device__ __forceinline__ int finish(Acc acc, double) { return acc.index; }
};

template <typename T> __device__ __forceinline__ T exchange(T x, int offset) {
  return __shfl_xor_sync(0xffffffffu, x, offset);
}
template <typename T> __device__ __forceinline__ Place<T> exchange(Place<T> x, int offset) {
  return Place<T>{__shfl_xor_sync(0xffffffffu, x.value, offset), __shfl_xor_sync(0xffffffffu, x.index, offset)};
}

// x [rows, n] to y [rows]; `width` lanes a row, a power of two up to 32.
template <typename R, typename In, typename Out>
__device__ __forceinline__ void reduce_lanes(const In *__restrict__ x, Out *__restrict__ y, long long rows, int n,
                                             int width, double count) {
  const int lane = threadIdx.x & (width - 1);
  const long long row = (long long)blockIdx.x * (THREADS / width) + threadIdx.x / width;
  const bool inside = row < rows;
  const In *line = x + (inside ? row * n : 0);
  typename R::Acc acc = R::start(n > 0 ? read(line[0]) : decltype(read(*x))(0));
#pragma unroll 8
  for (int i = lane; i < n; i += width) R::step(acc, read(line[i]), i);
  for (int offset = width / 2; offset > 0; offset /= 2) R::join(acc, exchange(acc, offset));
  if (inside && lane == 0) y[row] = R::finish(acc, count);
}

// x [rows, n] to y [rows, parts]; block (row, part) reduces `chunk` elements.
template <typename R, typename In, typename Out>
__device__ __forceinline__ void reduce_row(const In *__restrict__ x, Out *__restrict__ y, long long n, long long chunk,
                                           double count) {
  __shared__ typename R::Acc warps[THREADS / 32];
  const In *line = x + (long long)blockIdx.x * n;
  const long long from = (long long)blockIdx.y * chunk;
  const long long to = from + chunk < n ? from + chunk : n;
  typename R::Acc acc = R::start(read(line[from]));
#pragma unroll 8
  for (long long i = from + threadIdx.x; i < to; i += THREADS) R::step(acc, read(line[i]), (int)i);
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) R::join(acc, exchange(acc, offset));
  if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = acc;
  __syncthreads();
  if (threadIdx.x != 0) return;
  for (int w = 1; w < THREADS / 32; w++) R::join(acc, warps[w]);
  y[(long long)blockIdx.x * gridDim.y + blockIdx.y] = R::finish(acc, count);
}

// x [outer, n, inner] to y [outer, parts, inner]; block (outer and group of `width` columns, part).
template <typename R, typename In, typename Out>
__device__ __forceinline__ void reduce_column(const In *__restrict__ x, Out *__restrict__ y, long long n, long long inner,
                                              long long chunk, int width, double count) {
  __shared__ typename R::Acc accs[THREADS];
  const long long groups = (inner + width - 1) / width;
  const long long outer = blockIdx.x / groups;
  const int tx = threadIdx.x & (width - 1), ty = threadIdx.x / width, height = THREADS / width;
  const long long column = (blockIdx.x - outer * groups) * width + tx;
  const bool inside = column < inner;
  const In *line = x + outer * n * inner + (inside ? column : 0);
  const long long from = (long long)blockIdx.y * chunk;
  const long long to = from + chunk < n ? from + chunk : n;
  typename R::Acc acc = R::start(read(line[from * inner]));
#pragma unroll 8
  for (long long i = from + ty; i < to; i += height) R::step(acc, read(line[i * inner]), (int)i);
  accs[threadIdx.x] = acc;
  for (int half = height / 2; half > 0; half /= 2) {
    __syncthreads();
    if (ty < half) R::join(accs[threadIdx.x], accs[threadIdx.x + half * width]);
  }
  if (inside && ty == 0) y[(outer * gridDim.y + blockIdx.y) * inner + column] = R::finish(accs[threadIdx.x], count);
}

// x [outer, n, inner] to y [outer, inner], a thread each.
template <typename R, typename In, typename Out>
__device__ __forceinline__ void reduce_thread(const In *__restrict__ x, Out *__restrict__ y, long long outputs, int n,
                                              long long inner, double count) {
  for (GRID_LOOP(o, outputs)) {
    const long long outer = (long long)((unsigned long long)o / (unsigned long long)inner);
    const In *line = x + outer * n * inner + (o - outer * inner);
    typename R::Acc acc = R::start(n > 0 ? read(line[0]) : decltype(read(*x))(0));
#pragma unroll 4
    for (int i = 0; i < n; i++) R::step(acc, read(line[i * inner]), i);
    y[o] = R::finish(acc, count);
  }
}

#define REDUCTION(name, In, Out, ...)                                                                                \
  KERNEL __launch_bounds__(THREADS)                                                                                  \
  reduce_lanes_##name(const In *x, Out *y, long long rows, int n, int width, double count) {                         \
    reduce_lanes<__VA_ARGS__>(x, y, rows, n, width, count);                                                          \
  }                                                                                                                  \
  KERNEL __launch_bounds__(THREADS)                                                                                  \
  reduce_row_##name(const In *x, Out *y, long long n, long long chunk, double count) {                               \
    reduce_row<__VA_ARGS__>(x, y, n, chunk, count);                                                                  \
  }                                                                                                                  \
  KERNEL __launch_bounds__(THREADS)                                                                                  \
  reduce_column_##name(const In *x, Out *y, long long n, long long inner, long long chunk, int width, double count) { \
    reduce_column<__VA_ARGS__>(x, y, n, inner, chunk, width, count);                                                 \
  }                                                                                                                  \
  KERNEL __launch_bounds__(THREADS)                                                                                  \
  reduce_thread_##name(const In *x, Out *y, long long outputs, int n, long long inner, double count) {               \
    reduce_thread<__VA_ARGS__>(x, y, outputs, n, inner, count);                                                      \
  }

REDUCTION(sum_f32, float, float, SumFloat)
REDUCTION(sum_bf16, bf16, float, SumFloat)
REDUCTION(sum_i32, int, int, SumInt)
REDUCTION(sum_bool, unsigned char, int, SumInt)
REDUCTION(mean_f32, float, float, MeanFloat)
REDUCTION(prod_f32, float, float, ProdFloat)
REDUCTION(prod_i32, int, int, ProdInt)
REDUCTION(max_f32, float, float, Extreme<float, true>)
REDUCTION(max_i32, int, int, Extreme<int, true>)
REDUCTION(min_f32, float, float, Extreme<float, false>)
REDUCTION(min_i32, int, int, Extreme<int, false>)
REDUCTION(all_bool, unsigned char, unsigned char, Truth<true>)
REDUCTION(any_bool, unsigned char, unsigned char, Truth<false>)
REDUCTION(argmax_f32, float, int, ArgExtreme<float, true>)
REDUCTION(argmax_i32, int, int, ArgExtreme<int, true>)
REDUCTION(argmin_f32, float, int, ArgExtreme<float, false>)
REDUCTION(argmin_i32, int, int, ArgExtreme<int, false>)

// ---------------------------------------------------------------------------------------------------------------------
// Softmax of the rows of x [rows, n], or its logarithm. NaN in a row makes the whole row NaN, by the sum.

// A warp for each row, which stays in registers: n <= 32 * ITEMS.
template <int ITEMS>
__device__ __forceinline__ void softmax_warp(const float *__restrict__ x, float *__restrict__ y, long long rows, int n,
                                             int logarithm) {
  const long long row = (long long)blockIdx.x * (THREADS / 32) + threadIdx.x / 32;
  if (row >= rows) return;
  const int lane = threadIdx.x % 32;
  x += row * n;
  y += row * n;
  float values[ITEMS], greatest = -INFINITY;
#pragma unroll
  for (int k = 0; k < ITEMS; k++) {
    const int i = lane + 32 * k;
    values[k] = i < n ? x[i] : -INFINITY;
    greatest = fmaxf(greatest, values[k]);
  }
  greatest = warp_max(greatest);
  float sum = 0.0f;
#pragma unroll
  for (int k = 0; k < ITEMS; k++)
    if (lane + 32 * k < n) sum += expf(values[k] - greatest);
  sum = warp_sum(sum);
  const float scale = 1.0f / sum, shift = logf(sum);
#pragma unroll
  for (int k = 0; k < ITEMS; k++) {
    const int i = lane + 32 * k;
    if (i < n) y[i] = logarithm ? values[k] - greatest - shift : expf(values[k] - greatest) * scale;
  }
}

KERNEL __launch_bounds__(THREADS) softmax_warp_4(const float *x, float *y, long long rows, int n, int logarithm) {
  softmax_warp<4>(x, y, rows, n, logarithm);
}
KERNEL __launch_bounds__(THREADS) softmax_warp_16(const float *x, float *y, long long rows, int n, int logarithm) {
  softmax_warp<16>(x, y, rows, n, logarithm);
}

// A block for each row, which is read three times, mostly from the caches.
KERNEL __launch_bounds__(THREADS) softmax_block(const float *__restrict__ x, float *__restrict__ y, long long n,
                                                int logarithm) {
  __shared__ float shared[32];
  x += blockIdx.x * n;
  y += blockIdx.x * n;
  float greatest = -INFINITY;
#pragma unroll 4
  for (long long i = threadIdx.x; i < n; i += THREADS) greatest = fmaxf(greatest, x[i]);
  greatest = block_max(greatest, shared);
  float sum = 0.0f;
#pragma unroll 4
  for (long long i = threadIdx.x; i < n; i += THREADS) sum += expf(x[i] - greatest);
  sum = block_sum(sum, shared);
  const float scale = 1.0f / sum, shift = logf(sum);
#pragma unroll 4
  for (long long i = threadIdx.x; i < n; i += THREADS)
    y[i] = logarithm ? x[i] - greatest - shift : expf(x[i] - greatest) * scale;
}

// ---------------------------------------------------------------------------------------------------------------------
// y[row, bin] = sum over j of weights[row, j] where x[row, j] = bin; weight 1 where there are no weights; `binary`: whether
// there is any. Block row * bins + bin reads the whole row, so that the order of the sum is fixed.
template <typename T, typename R>
__device__ __forceinline__ void bincount(const int *__restrict__ x, const T *__restrict__ weights, T *__restrict__ y,
                                         long long n, int bins, int weighted, int binary) {
  __shared__ typename R::Acc warps[THREADS / 32];
  const long long row = blockIdx.x / bins;
  const int bin = blockIdx.x % bins;
  typename R::Acc acc = 0;
  for (long long j = threadIdx.x; j < n; j += THREADS)
    if (x[row * n + j] == bin) R::step(acc, weighted ? weights[row * n + j] : T(1), 0);
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) R::join(acc, exchange(acc, offset));
  if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = acc;
  __syncthreads();
  if (threadIdx.x != 0) return;
  for (int w = 1; w < THREADS / 32; w++) R::join(acc, warps[w]);
  const T total = R::finish(acc, 1.0);
  y[blockIdx.x] = binary ? T(total != T(0)) : total;
}
KERNEL bincount_f32(const int *x, const float *weights, float *y, long long n, int bins, int weighted, int binary) {
  bincount<float, SumFloat>(x, weights, y, n, bins, weighted, binary);
}
KERNEL bincount_i32(const int *x, const int *weights, int *y, long long n, int bins, int weighted, int binary) {
  bincount<int, SumInt>(x, weights, y, n, bins, weighted, binary);
}
