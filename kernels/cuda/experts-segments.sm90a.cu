// Groups the rows of a masked batch by the units that they run, for experts-many: a counting sort whose counts, places
// and tiles stay on the device. A kind's rows are cut into tiles of 128.
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

// Calls put(i, get(i)) for every i below n, a thread's eight at a time: what these get from memory they wait for together.
template <typename Get, typename Put> __device__ __forceinline__ void experts_each(int n, Get get, Put put) {
  for (int i0 = threadIdx.x; i0 < n; i0 += 8 * EXPERTS_THREADS) {
    int values[8];
#pragma unroll
    for (int u = 0; u < 8; u++) values[u] = i0 + u * EXPERTS_THREADS < n ? get(i0 + u * EXPERTS_THREADS) : 0;
#pragma unroll
    for (int u = 0; u < 8; u++)
      if (i0 + u * EXPERTS_THREADS < n) put(i0 + u * EXPERTS_THREADS, values[u]);
  }
}

// How the work is shared out: `blocks` blocks have a range of rows each; `chunks` ranges of blocks are counted apart, so
// that a kind's rows come in the order of the batch, roughly. What is near in time is then near in memory: tiles of all
// kinds whose rows are of the same part of the batch are worked on together.
struct experts_shares {
  int blocks, chunks;
  __device__ __forceinline__ int chunk(int block) const { return (int)((long long)block * chunks / blocks); }
};

// Kinds of segments: pairs of units, single units, then with `only_kinds`, the same again for rows that have no other
// segment: their results are stored and not added. Those need no chunks: nothing else comes to their rows.
struct experts_kinds {
  int units, pairs, all, chunks, count;
  __device__ __forceinline__ experts_kinds(const experts_units &u, int paired, int only_kinds, int chunks)
      : units(u.count()), pairs(experts_pairs(units, paired)), all(pairs + units), chunks(chunks), count(only_kinds ? 2 * all : all) {}
  // Where a kind's rows of a chunk are counted, the kinds being one after the other.
  __device__ __forceinline__ int counter(int kind, int chunk) const { return kind < all ? kind * chunks + chunk : all * chunks + kind - all; }
  __device__ __forceinline__ int counters() const { return counter(count, 0); }
  __device__ __forceinline__ bool only(int kind) const { return kind >= all; }
  // Its pair of units, or behind all of these, its unit.
  __device__ __forceinline__ int group(int kind) const { return only(kind) ? kind - all : kind; }
  __device__ __forceinline__ bool single(int kind) const { return group(kind) >= pairs; }
};

// The bins that the table of tiles is sorted by: only segments; how far down its kind a tile lies; and last those that
// have rows for one warpgroup only. Pairs before single units.
constexpr int EXPERTS_PLACES = 32, EXPERTS_BINS = 2 + EXPERTS_PLACES + 2;
__device__ __forceinline__ int experts_bin(bool only, bool single, int rows, int tile) {
  const int tiles = (rows + EXPERTS_TILE_ROWS - 1) / EXPERTS_TILE_ROWS, left = rows - tile * EXPERTS_TILE_ROWS;
  if (left <= EXPERTS_TILE_ROWS / 2) return 2 + EXPERTS_PLACES + single;
  return only ? single : 2 + (2 * tile + 1) * EXPERTS_PLACES / (2 * tiles);
}

// What becomes of a row's segment: its kind in the low bits, its number among the block's rows of that kind above.
constexpr int EXPERTS_KIND_BITS = 13;
constexpr unsigned EXPERTS_NO_SEGMENT = 0xffffffff;
__device__ __forceinline__ int experts_kind(unsigned code) { return code & ((1u << EXPERTS_KIND_BITS) - 1); }

