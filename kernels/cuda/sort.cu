// The k greatest of each row, places in sorted rows, and draws from distributions.
//
// top-k sorts 64-bit keys: above the element's bits in an order that unsigned comparison follows, greatest first, below its
// index. No two keys are equal, so equal elements keep their order. Rows are padded to a power of two and sorted by a
// bitonic network (Batcher 1968): strides below TILE in shared memory, wider ones in steps over device memory.
#include "common.cuh"

#define TILE 1024

typedef unsigned long long Key;

__device__ __forceinline__ unsigned descending(float x) {
  const unsigned bits = __float_as_uint(x + 0.0f);  // -0 counts as 0
  return (bits >> 31) != 0 ? bits : ~bits & 0x7fffffffu;
}
__device__ __forceinline__ unsigned descending(int x) { return ~((unsigned)x ^ 0x80000000u); }

// keys [rows * padded], up to `total`, which is a multiple of TILE, from x [rows, n]
template <typename T>
__device__ __forceinline__ void make_keys(const T *__restrict__ x, Key *__restrict__ keys, long long total, long long rows,
                                          long long n, long long padded) {
  for (GRID_LOOP(i, total)) {
    const long long row = i / padded, j = i - row * padded;
    keys[i] = row < rows && j < n ? (Key)descending(x[row * n + j]) << 32 | (Key)j : ~0ull;
  }
}
KERNEL sort_keys_f32(const float *x, Key *keys, long long total, long long rows, long long n, long long padded) {
  make_keys(x, keys, total, rows, n, padded);
}
KERNEL sort_keys_i32(const int *x, Key *keys, long long total, long long rows, long long n, long long padded) {
  make_keys(x, keys, total, rows, n, padded);
}

// The network's phases from size `from` to size `to`, as far as strides stay within a tile; a block of TILE / 2 threads.
KERNEL __launch_bounds__(TILE / 2) sort_tile(Key *keys, long long padded, long long from, long long to) {
  __shared__ Key tile[TILE];
  Key *mine = keys + (long long)blockIdx.x * TILE;
  tile[threadIdx.x] = mine[threadIdx.x];
  tile[threadIdx.x + TILE / 2] = mine[threadIdx.x + TILE / 2];
  for (long long size = from; size <= to; size *= 2) {
    for (int stride = size < TILE ? (int)size / 2 : TILE / 2; stride > 0; stride /= 2) {
      __syncthreads();
      const int t = threadIdx.x, i = 2 * t - (t & (stride - 1));
      const bool up = ((((long long)blockIdx.x * TILE + i) & (padded - 1)) & size) == 0;
      const Key a = tile[i], b = tile[i + stride];
      if ((a > b) == up) {
        tile[i] = b;
        tile[i + stride] = a;
      }
    }
  }
  __syncthreads();
  mine[threadIdx.x] = tile[threadIdx.x];
  mine[threadIdx.x + TILE / 2] = tile[threadIdx.x + TILE / 2];
}

// One stride of at least TILE in the phase of size `size`.
KERNEL sort_step(Key *keys, long long pairs, long long padded, long long size, long long stride) {
  for (GRID_LOOP(t, pairs)) {
    const long long i = 2 * t - (t & (stride - 1));
    const bool up = ((i & (padded - 1)) & size) == 0;
    const Key a = keys[i], b = keys[i + stride];
    if ((a > b) == up) {
      keys[i] = b;
      keys[i + stride] = a;
    }
  }
}

// values and indices [rows, k] from the sorted keys; elements are moved as 32 bits
KERNEL sort_take(const Key *__restrict__ keys, const int *__restrict__ x, int *__restrict__ values,
                 int *__restrict__ indices, long long total, long long n, long long padded, long long k) {
  for (GRID_LOOP(i, total)) {
    const long long row = i / k;
    const int index = (int)(unsigned)keys[row * padded + (i - row * k)];
    indices[i] = index;
    values[i] = x[row * n + index];
  }
}

// The number of elements of a sorted line that lie before `value`: below it, or not above it where `right`.
template <typename T>
__device__ __forceinline__ int place_in(const T *__restrict__ line, int n, T value, bool right) {
  int low = 0, high = n;
  while (low < high) {
    const int middle = low + (high - low) / 2;
    if (right ? line[middle] <= value : line[middle] < value) low = middle + 1;
    else high = middle;
  }
  return high;
}

// y [batch, m]: where values [batch, m] belong in sorted sequences [batch, n]
template <typename T>
__device__ __forceinline__ void search_sorted(const T *__restrict__ sorted, const T *__restrict__ values,
                                              int *__restrict__ y, long long total, int n, int m, int right) {
  for (GRID_LOOP(i, total)) y[i] = place_in(sorted + i / m * n, n, values[i], right != 0);
}
KERNEL search_sorted_f32(const float *sorted, const float *values, int *y, long long total, int n, int m, int right) {
  search_sorted(sorted, values, y, total, n, m, right);
}
KERNEL search_sorted_i32(const int *sorted, const int *values, int *y, long long total, int n, int m, int right) {
  search_sorted(sorted, values, y, total, n, m, right);
}

// 32 random bits for a counter and a key: the first word of Philox 4x32 with 10 rounds (Salmon et al. 2011).
__device__ __forceinline__ unsigned philox(unsigned long long counter, unsigned row, unsigned key0, unsigned key1) {
  unsigned c0 = (unsigned)counter, c1 = (unsigned)(counter >> 32), c2 = row, c3 = 0;
  for (int round = 0; round < 10; round++) {
    const unsigned long long p0 = 0xD2511F53ull * c0, p1 = 0xCD9E8D57ull * c2;
    const unsigned n0 = (unsigned)(p1 >> 32) ^ c1 ^ key0, n2 = (unsigned)(p0 >> 32) ^ c3 ^ key1;
    c0 = n0;
    c1 = (unsigned)p1;
    c2 = n2;
    c3 = (unsigned)p0;
    key0 += 0x9E3779B9u;
    key1 += 0xBB67AE85u;
  }
  return c0;
}

// y [rows, samples]: events drawn by cumulative probabilities [rows, events]; the last event takes what is left of 1.
KERNEL multinomial(const float *__restrict__ cumulative, int *__restrict__ y, long long total, int events, int samples,
                   unsigned key0, unsigned key1) {
  for (GRID_LOOP(i, total)) {
    const long long row = i / samples;
    const float u = (philox(i - row * samples, (unsigned)row, key0, key1) >> 8) * 5.9604644775390625e-8f;  // 2^-24
    y[i] = place_in(cumulative + row * events, events - 1, u, true);
  }
}
