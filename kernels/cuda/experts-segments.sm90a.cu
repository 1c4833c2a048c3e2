// Groups the rows of a masked batch by the units that they run, for experts-many: a counting sort in one launch, whose
// counts, places and tiles stay on the device. A kind's rows are cut into tiles of 128.
#include "counters.cuh"
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

// How the work is shared out: `blocks` blocks have a range of rows each; `chunks` ranges of blocks, a multiple of four, are
// counted apart, so that a kind's rows come in the order of the batch, roughly. What is near in time is then near in
// memory: tiles of all kinds whose rows are of the same part of the batch are worked on together.
constexpr int EXPERTS_MOST_CHUNKS = 16;
struct experts_shares {
  int blocks, chunks;
  __device__ __forceinline__ int chunk(int block) const { return (int)((long long)block * chunks / blocks); }
};

// Kinds of segments: pairs of units, single units, then with `only_kinds`, the same again for rows that have no other
// segment: their results are stored and not added. Those need no chunks: nothing else comes to their rows.
struct experts_kinds {
  experts_pairing pairing;
  int all, chunks, count;
  __device__ __forceinline__ experts_kinds(int units, int pools, int only_kinds, int chunks)
      : pairing(units, pools), all(pairing.pairs + units), chunks(chunks), count(only_kinds ? 2 * all : all) {}
  // Where a kind's rows of a chunk are counted, the kinds being one after the other.
  __device__ __forceinline__ int counter(int kind, int chunk) const { return kind < all ? kind * chunks + chunk : all * chunks + kind - all; }
  __device__ __forceinline__ int counters() const { return counter(count, 0); }
  __device__ __forceinline__ bool only(int kind) const { return kind >= all; }
  // Its kind of units.
  __device__ __forceinline__ int group(int kind) const { return only(kind) ? kind - all : kind; }
  __device__ __forceinline__ bool single(int kind) const { return group(kind) >= pairing.pairs; }
};

// The bins that the table of tiles is sorted by: only segments; how far down its kind a tile lies; and last those that
// have rows for one warpgroup only. Pairs before single units. A kind's tiles go through the bins in their order.
constexpr int EXPERTS_PLACES = 32, EXPERTS_BINS = 2 + EXPERTS_PLACES + 2;
// How many tiles of a kind of so many rows lie in bins before this one.
__device__ __forceinline__ int experts_tiles_before(int bin, bool only, bool single, int rows) {
  const int tiles = (rows + EXPERTS_TILE_ROWS - 1) / EXPERTS_TILE_ROWS, left = rows - (tiles - 1) * EXPERTS_TILE_ROWS;
  if (bin > 2 + EXPERTS_PLACES + single) return tiles;
  const int wide = tiles - (left <= EXPERTS_TILE_ROWS / 2);
  if (only) return bin > single ? wide : 0;
  // Tile t of n has its middle, t + 1/2, in the place (2 t + 1) · PLACES / (2 n).
  return bin < 2 ? 0 : min(wide, ((bin - 2) * tiles + EXPERTS_PLACES / 2 - 1) / EXPERTS_PLACES);
}

// What one launch does. Blocks of it wait for one another; where they run one after the other it takes two.
enum { EXPERTS_GROUP_COUNT = 1, EXPERTS_GROUP_PLACE = 2 };

struct experts_segments_call {
  const unsigned char *selection;  // [rows, experts]
  unsigned *mask;                  // [rows, words]: the same in bits
  int rows, words;
  experts_units units;
  int pools, only_kinds;
  experts_shares shares;
  int *counts;        // [counters] + 2: rows; blocks that have counted; those that have read. Zeros before and after
  int *offsets;       // [blocks, kinds]
  unsigned *list;     // the rows themselves, kind by kind
  int4 *tiles;
  int *header;        // how many tiles there are; 0 for how many are taken
  const float *bias;  // [d_out]
  void *bias16;       // [d_out]: the same, rounded
  void *out;          // [rows, d_out] to be filled with the bias, or null
  const void *down;   // [neurons, d_out]
  void *interleaved;  // [neurons, d_out up to a multiple of 32]: its columns in another order, or null
  int d_out, stages;
};