// The bias to the rows from `begin` to `end` of `out` that `takes` says, by the blocks from `block` on. A warp has 512
// bytes of bias in registers and goes down the rows with them, so that nothing but stores is under way.
constexpr int EXPERTS_FILL_ROWS = 8;
template <typename T, typename F>
__device__ __forceinline__ void experts_segments_fill(int begin, int end, F takes, T *__restrict__ out,
                                                      const float *__restrict__ bias, int d_out, int block) {
  const int pieces = d_out / 8, warps = (gridDim.x - (blockIdx.x - block)) * (EXPERTS_THREADS / 32), lane = threadIdx.x % 32;
  const int first = begin + (block * (EXPERTS_THREADS / 32) + threadIdx.x / 32) * EXPERTS_FILL_ROWS;
  for (int piece0 = 0; piece0 < pieces; piece0 += 32) {
    const int piece = piece0 + lane;
    __align__(16) T values[8];
#pragma unroll
    for (int e = 0; e < 8; e++) values[e] = from_float<T>(bias && piece < pieces ? __ldg(bias + piece * 8 + e) : 0.0f);
    const uint4 value = *reinterpret_cast<uint4 *>(values);
    for (int row0 = first; row0 < end; row0 += warps * EXPERTS_FILL_ROWS) {
      const int row = row0 + lane % EXPERTS_FILL_ROWS;
      const unsigned taken = __ballot_sync(~0u, row < end && takes(row));
#pragma unroll
      for (int i = 0; i < EXPERTS_FILL_ROWS; i++)
        if (taken >> i & 1 && piece < pieces) reinterpret_cast<uint4 *>(out)[(long long)(row0 + i) * pieces + piece] = value;
    }
  }
}

// The selection's bits and rows of each kind by blocks, then by the last of these to finish: where each kind's rows
// begin, chunk by chunk, how many tiles there are, and where each bin of the table begins. `counts` and the block counter
// behind it are zero on entry. Blocks beyond shares.blocks fill the second half of `out`.
//   selection [rows, experts], mask [rows, words], codes [segments, rows], counts [counters] + 1,
//   offsets [blocks, kinds], begins [counters] + 1, bins [EXPERTS_BINS],
//   header: the number of tiles, and 0 for how many are taken
template <typename T>
__device__ __forceinline__ void experts_segments_count(const unsigned char *__restrict__ selection, unsigned *mask, int rows, int words,
                                                       const experts_units &units, int paired, int only_kinds, const experts_shares &shares,
                                                       int segments, unsigned *codes, int *counts, int *offsets, int *begins, int *bins,
                                                       int *header, T *out, const float *bias, int d_out) {
  DYNAMIC_SHARED(int, shared);
  const int block = blockIdx.x, blocks = shares.blocks, chunk = shares.chunk(block);
  hopper_launch_next();
  if (block >= blocks) return experts_segments_fill(rows / 2, rows, [](int) { return true; }, out, bias, d_out, block - blocks);
  const experts_kinds kinds(units, paired, only_kinds, shares.chunks);
  const int counters = kinds.counters();
  int *histogram = shared + 96;
  for (int i = threadIdx.x; i < kinds.count; i += EXPERTS_THREADS) histogram[i] = 0;
  __syncthreads();
  const int per_block = (rows + blocks - 1) / blocks, end = min(rows, (block + 1) * per_block);
  for (int row = block * per_block + threadIdx.x; row < end; row += EXPERTS_THREADS) {
    int number = 0, held = -1;
    auto put = [&](int kind) { codes[(long long)number++ * rows + row] = kind | atomicAdd(histogram + kind, 1) << EXPERTS_KIND_BITS; };
    for (int word = 0; word < words; word++) mask[(long long)row * words + word] = experts_selected(selection, row, units.experts, word * 32);
    units.segments(mask + (long long)row * words, words, paired, [&](int a, int b, int) {
      const int kind = experts_group(a, b, kinds.pairs);
      // The first waits for whether there is another.
      if (only_kinds && number == 0 && held < 0) return void(held = kind);
      if (held >= 0) put(held), held = -1;
      put(kind);
    });
    if (held >= 0) put(kinds.all + held);
    if (number < segments) codes[(long long)number * rows + row] = EXPERTS_NO_SEGMENT;
  }
  __syncthreads();
  experts_each(
      kinds.count, [&](int i) { return histogram[i] > 0 ? atomicAdd(counts + kinds.counter(i, chunk), histogram[i]) : 0; },
      [&](int i, int at) { offsets[block * kinds.count + i] = at; });
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) shared[95] = atomicAdd(counts + counters, 1);
  __syncthreads();
  if (shared[95] != blocks - 1) return;

  __threadfence();
  int *in_bin = shared + 8;
  if (threadIdx.x < EXPERTS_BINS) in_bin[threadIdx.x] = 0;
  // Odd, so that no two threads of a warp read the same bank.
  const int per_thread = (counters + EXPERTS_THREADS - 1) / EXPERTS_THREADS | 1;
  const int from = min(counters, (int)threadIdx.x * per_thread), to = min(counters, from + per_thread);
  // Through shared memory: one block's reads of memory one after the other would take longer than all of the counting.
  int *begin_of = histogram;
  experts_each(counters, [&](int i) { return __ldcg(counts + i); }, [&](int i, int n) { begin_of[i] = n; });
  __syncthreads();
  int sum = 0, total;
  for (int i = from; i < to; i++) sum += begin_of[i];
  int at = experts_before(sum, shared, total);
  for (int i = from; i < to; i++) {
    const int n = begin_of[i];
    begin_of[i] = at;
    at += n;
  }
  if (threadIdx.x == 0) begin_of[counters] = total;
  __syncthreads();
  for (int i = threadIdx.x; i <= counters; i += EXPERTS_THREADS) begins[i] = begin_of[i];
  // Eight threads a kind: the greatest have a hundred tiles.
  for (int i = threadIdx.x / 8; i < kinds.count; i += EXPERTS_THREADS / 8) {
    const int n = begin_of[kinds.counter(i + 1, 0)] - begin_of[kinds.counter(i, 0)];
    for (int tile = threadIdx.x % 8; tile * EXPERTS_TILE_ROWS < n; tile += 8)
      atomicAdd(in_bin + experts_bin(kinds.only(i), kinds.single(i), n, tile), 1);
  }
  __syncthreads();
  const int mine = threadIdx.x < EXPERTS_BINS ? in_bin[threadIdx.x] : 0, begin = experts_before(mine, shared, total);
  if (threadIdx.x < EXPERTS_BINS) bins[threadIdx.x] = begin;
  if (threadIdx.x == 0) header[0] = total, header[1] = 0;
}

