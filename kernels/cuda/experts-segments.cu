// Groups the rows of a masked batch by the units that they run, for experts-many: a counting sort whose counts, places
// and tiles stay on the device. A group's rows are cut into tiles of 128; tiles of most work come first.
#include "experts-units.cuh"

constexpr int EXPERTS_TILE_ROWS = 128, EXPERTS_THREADS = 256;

// Sum of `x` over the threads before this one; `total` gets that of all. `shared` has room for a value a warp.
__device__ __forceinline__ int experts_before(int x, int *shared, int &total) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  int sum = x;
#pragma unroll
  for (int offset = 1; offset < 32; offset *= 2) {
    const int other = __shfl_up_sync(0xffffffffu, sum, offset);
    if (lane >= offset) sum += other;
  }
  if (lane == 31) shared[warp] = sum;
  __syncthreads();
  int before = 0;
  total = 0;
  for (int w = 0; w < EXPERTS_THREADS / 32; w++) {
    if (w < warp) before += shared[w];
    total += shared[w];
  }
  __syncthreads();
  return before + sum - x;
}

// Rows of each group, then by the last block to finish: where each group's rows begin (and the end of the last), where
// its tiles do, and in `header` the number of tiles. `counts` and the block counter behind it are zero on entry.
// Where `out` is given, each of its rows becomes the bias.
//   counts [groups + 1], begins [groups + 1], cursors [groups], tile_begins [2, groups] (of whole tiles, of the rest)
template <typename T>
__device__ __forceinline__ void experts_segments_count(const unsigned *__restrict__ mask, int rows, int words,
                                                       experts_units units, int paired, int *counts, int *begins,
                                                       int *cursors, int *tile_begins, int *header, T *out,
                                                       const float *__restrict__ bias, int d_out) {
  DYNAMIC_SHARED(int, shared);
  const int count = units.count(), pairs = experts_pairs(count, paired), groups = pairs + count;
  int *histogram = shared + 32;
  for (int i = threadIdx.x; i < groups; i += EXPERTS_THREADS) histogram[i] = 0;
  __syncthreads();
  for (GRID_LOOP(row, rows)) {
    units.segments(mask + row * words, words, paired,
                   [&](int a, int b, int) { atomicAdd(histogram + experts_group(a, b, pairs), 1); });
  }
  __syncthreads();
  for (int i = threadIdx.x; i < groups; i += EXPERTS_THREADS)
    if (histogram[i] > 0) atomicAdd(counts + i, histogram[i]);
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) shared[31] = atomicAdd(counts + groups, 1);
  __syncthreads();
  const bool last = shared[31] == (int)gridDim.x - 1;

  if (out) {
    // A warp writes 512 bytes of a row at a time, the same of one row after the other.
    const int lane = threadIdx.x % 32, warps = gridDim.x * EXPERTS_THREADS / 32;
    for (int column = lane * 8; column < d_out; column += 256) {
      T values[8];
#pragma unroll
      for (int e = 0; e < 8; e++) values[e] = from_float<T>(bias ? bias[column + e] : 0.0f);
      const uint4 v = *reinterpret_cast<uint4 *>(values);
      for (long long row = (blockIdx.x * EXPERTS_THREADS + threadIdx.x) / 32; row < rows; row += warps)
        *reinterpret_cast<uint4 *>(out + row * d_out + column) = v;
    }
  }
  if (!last) return;

  __threadfence();
  const int per_thread = (groups + EXPERTS_THREADS - 1) / EXPERTS_THREADS;
  const int from = min(groups, (int)threadIdx.x * per_thread), to = min(groups, from + per_thread);
  // Rows; whole tiles and tiles of the rest of pairs; the same of single units.
  int sums[5] = {0, 0, 0, 0, 0};
  for (int i = from; i < to; i++) {
    const int n = atomicAdd(counts + i, 0), single = i >= pairs ? 2 : 0, rest = n % EXPERTS_TILE_ROWS;
    sums[0] += n;
    sums[1 + single] += n / EXPERTS_TILE_ROWS + (rest > EXPERTS_TILE_ROWS / 2);
    sums[2 + single] += rest > 0 && rest <= EXPERTS_TILE_ROWS / 2;
  }
  int at[5], totals[5];