// The bias of eight columns, rounded.
template <typename T> __device__ __forceinline__ uint4 experts_bias16(const float *bias, int piece) {
  __align__(16) T values[8];
#pragma unroll
  for (int e = 0; e < 8; e++) values[e] = from_float<T>(bias ? __ldg(bias + piece * 8 + e) : 0.0f);
  return *reinterpret_cast<uint4 *>(values);
}

// down with its columns in an order that makes a lane's sums of wgmma contiguous in the output: of each 32 columns,
// columns 8t + 2i and the next lie at 8i + 2t. By the `number`-th of `blocks` blocks.
__device__ __forceinline__ void experts_segments_interleave(const experts_segments_call &call, int number, int blocks) {
  const unsigned pieces = call.d_out / 8, groups = (pieces + 3) / 4, all = call.units.experts * call.units.size * groups;
  for (unsigned i = number * EXPERTS_THREADS + threadIdx.x; i < all; i += blocks * EXPERTS_THREADS) {
    const unsigned neuron = i / groups, piece = i % groups * 4;
    const uint4 *from = static_cast<const uint4 *>(call.down) + (long long)neuron * pieces + piece;
    uint4 v[4];
#pragma unroll
    for (int t = 0; t < 4; t++) v[t] = piece + t < pieces ? from[t] : make_uint4(0, 0, 0, 0);
    uint4 *to = static_cast<uint4 *>(call.interleaved) + i * 4ll;
    to[0] = make_uint4(v[0].x, v[1].x, v[2].x, v[3].x);
    to[1] = make_uint4(v[0].y, v[1].y, v[2].y, v[3].y);
    to[2] = make_uint4(v[0].z, v[1].z, v[2].z, v[3].z);
    to[3] = make_uint4(v[0].w, v[1].w, v[2].w, v[3].w);
  }
}

// The bias to all rows of `out`, the last ones first, by the `number`-th of `blocks` blocks: the copy engine writes rows as
// they lie in shared memory. Ordinary stores would stand in the way of those of blocks that count.
__host__ __device__ constexpr int experts_segments_image_rows(int d_out) { return d_out * 2 > 16384 ? 1 : 16384 / (d_out * 2); }
template <typename T> __device__ __forceinline__ void experts_segments_fill(const experts_segments_call &call, uint4 *image, int number, int blocks) {
  const int pieces = call.d_out / 8, rows = experts_segments_image_rows(call.d_out);
  for (int i = threadIdx.x; i < rows * pieces; i += EXPERTS_THREADS) image[i] = experts_bias16<T>(call.bias, i % pieces);
  hopper_proxy_fence();
  __syncthreads();
  if (threadIdx.x != 0) return;
  for (int i = (call.rows - 1) / rows - number; i >= 0; i -= blocks) {
    uint4 *to = static_cast<uint4 *>(call.out) + (long long)i * rows * pieces;
    const int bytes = min(rows, call.rows - i * rows) * pieces * 16;
    // The first tiles find the first rows in the L2 cache; most others would not stay there until they are needed.
    if (i * rows < call.rows / 4)
      hopper_store(to, hopper_address(image), bytes);
    else
      hopper_store_passing(to, hopper_address(image), bytes);
  }
  hopper_stores_commit();
  hopper_stores_written();
}

