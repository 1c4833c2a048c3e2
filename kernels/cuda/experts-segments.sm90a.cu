// Groups the rows of a masked batch by the units that they run, for experts-many: a counting sort whose counts, places
// and tiles stay on the device. A group's rows are cut into tiles of 128.
#include "experts-units.cuh"
#include "hopper.cuh"

constexpr int EXPERTS_TILE_ROWS = 128, EXPERTS_THREADS = 256;

// Sum of `x` over the threads before this one; `total` gets that of all. `shared` has room for a value a warp.
__device__ __forceinline__ int experts_before(int x, int *shared, int &total) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int sum = warp_sum_upto(x);
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

// How the work is shared out: `blocks` blocks have a range of rows each; `chunks` ranges of blocks are counted apart, so
// that a group's rows come in the order of the batch, roughly. What is near in time is then near in memory: tiles of all
// groups whose rows are of the same part of the batch are worked on together.
struct experts_shares {
  int blocks, chunks;
  __device__ __forceinline__ int chunk(int block) const { return (int)((long long)block * chunks / blocks); }
};

// The bins that the table of tiles is sorted by: how far down its group a tile lies, and last those that have rows for one
// warpgroup only, pairs before single units.
constexpr int EXPERTS_BINS = 32, EXPERTS_ALL_BINS = EXPERTS_BINS + 2;
__device__ __forceinline__ int experts_bin(bool single, int rows, int tile) {
  const int tiles = (rows + EXPERTS_TILE_ROWS - 1) / EXPERTS_TILE_ROWS, left = rows - tile * EXPERTS_TILE_ROWS;
  return left <= EXPERTS_TILE_ROWS / 2 ? EXPERTS_BINS + single : (int)((2ll * tile + 1) * EXPERTS_BINS / (2 * tiles));
}

// What becomes of a row's segment: its group in the low bits, its number among the block's rows of that group above.
constexpr int EXPERTS_GROUP_BITS = 13;
constexpr unsigned EXPERTS_NO_SEGMENT = 0xffffffff;

// The bias to half of the rows of `out`, by the blocks from `block` on. A warp has 512 bytes of bias in registers and
// goes down the rows with them, so that nothing but stores is under way.
template <typename T>
__device__ __forceinline__ void experts_segments_fill(int rows, T *__restrict__ out, const float *__restrict__ bias,
                                                      int d_out, int block, int half) {
  const int pieces = d_out / 8, middle = rows / 2, end = half ? rows : middle;
  const int warps = (gridDim.x - (blockIdx.x - block)) * (EXPERTS_THREADS / 32);
  const int first = (half ? middle : 0) + block * (EXPERTS_THREADS / 32) + threadIdx.x / 32;
  for (int piece = threadIdx.x % 32; piece < pieces; piece += 32) {
    __align__(16) T values[8];
#pragma unroll
    for (int e = 0; e < 8; e++) values[e] = from_float<T>(bias ? __ldg(bias + piece * 8 + e) : 0.0f);
    const uint4 value = *reinterpret_cast<uint4 *>(values);
#pragma unroll 8
    for (int row = first; row < end; row += warps) reinterpret_cast<uint4 *>(out)[(long long)row * pieces + piece] = value;
  }
}