#pragma unroll
  for (int i = 0; i < 5; i++) at[i] = experts_before(sums[i], shared, totals[i]);
#pragma unroll
  for (int i = 2; i < 5; i++) {
#pragma unroll
    for (int before = 1; before < i; before++) at[i] += totals[before];
  }
  for (int i = from; i < to; i++) {
    const int n = atomicAdd(counts + i, 0), single = i >= pairs ? 2 : 0, rest = n % EXPERTS_TILE_ROWS;
    begins[i] = cursors[i] = at[0];
    tile_begins[i] = at[1 + single];
    tile_begins[groups + i] = at[2 + single];
    at[0] += n;
    at[1 + single] += n / EXPERTS_TILE_ROWS + (rest > EXPERTS_TILE_ROWS / 2);
    at[2 + single] += rest > 0 && rest <= EXPERTS_TILE_ROWS / 2;
  }
  if (threadIdx.x == 0) {
    begins[groups] = totals[0];
    header[0] = totals[1] + totals[2] + totals[3] + totals[4];
  }
}

#define EXPERTS_SEGMENTS_COUNT(NAME, T)                                                                                \
  extern "C" __global__ void __launch_bounds__(256)                                                                    \
      NAME(const unsigned *mask, int rows, int words, int experts, int size, int per_unit, int parts, int width,       \
           int paired, int *counts, int *begins, int *cursors, int *tile_begins, int *header, T *out, const float *bias, \
           int d_out) {                                                                                                \
    experts_segments_count<T>(mask, rows, words, {experts, size, per_unit, parts, width}, paired, counts, begins, cursors, \
                              tile_begins, header, out, bias, d_out);                                                  \
  }
EXPERTS_SEGMENTS_COUNT(experts_segments_count_bf16, bf16)
EXPERTS_SEGMENTS_COUNT(experts_segments_count_f16, __half)

// The rows themselves, group by group: token + rows · (number of the segment within its token). And the tiles: where the
// tile's rows begin, how many, its units.
template <int THREADS>
__device__ __forceinline__ void experts_segments_place(const unsigned *__restrict__ mask, int rows, int words,
                                                       experts_units units, int paired, const int *begins, int *cursors,
                                                       const int *tile_begins, unsigned *list, int4 *tiles) {
  DYNAMIC_SHARED(int, shared);
  const int count = units.count(), pairs = experts_pairs(count, paired), groups = pairs + count;
  int *histogram = shared, *places = shared + groups;
  for (int i = threadIdx.x; i < groups; i += EXPERTS_THREADS) histogram[i] = 0;
  __syncthreads();
  for (GRID_LOOP(row, rows)) {
    units.segments(mask + row * words, words, paired,
                   [&](int a, int b, int) { atomicAdd(histogram + experts_group(a, b, pairs), 1); });
  }
  __syncthreads();
  for (int i = threadIdx.x; i < groups; i += EXPERTS_THREADS)
    places[i] = histogram[i] > 0 ? atomicAdd(cursors + i, histogram[i]) : 0;
  __syncthreads();
  for (GRID_LOOP(row, rows)) {
    units.segments(mask + row * words, words, paired, [&](int a, int b, int number) {
      list[atomicAdd(places + experts_group(a, b, pairs), 1)] = (unsigned)row + (unsigned)number * (unsigned)rows;
    });
  }
  const int warps = gridDim.x * EXPERTS_THREADS / 32, lane = threadIdx.x % 32;
  for (int i = (blockIdx.x * EXPERTS_THREADS + threadIdx.x) / 32; i < groups; i += warps) {
    const int begin = begins[i], n = begins[i + 1] - begin;
    int a = i - pairs, b = -1;
    if (i < pairs) {
      b = (int)((1.0f + sqrtf(1.0f + 8.0f * i)) / 2.0f);
      while (b * (b - 1) / 2 > i) b--;
      while ((b + 1) * b / 2 <= i) b++;
      a = i - b * (b - 1) / 2;
    }
    for (int tile = lane; tile * EXPERTS_TILE_ROWS < n; tile += 32) {
      const int left = min(EXPERTS_TILE_ROWS, n - tile * EXPERTS_TILE_ROWS);
      const int at = left > EXPERTS_TILE_ROWS / 2 ? tile_begins[i] + tile : tile_begins[groups + i];
      tiles[at] = make_int4(begin + tile * EXPERTS_TILE_ROWS, left, a, b);
    }
  }
}
extern "C" __global__ void __launch_bounds__(256)
    experts_segments_place_rows(const unsigned *mask, int rows, int words, int experts, int size, int per_unit, int parts,
                                int width, int paired, const int *begins, int *cursors, const int *tile_begins,
                                unsigned *list, int4 *tiles) {
  experts_segments_place<EXPERTS_THREADS>(mask, rows, words, {experts, size, per_unit, parts, width}, paired, begins, cursors, tile_begins,
                         list, tiles);
}

