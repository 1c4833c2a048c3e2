// Cumulative sums and products of x [outer, n, inner] along n, forwards or in reverse, with or without the element itself.
// A line is one (outer, inner); it is cut into chunks, so that few long lines fill the device too: a first launch writes each
// chunk's total, a second one scans the totals, a third one scans the chunks from there. Short lines take the third alone.
// scan_block gives a chunk to a block; scan_thread gives it to a thread, where neighbouring lines lie side by side.
#include "common.cuh"

#define THREADS 256
#define ITEMS 4

struct AddFloat {
  typedef float T;
  typedef double Acc;
  static __device__ __forceinline__ Acc one() { return 0.0; }
  static __device__ __forceinline__ Acc join(Acc a, Acc b) { return a + b; }
};
struct MultiplyFloat {
  typedef float T;
  typedef double Acc;
  static __device__ __forceinline__ Acc one() { return 1.0; }
  static __device__ __forceinline__ Acc join(Acc a, Acc b) { return a * b; }
};
struct AddInt {
  typedef int T;
  typedef unsigned Acc;
  static __device__ __forceinline__ Acc one() { return 0; }
  static __device__ __forceinline__ Acc join(Acc a, Acc b) { return a + b; }
};
struct MultiplyInt {
  typedef int T;
  typedef unsigned Acc;
  static __device__ __forceinline__ Acc one() { return 1; }
  static __device__ __forceinline__ Acc join(Acc a, Acc b) { return a * b; }
};

// Which elements a launch works on. `before`: what precedes each chunk [lines, chunks], or null for nothing.
// `totals`: write each chunk's total to y [lines, chunks] in place of the scan.
struct Span {
  long long n, inner, chunk;
  int reverse, exclusive, totals;
};

template <typename Op>
__device__ __forceinline__ void scan_block(const typename Op::T *__restrict__ x, typename Op::T *__restrict__ y,
                                           const typename Op::T *__restrict__ before, const Span &span) {
  typedef typename Op::T T;
  typedef typename Op::Acc Acc;
  __shared__ Acc warps[THREADS / 32];
  const long long line = blockIdx.x, outer = line / span.inner;
  const long long base = outer * span.n * span.inner + (line - outer * span.inner);
  const long long from = blockIdx.y * span.chunk;
  const long long to = from + span.chunk < span.n ? from + span.chunk : span.n;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  Acc carry = before ? Acc(before[line * gridDim.y + blockIdx.y]) : Op::one();
  for (long long tile = from; tile < to; tile += THREADS * ITEMS) {
    Acc values[ITEMS], total = Op::one();
    long long places[ITEMS];
#pragma unroll
    for (int k = 0; k < ITEMS; k++) {
      const long long i = tile + threadIdx.x * ITEMS + k;
      places[k] = base + (span.reverse ? span.n - 1 - i : i) * span.inner;
      values[k] = i < to ? Acc(x[places[k]]) : Op::one();
      total = Op::join(total, values[k]);
    }
    // What precedes this thread in its warp, then this warp in its block.
    Acc upTo = total;
#pragma unroll
    for (int offset = 1; offset < 32; offset *= 2) {
      const Acc other = __shfl_up_sync(0xffffffffu, upTo, offset);
      if (lane >= offset) upTo = Op::join(other, upTo);
    }
    if (lane == 31) warps[warp] = upTo;
    const Acc previous = __shfl_up_sync(0xffffffffu, upTo, 1);
    __syncthreads();
    Acc acc = carry;
    for (int w = 0; w < THREADS / 32; w++) {
      if (w < warp) acc = Op::join(acc, warps[w]);
      carry = Op::join(carry, warps[w]);
    }
    if (lane > 0) acc = Op::join(acc, previous);
    if (!span.totals) {
#pragma unroll
      for (int k = 0; k < ITEMS; k++) {
        const Acc next = Op::join(acc, values[k]);
        if (tile + threadIdx.x * ITEMS + k < to) y[places[k]] = T(span.exclusive ? acc : next);
        acc = next;
      }
    }
    __syncthreads();
  }
  if (span.totals && threadIdx.x == 0) y[line * gridDim.y + blockIdx.y] = T(carry);
}

template <typename Op>
__device__ __forceinline__ void scan_thread(const typename Op::T *__restrict__ x, typename Op::T *__restrict__ y,
                                            const typename Op::T *__restrict__ before, const Span &span, long long lines) {
  typedef typename Op::T T;
  typedef typename Op::Acc Acc;
  const long long line = blockIdx.x * (long long)blockDim.x + threadIdx.x;
  if (line >= lines) return;
  const long long outer = line / span.inner;
  const long long base = outer * span.n * span.inner + (line - outer * span.inner);
  const long long from = blockIdx.y * span.chunk;
  const long long to = from + span.chunk < span.n ? from + span.chunk : span.n;
  Acc acc = before ? Acc(before[line * gridDim.y + blockIdx.y]) : Op::one();
#pragma unroll 4
  for (long long i = from; i < to; i++) {
    const long long place = base + (span.reverse ? span.n - 1 - i : i) * span.inner;
    const Acc next = Op::join(acc, Acc(x[place]));
    if (!span.totals) y[place] = T(span.exclusive ? acc : next);
    acc = next;
  }
  if (span.totals) y[line * gridDim.y + blockIdx.y] = T(acc);
}

#define SCAN(name, Op)                                                                                               \
  KERNEL __launch_bounds__(THREADS)                                                                                  \
  scan_block_##name(const Op::T *x, Op::T *y, const Op::T *before, long long lines, long long n, long long inner,    \
                    long long chunk, int reverse, int exclusive, int totals) {                                       \
    scan_block<Op>(x, y, before, Span{n, inner, chunk, reverse, exclusive, totals});                                 \
  }                                                                                                                  \
  KERNEL __launch_bounds__(THREADS)                                                                                  \
  scan_thread_##name(const Op::T *x, Op::T *y, const Op::T *before, long long lines, long long n, long long inner,   \
                     long long chunk, int reverse, int exclusive, int totals) {                                      \
    scan_thread<Op>(x, y, before, Span{n, inner, chunk, reverse, exclusive, totals}, lines);                         \
  }

SCAN(sum_f32, AddFloat)
SCAN(sum_i32, AddInt)
SCAN(prod_f32, MultiplyFloat)
SCAN(prod_i32, MultiplyInt)