// Goes through the block's rows and counts the kinds of their segments up in `counts`. At the stage COUNT it makes the
// selection's bits; at PLACE it puts a row where the count was: token + rows · (number of the segment within its token), or
// where results are added, the token. With `only_kinds`, rows that have more than an only segment get the bias then.
// Segments are found twice, by the same instructions, which the second time are in the cache: notes of the first time would
// lie in memory behind what fills the output.
template <typename T> __device__ __forceinline__ void experts_segments_rows(const experts_segments_call &call, const experts_kinds &kinds, int begin, int end, int *counts, int stage) {
  const int lane = threadIdx.x % 32, pieces = call.d_out / 8;
  for (int row0 = begin + (int)threadIdx.x - lane; row0 < end; row0 += EXPERTS_THREADS) {
    const int row = row0 + lane;
    bool is_added = row < end;
    if (row < end) {
      unsigned *mask = call.mask + (long long)row * call.words, place = row;
      auto word = [&](int i) {
        if (stage == EXPERTS_GROUP_PLACE) return mask[i];
        return mask[i] = experts_selected(call.selection, row, call.units.experts, i * 32);
      };
      auto put = [&](int kind) {
        const int at = atomicAdd(counts + kind, 1);
        if (stage == EXPERTS_GROUP_PLACE) call.list[at] = place;
        if (!call.out) place += call.rows;
      };
      int number = 0, first = 0;
      kinds.pairing.segments([&](int i) { return call.units.bits(word, call.words, i); }, [&](int kind) {
        // The first waits for whether there is another.
        if (call.only_kinds && number++ == 0) return void(first = kind);
        if (number == 2) put(first);
        put(kind);
      });
      if (number == 1) put(kinds.all + first);
      is_added = number != 1;
    }
    if (stage != EXPERTS_GROUP_PLACE || !call.only_kinds) continue;
    const unsigned all_added = __ballot_sync(~0u, is_added);
    for (int piece = lane; piece < pieces; piece += 32) {
      const uint4 bias = experts_bias16<T>(call.bias, piece);
      for (unsigned added = all_added; added != 0; added &= added - 1)
        static_cast<uint4 *>(call.out)[(long long)(row0 + __ffs(added) - 1) * pieces + piece] = bias;
    }
  }
}

// How many rows the block has of a kind is added to the kinds' counters; what was there before is where the block's rows
// begin in the kind's rows of the chunk.
__device__ __forceinline__ void experts_segments_add(const experts_segments_call &call, const experts_kinds &kinds, const int *histogram) {
  const int block = blockIdx.x, chunk = call.shares.chunk(block);
  __syncthreads();
  experts_each(
      kinds.count, [&](int i) { return histogram[i] > 0 ? atomicAdd(call.counts + kinds.counter(i, chunk), histogram[i]) : 0; },
      [&](int i, int at) { call.offsets[block * kinds.count + i] = at; });
  __syncthreads();
  if (threadIdx.x == 0) counter_release((unsigned *)call.counts + kinds.counters(), 1);
}

// Where the rows of each kind begin that are of a chunk, in `begins`, and behind the last kind their number.
__device__ __forceinline__ void experts_segments_begins(const experts_segments_call &call, const experts_kinds &kinds, int chunk, int *begins, int *shared) {
  int so_far = 0;
  for (int i0 = threadIdx.x; i0 - (int)threadIdx.x < kinds.count; i0 += 2 * EXPERTS_THREADS) {
    int before[2] = {}, all[2] = {};
    // All blocks read the same few lines: four counters at a time, for the L2 cache's sake, and all before the first is used.
#pragma unroll
    for (int u = 0; u < 2; u++) {
      const int i = i0 + u * EXPERTS_THREADS;
      const int *counts = call.counts + kinds.counter(i, 0);
      if (i < kinds.count && kinds.only(i)) all[u] = __ldcg(counts);
#pragma unroll
      for (int c = 0; c < EXPERTS_MOST_CHUNKS; c += 4) {
        const int4 v = i < kinds.all && c < kinds.chunks ? __ldcg(reinterpret_cast<const int4 *>(counts + c)) : make_int4(0, 0, 0, 0);
        before[u] += (c < chunk ? v.x : 0) + (c + 1 < chunk ? v.y : 0) + (c + 2 < chunk ? v.z : 0) + (c + 3 < chunk ? v.w : 0);
        all[u] += v.x + v.y + v.z + v.w;
      }
    }
#pragma unroll
    for (int u = 0; u < 2; u++) {
      const int i = i0 + u * EXPERTS_THREADS;
      int total;
      const int begin = so_far + experts_before(all[u], shared, total);
      if (i < kinds.count) begins[i] = begin + before[u];
      so_far += total;
    }
  }
  if (threadIdx.x == 0) begins[kinds.count] = so_far;
  __syncthreads();
}