#define EXPERTS_SEGMENTS_COUNT(NAME, T)                                                                                 \
  extern "C" __global__ void __launch_bounds__(256)                                                                     \
      NAME(const unsigned char *selection, unsigned *mask, int rows, int words, int experts, int size, int per_unit,    \
           int parts, int width, int paired, int only_kinds, int blocks, int chunks, int segments, unsigned *codes,     \
           int *counts, int *offsets, int *begins, int *bins, int *header, T *out, const float *bias, int d_out) {      \
    experts_segments_count<T>(selection, mask, rows, words, {experts, size, per_unit, parts, width}, paired, only_kinds, \
                              {blocks, chunks}, segments, codes, counts, offsets, begins, bins, header, out, bias,      \
                              d_out);                                                                                   \
  }
EXPERTS_SEGMENTS_COUNT(experts_segments_count_bf16, bf16)
EXPERTS_SEGMENTS_COUNT(experts_segments_count_f16, __half)

// The rows themselves, kind by kind: token + rows · (number of the segment within its token), or where `out` is given,
// the token. And the tiles: where the tile's rows begin, how many (and EXPERTS_ONLY), its units. Blocks beyond
// shares.blocks fill the first half of `out`, which the first tiles then find in the L2 cache, or with `only_kinds`, all
// rows but those of only segments, for which the first block rounds the bias to `bias16`.
template <typename T>
__device__ __forceinline__ void experts_segments_place(int rows, const experts_units &units, int paired, int only_kinds,
                                                       const experts_shares &shares, int segments,
                                                       const unsigned *__restrict__ codes, const int *__restrict__ offsets,
                                                       const int *__restrict__ begins, int *bins,
                                                       unsigned *__restrict__ list, int4 *__restrict__ tiles, T *out,
                                                       const float *bias, T *bias16, int d_out) {
  DYNAMIC_SHARED(int, shared);
  const int block = blockIdx.x;
  hopper_launch_next();
  hopper_wait_launch();
  const experts_kinds kinds(units, paired, only_kinds, shares.chunks);
  if (block >= shares.blocks) {
    auto takes = [&](int row) { return !only_kinds || codes[row] == EXPERTS_NO_SEGMENT || !kinds.only(experts_kind(codes[row])); };
    return experts_segments_fill(0, only_kinds ? rows : rows / 2, takes, out, bias, d_out, block - shares.blocks);
  }
  if (only_kinds && block == 0)
    for (int i = threadIdx.x; i < d_out; i += EXPERTS_THREADS) bias16[i] = from_float<T>(bias ? bias[i] : 0.0f);
  const int chunk = shares.chunk(block);
  experts_each(
      kinds.count, [&](int i) { return begins[kinds.counter(i, chunk)] + offsets[block * kinds.count + i]; },
      [&](int i, int begin) { shared[i] = begin; });
  __syncthreads();
  const int per_block = (rows + shares.blocks - 1) / shares.blocks, end = min(rows, (block + 1) * per_block);
  for (int row = block * per_block + threadIdx.x; row < end; row += EXPERTS_THREADS) {
    // Four at a time, which wait together; behind the last one lies nothing that counts.
    for (int first = 0; first < segments; first += 4) {
      unsigned four[4];
#pragma unroll
      for (int u = 0; u < 4; u++) four[u] = first + u < segments ? codes[(long long)(first + u) * rows + row] : EXPERTS_NO_SEGMENT;
      bool more = true;
#pragma unroll
      for (int u = 0; u < 4; u++) {
        more = more && four[u] != EXPERTS_NO_SEGMENT;
        if (more) list[shared[experts_kind(four[u])] + (four[u] >> EXPERTS_KIND_BITS)] = row + (out ? 0 : first + u) * (unsigned)rows;
      }
      if (!more) break;
    }
  }
  const int warps = shares.blocks * EXPERTS_THREADS / 32, lane = threadIdx.x % 32;
  for (int i = (block * EXPERTS_THREADS + threadIdx.x) / 32; i < kinds.count; i += warps) {
    const int begin = begins[kinds.counter(i, 0)], n = begins[kinds.counter(i + 1, 0)] - begin, group = kinds.group(i);
    int a = group - kinds.pairs, b = -1;
    if (!kinds.single(i)) {
      b = (int)((1.0f + sqrtf(1.0f + 8.0f * group)) / 2.0f);
      while (b * (b - 1) / 2 > group) b--;
      while ((b + 1) * b / 2 <= group) b++;
      a = group - b * (b - 1) / 2;
    }
    for (int tile = lane; tile * EXPERTS_TILE_ROWS < n; tile += 32)
      tiles[atomicAdd(bins + experts_bin(kinds.only(i), kinds.single(i), n, tile), 1)] =
          make_int4(begin + tile * EXPERTS_TILE_ROWS, min(EXPERTS_TILE_ROWS, n - tile * EXPERTS_TILE_ROWS) | (kinds.only(i) ? EXPERTS_ONLY : 0), a, b);
  }
}
#define EXPERTS_SEGMENTS_PLACE(NAME, T)                                                                                 \
  extern "C" __global__ void __launch_bounds__(256)                                                                     \
      NAME(int rows, int experts, int size, int per_unit, int parts, int width, int paired, int only_kinds, int blocks, \
           int chunks, int segments, const unsigned *codes, const int *offsets, const int *begins, int *bins,           \
           unsigned *list, int4 *tiles, T *out, const float *bias, T *bias16, int d_out) {                              \
    experts_segments_place<T>(rows, {experts, size, per_unit, parts, width}, paired, only_kinds, {blocks, chunks}, segments, \
                              codes, offsets, begins, bins, list, tiles, out, bias, bias16, d_out);                     \
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