// The selection's bits and rows of each group by blocks, then by the last of these to finish: where each group's rows
// begin, chunk by chunk, how many tiles there are, and where each bin of the table begins. `counts` and the block counter
// behind it are zero on entry. Blocks beyond shares.blocks, where `out` is given, fill its first half.
//   selection [rows, experts], mask [rows, words], codes [segments, rows], counts [groups, chunks] + 1,
//   offsets [blocks, groups], begins [groups, chunks] + 1, bins [EXPERTS_ALL_BINS], header: the number of tiles
template <typename T>
__device__ __forceinline__ void experts_segments_count(const unsigned char *__restrict__ selection, unsigned *mask, int rows,
                                                       int words, experts_units units, int paired, experts_shares shares, int segments,
                                                       unsigned *codes, int *counts, int *offsets, int *begins, int *bins,
                                                       int *header, T *out, const float *bias, int d_out) {
  DYNAMIC_SHARED(int, shared);
  const int block = blockIdx.x;
  hopper_launch_next();
  if (block >= shares.blocks) return experts_segments_fill(rows, out, bias, d_out, block - shares.blocks, 0);
  const int count = units.count(), pairs = experts_pairs(count, paired), groups = pairs + count, chunk = shares.chunk(block);
  int *histogram = shared + 96;
  for (int i = threadIdx.x; i < groups; i += EXPERTS_THREADS) histogram[i] = 0;
  __syncthreads();
  const int per_block = (rows + shares.blocks - 1) / shares.blocks, end = min(rows, (block + 1) * per_block);
  for (int row = block * per_block + threadIdx.x; row < end; row += EXPERTS_THREADS) {
    int number = 0;
    for (int word = 0; word < words; word++) mask[(long long)row * words + word] = experts_selected(selection, row, units.experts, word * 32);
    units.segments(mask + (long long)row * words, words, paired, [&](int a, int b, int) {
      const int group = experts_group(a, b, pairs), before = atomicAdd(histogram + group, 1);
      codes[(long long)number++ * rows + row] = group | before << EXPERTS_GROUP_BITS;
    });
    if (number < segments) codes[(long long)number * rows + row] = EXPERTS_NO_SEGMENT;
  }
  __syncthreads();
  for (int i = threadIdx.x; i < groups; i += EXPERTS_THREADS)
    offsets[block * groups + i] = histogram[i] > 0 ? atomicAdd(counts + i * shares.chunks + chunk, histogram[i]) : 0;
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) shared[95] = atomicAdd(counts + groups * shares.chunks, 1);
  __syncthreads();
  if (shared[95] != shares.blocks - 1) return;

  __threadfence();
  int *in_bin = shared + 8;
  if (threadIdx.x < EXPERTS_ALL_BINS) in_bin[threadIdx.x] = 0;
  const int all = groups * shares.chunks, per_thread = (all + EXPERTS_THREADS - 1) / EXPERTS_THREADS;
  const int from = min(all, (int)threadIdx.x * per_thread), to = min(all, from + per_thread);
  // Through shared memory: one block's reads of memory one after the other would take longer than all of the counting.
  int *begin_of = histogram;
  for (int i = threadIdx.x; i < all; i += EXPERTS_THREADS) begin_of[i] = __ldcg(counts + i);
  __syncthreads();
  int sum = 0, total;
  for (int i = from; i < to; i++) sum += begin_of[i];
  int at = experts_before(sum, shared, total);
  for (int i = from; i < to; i++) {
    const int n = begin_of[i];
    begin_of[i] = at;
    at += n;
  }
  if (threadIdx.x == 0) begin_of[all] = total;
  __syncthreads();
  for (int i = threadIdx.x; i <= all; i += EXPERTS_THREADS) begins[i] = begin_of[i];
  for (int i = threadIdx.x; i < groups; i += EXPERTS_THREADS) {
    const int n = begin_of[(i + 1) * shares.chunks] - begin_of[i * shares.chunks];
    for (int tile = 0; tile * EXPERTS_TILE_ROWS < n; tile++) atomicAdd(in_bin + experts_bin(i >= pairs, n, tile), 1);
  }
  __syncthreads();
  const int mine = threadIdx.x < EXPERTS_ALL_BINS ? in_bin[threadIdx.x] : 0, begin = experts_before(mine, shared, total);
  if (threadIdx.x < EXPERTS_ALL_BINS) bins[threadIdx.x] = begin;
  if (threadIdx.x == 0) header[0] = total;
}

#define EXPERTS_SEGMENTS_COUNT(NAME, T)                                                                                \
  extern "C" __global__ void __launch_bounds__(256)                                                                    \
      NAME(const unsigned char *selection, unsigned *mask, int rows, int words, int experts, int size, int per_unit,   \
           int parts, int width, int paired, int blocks, int chunks, int segments, unsigned *codes, int *counts,       \
           int *offsets, int *begins, int *bins, int *header, T *out, const float *bias, int d_out) {                  \
    experts_segments_count<T>(selection, mask, rows, words, {experts, size, per_unit, parts, width}, paired,           \
                              {blocks, chunks}, segments, codes, counts, offsets, begins, bins, header, out, bias,     \
                              d_out);                                                                                  \
  }
EXPERTS_SEGMENTS_COUNT(experts_segments_count_bf16, bf16)
EXPERTS_SEGMENTS_COUNT(experts_segments_count_f16, __half)