// One bin of the table of tiles: where a tile's rows begin, how many (and EXPERTS_ONLY), its units. `begins` are those of
// the first chunk.
__device__ __forceinline__ void experts_segments_tiles(const experts_segments_call &call, const experts_kinds &kinds, int bin, const int *begins, int *shared) {
  int before = 0, so_far = 0, total;
  for (int i = threadIdx.x; i < kinds.count; i += EXPERTS_THREADS) before += experts_tiles_before(bin, kinds.only(i), kinds.single(i), begins[i + 1] - begins[i]);
  experts_before(before, shared, so_far);
  for (int i0 = 0; i0 < kinds.count; i0 += EXPERTS_THREADS) {
    const int i = i0 + (int)threadIdx.x;
    int first = 0, last = 0, rows = 0;
    if (i < kinds.count) {
      rows = begins[i + 1] - begins[i];
      first = experts_tiles_before(bin, kinds.only(i), kinds.single(i), rows), last = experts_tiles_before(bin + 1, kinds.only(i), kinds.single(i), rows);
    }
    int4 *to = call.tiles + so_far + experts_before(last - first, shared, total);
    so_far += total;
    if (first == last) continue;
    int a, b;
    kinds.pairing.units_of(kinds.group(i), a, b);
    for (int tile = first; tile < last; tile++)
      *to++ = make_int4(begins[i] + tile * EXPERTS_TILE_ROWS, min(EXPERTS_TILE_ROWS, rows - tile * EXPERTS_TILE_ROWS) | (kinds.only(i) ? EXPERTS_ONLY : 0), a, b);
  }
  if (bin == EXPERTS_BINS - 1 && threadIdx.x == 0) call.header[EXPERTS_TILES] = so_far, call.header[EXPERTS_TAKEN] = 0;
}

// The first blocks count the kinds of their rows, wait until all have, and put their rows in their places; as many as there
// are bins make the table of tiles; those behind them put down's columns in another order and fill the output with the bias,
// its first rows last, which the first tiles then find in the L2 cache.
template <typename T> __device__ __forceinline__ void experts_segments(const experts_segments_call &call) {
  DYNAMIC_SHARED(int, shared);
  const int block = blockIdx.x, blocks = call.shares.blocks, bin = block - blocks, filler = bin - EXPERTS_BINS;
  const experts_kinds kinds(call.units.count(), call.pools, call.only_kinds, call.shares.chunks);
  const int per_block = (call.rows + blocks - 1) / blocks, begin = block * per_block, end = min(call.rows, begin + per_block);
  int *begins = shared + EXPERTS_THREADS / 32;  // [kinds + 1]; of rows of a kind, at first
  const bool counts = block < blocks;
  hopper_launch_next();
  hopper_wait_launch();
  if (filler >= 0) {
    const int fillers = gridDim.x - blocks - EXPERTS_BINS;
    if (!(call.stages & EXPERTS_GROUP_COUNT)) return;
    if (call.interleaved) experts_segments_interleave(call, filler, fillers);
    if (call.out && !call.only_kinds) experts_segments_fill<T>(call, reinterpret_cast<uint4 *>(shared), filler, fillers);
    return;
  }
  unsigned *counted = (unsigned *)call.counts + kinds.counters(), *read = counted + 1, others = 0;
  // One loop, not unrolled, so that both stages go through the same instructions.
#pragma unroll 1
  for (int stage = EXPERTS_GROUP_COUNT; stage <= EXPERTS_GROUP_PLACE; stage++) {
    if (!(call.stages & stage)) continue;
    if (stage == EXPERTS_GROUP_PLACE) {
      if (threadIdx.x == 0) counter_wait(counted, blocks);
      __syncthreads();
      experts_segments_begins(call, kinds, counts ? call.shares.chunk(block) : 0, begins, shared);
      if (threadIdx.x == 0) others = counter_add(read, 1);
    }
    if (!counts) continue;
    for (int i = threadIdx.x; i < kinds.count; i += EXPERTS_THREADS)
      begins[i] = stage == EXPERTS_GROUP_PLACE ? begins[i] + call.offsets[block * kinds.count + i] : 0;
    __syncthreads();
    experts_segments_rows<T>(call, kinds, begin, end, begins, stage);
    if (stage == EXPERTS_GROUP_COUNT) experts_segments_add(call, kinds, begins);
  }
  if (!(call.stages & EXPERTS_GROUP_PLACE)) return;
  if (!counts) {
    if (bin == 0)
      for (int i = threadIdx.x; i < call.d_out / 8; i += EXPERTS_THREADS) static_cast<uint4 *>(call.bias16)[i] = experts_bias16<T>(call.bias, i);
    experts_segments_tiles(call, kinds, bin, begins, shared);
  }
  // Who is the last to have read the counters leaves zeros.
  __syncthreads();
  if (threadIdx.x == 0) shared[0] = others == (unsigned)(blocks + EXPERTS_BINS - 1);
  __syncthreads();
  if (shared[0])
    for (int i = threadIdx.x; i < kinds.counters() + 2; i += EXPERTS_THREADS) call.counts[i] = 0;
}