// out[token], its first segment's row so far, plus the bias and the other segments' rows [segments - 1, rows, d_out] in
// their order; the bias alone where the token has none.
template <typename T>
__device__ __forceinline__ void experts_segments_combine(const unsigned *__restrict__ mask, int rows, int words,
                                                         experts_units units, int paired, const T *__restrict__ parts,
                                                         T *out, const float *__restrict__ bias, int d_out) {
  const int pieces = d_out / 8;
  for (GRID_LOOP(i, (long long)rows * pieces)) {
    const long long row = i / pieces;
    const int column = (int)(i - row * pieces) * 8;
    int count = 0;
    if (units.per_unit == 1) {
      for (int word = 0; word < words; word++) count += __popc(mask[row * words + word]);
      count *= units.parts;
    } else {
      units.visit(mask + row * words, words, [&](int) { count++; });
    }
    if (paired) count = (count + 1) / 2;
    float sums[8];
#pragma unroll
    for (int e = 0; e < 8; e++) sums[e] = bias ? bias[column + e] : 0.0f;
#pragma unroll 4
    for (int part = 0; part < count; part++) {
      const T *from = part == 0 ? out + row * d_out : parts + ((part - 1ll) * rows + row) * d_out;
      const uint4 v = *reinterpret_cast<const uint4 *>(from + column);
      const T *values = reinterpret_cast<const T *>(&v);
#pragma unroll
      for (int e = 0; e < 8; e++) sums[e] += to_float(values[e]);
    }
    T values[8];
#pragma unroll
    for (int e = 0; e < 8; e++) values[e] = from_float<T>(sums[e]);
    *reinterpret_cast<uint4 *>(out + i * 8) = *reinterpret_cast<uint4 *>(values);
  }
}
#define EXPERTS_SEGMENTS_COMBINE(NAME, T)                                                                               \
  extern "C" __global__ void __launch_bounds__(256)                                                                     \
      NAME(const unsigned *mask, int rows, int words, int experts, int size, int per_unit, int parts, int width,        \
           int paired, const T *partial, T *out, const float *bias, int d_out) {                                        \
    experts_segments_combine<T>(mask, rows, words, {experts, size, per_unit, parts, width}, paired, partial, out, bias, \
                                d_out);                                                                                 \
  }
EXPERTS_SEGMENTS_COMBINE(experts_segments_combine_bf16, bf16)
EXPERTS_SEGMENTS_COMBINE(experts_segments_combine_f16, __half)