// The rows themselves, group by group: token + rows · (number of the segment within its token), or where `out` is given,
// the token. And the tiles: where the tile's rows begin, how many, its units.
// Blocks beyond shares.blocks fill the second half of `out`.
template <typename T>
__device__ __forceinline__ void experts_segments_place(const unsigned *mask, int rows, int words, experts_units units,
                                                       int paired, experts_shares shares, int segments,
                                                       const unsigned *__restrict__ codes, const int *__restrict__ offsets,
                                                       const int *__restrict__ begins, int *bins,
                                                       unsigned *__restrict__ list, int4 *__restrict__ tiles, T *out,
                                                       const float *bias, int d_out) {
  DYNAMIC_SHARED(int, shared);
  const int block = blockIdx.x;
  hopper_launch_next();
  hopper_wait_launch();
  if (block >= shares.blocks) return experts_segments_fill(rows, out, bias, d_out, block - shares.blocks, 1);
  const int count = units.count(), pairs = experts_pairs(count, paired), groups = pairs + count, chunk = shares.chunk(block);
  for (int i = threadIdx.x; i < groups; i += EXPERTS_THREADS)
    shared[i] = begins[i * shares.chunks + chunk] + offsets[block * groups + i];
  __syncthreads();
  const int per_block = (rows + shares.blocks - 1) / shares.blocks, end = min(rows, (block + 1) * per_block);
  for (int row = block * per_block + threadIdx.x; row < end; row += EXPERTS_THREADS) {
    unsigned code = codes[row];
    for (int number = 0; code != EXPERTS_NO_SEGMENT; number++) {
      const unsigned next = number + 1 < segments ? codes[(number + 1ll) * rows + row] : EXPERTS_NO_SEGMENT;
      const unsigned place = out ? 0 : number;
      list[shared[code & ((1u << EXPERTS_GROUP_BITS) - 1)] + (code >> EXPERTS_GROUP_BITS)] = row + place * (unsigned)rows;
      code = next;
    }
  }
  const int warps = shares.blocks * EXPERTS_THREADS / 32, lane = threadIdx.x % 32;
  for (int i = (block * EXPERTS_THREADS + threadIdx.x) / 32; i < groups; i += warps) {
    const int begin = begins[i * shares.chunks], n = begins[(i + 1) * shares.chunks] - begin;
    int a = i - pairs, b = -1;
    if (i < pairs) {
      b = (int)((1.0f + sqrtf(1.0f + 8.0f * i)) / 2.0f);
      while (b * (b - 1) / 2 > i) b--;
      while ((b + 1) * b / 2 <= i) b++;
      a = i - b * (b - 1) / 2;
    }
    for (int tile = lane; tile * EXPERTS_TILE_ROWS < n; tile += 32)
      tiles[atomicAdd(bins + experts_bin(i >= pairs, n, tile), 1)] =
          make_int4(begin + tile * EXPERTS_TILE_ROWS, min(EXPERTS_TILE_ROWS, n - tile * EXPERTS_TILE_ROWS), a, b);
  }
}
#define EXPERTS_SEGMENTS_PLACE(NAME, T)                                                                                 \
  extern "C" __global__ void __launch_bounds__(256)                                                                     \
      NAME(const unsigned *mask, int rows, int words, int experts, int size, int per_unit, int parts, int width,        \
           int paired, int blocks, int chunks, int segments, const unsigned *codes, const int *offsets,                 \
           const int *begins, int *bins, unsigned *list, int4 *tiles, T *out, const float *bias, int d_out) {           \
    experts_segments_place<T>(mask, rows, words, {experts, size, per_unit, parts, width}, paired, {blocks, chunks},     \
                              segments, codes, offsets, begins, bins, list, tiles, out, bias, d_out);                   \
  }
EXPERTS_SEGMENTS_PLACE(experts_segments_place_bf16, bf16)
EXPERTS_SEGMENTS_PLACE(experts_segments_place_f16, __half)

// out[token], its first segment's row so far, plus the bias and the other segments' rows [segments - 1, rows, d_out] in
// their order; the bias alone where the token has none.
template <typename T>
__device__ __forceinline__ void experts_segments_combine(const unsigned *__restrict__ mask, int rows, int words,
                                                         experts_units units, int paired, const T *__restrict__ parts,
                                                         T *out, const float *__restrict__ bias, int d_out) {
  const int pieces = d_out / 8;
  hopper_launch_next();
  hopper_wait_launch();
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