#define EXPERTS_SEGMENTS(NAME, T)                                                                                             \
  extern "C" __global__ void __launch_bounds__(256, 4)                                                                        \
      NAME(const unsigned char *selection, unsigned *mask, int rows, int words, int experts, int size, int per_unit, int parts,\
           int width, int pools, int only_kinds, int blocks, int chunks, int *counts, int *offsets, unsigned *list,           \
           int4 *tiles, int *header, const float *bias, void *bias16, void *out, const void *down, void *interleaved,         \
           int d_out, int stages) {                                                                                           \
    experts_segments<T>({selection, mask, rows, words, {experts, size, per_unit, parts, width}, pools, only_kinds,            \
                         {blocks, chunks}, counts, offsets, list, tiles, header, bias, bias16, out, down, interleaved, d_out, \
                         stages});                                                                                            \
  }
EXPERTS_SEGMENTS(experts_segments_bf16, bf16)
EXPERTS_SEGMENTS(experts_segments_f16, __half)

// out[token], its first segment's row so far, plus the bias and the other segments' rows [segments - 1, rows, d_out] in
// their order; the bias alone where the token has none. Units are in two pools or in none.
template <typename T>
__device__ __forceinline__ void experts_segments_combine(const unsigned *__restrict__ mask, int rows, int words,
                                                         experts_units units, int pools, const T *__restrict__ parts,
                                                         T *out, const float *__restrict__ bias, int d_out) {
  const int pieces = d_out / 8;
  hopper_launch_next();
  hopper_wait_launch();
  for (GRID_LOOP(i, (long long)rows * pieces)) {
    const long long row = i / pieces;
    const int column = (int)(i - row * pieces) * 8;
    int count = 0;
    for (int word = 0; word * 32 < units.count(); word++) count += __popc(units.bits([&](int i) { return mask[row * words + i]; }, words, word));
    // Two pools: half as many, rounded up.
    if (pools != 0) count = (count + 1) / 2;
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
           int pools, const T *partial, T *out, const float *bias, int d_out) {                                         \
    experts_segments_combine<T>(mask, rows, words, {experts, size, per_unit, parts, width}, pools, partial, out, bias,  \
                                d_out);                                                                                 \
  }
EXPERTS_SEGMENTS_COMBINE(experts_segments_combine_bf16, bf16)
EXPERTS_SEGMENTS_COMBINE(experts_segments_combine_f16, __half)
