// Rows added or written to places that indices on the device name. Sums are deterministic: the rows
// are sorted by destination with a stable radix sort, and every destination has one owner that adds its
// rows in their order. An index out of range is passed over.
#include "common.cuh"
#include "layout.cuh"

// ---- destinations -------------------------------------------------------------------------------

#define MAX_DEPTH 6

struct Address {
  int depth;
  int stride[MAX_DEPTH];
};

// keys[i] = destination of row i, or `none` (the greatest key) where it has none; rows[i] = i. With
// `repeat` > 1 a destination is as many rows, of which row i goes to the one of number i mod repeat.
KERNEL scatter_keys(const int* __restrict__ indices, unsigned* __restrict__ keys,
                    unsigned* __restrict__ rows, int count, int repeat, int destinations, unsigned none,
                    Address address) {
  for (GRID_LOOP(i, count)) {
    long long at = 0;
#pragma unroll
    for (int j = 0; j < MAX_DEPTH; ++j)
      if (j < address.depth) at += (long long)indices[i * address.depth + j] * address.stride[j];
    keys[i] = at >= 0 && at < destinations ? (unsigned)(at * repeat + i % repeat) : none;
    rows[i] = (unsigned)i;
  }
}

// ---- stable radix sort, eight bits a pass -------------------------------------------------------

#define DIGITS 256
#define WARPS 8
#define ROUNDS 8                      // a warp sorts this many times 32 keys
#define CHUNK (WARPS * ROUNDS * 32)   // keys of a block

// counts[digit * gridDim.x + block] = keys of the block's chunk with this digit.
KERNEL scatter_histogram(const unsigned* __restrict__ keys, unsigned* __restrict__ counts, int count,
                         int shift) {
  __shared__ unsigned histogram[DIGITS];
  for (int digit = threadIdx.x; digit < DIGITS; digit += blockDim.x) histogram[digit] = 0;
  __syncthreads();
  const int start = blockIdx.x * CHUNK;
  const int end = start + CHUNK < count ? start + CHUNK : count;
  for (int i = start + threadIdx.x; i < end; i += blockDim.x)
    atomicAdd(&histogram[(keys[i] >> shift) % DIGITS], 1u);
  __syncthreads();
  for (int digit = threadIdx.x; digit < DIGITS; digit += blockDim.x)
    counts[digit * gridDim.x + blockIdx.x] = histogram[digit];
}

// Sums of all earlier elements, in place, by one block of 1,024 threads.
KERNEL scatter_scan(unsigned* __restrict__ counts, int count) {
  __shared__ unsigned warpTotal[32];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  unsigned carry = 0;
  for (int start = 0; start < count; start += 1024 * 4) {
    const int at = start + threadIdx.x * 4;
    unsigned value[4], total = 0;
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      value[k] = at + k < count ? counts[at + k] : 0;
      total += value[k];
    }
    const unsigned inclusive = warp_sum_upto(total);
    if (lane == 31) warpTotal[warp] = inclusive;
    __syncthreads();
    unsigned before = carry;
    for (int w = 0; w < 32; ++w) {
      if (w < warp) before += warpTotal[w];
      carry += warpTotal[w];
    }
    before += inclusive - total;
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      if (at + k < count) counts[at + k] = before;
      before += value[k];
    }
    __syncthreads();
  }
}

// Moves a chunk's keys and rows to their places: `offsets` is the scanned histogram. Keys of the same
// digit keep their order: by warp, by round of 32, by lane.
KERNEL scatter_sort(const unsigned* __restrict__ keys, const unsigned* __restrict__ rows,
                    unsigned* __restrict__ sortedKeys, unsigned* __restrict__ sortedRows,
                    const unsigned* __restrict__ offsets, int count, int shift) {
  __shared__ unsigned next[WARPS][DIGITS];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int start = blockIdx.x * CHUNK + warp * ROUNDS * 32;
  for (int digit = lane; digit < DIGITS; digit += 32) next[warp][digit] = 0;
  __syncwarp();
  for (int round = 0; round < ROUNDS; ++round) {
    const int i = start + round * 32 + lane;
    if (i < count) atomicAdd(&next[warp][(keys[i] >> shift) % DIGITS], 1u);
  }
  __syncthreads();
  for (int digit = threadIdx.x; digit < DIGITS; digit += WARPS * 32) {
    unsigned at = offsets[digit * gridDim.x + blockIdx.x];
    for (int w = 0; w < WARPS; ++w) {
      const unsigned own = next[w][digit];
      next[w][digit] = at;
      at += own;
    }
  }
  __syncthreads();
  for (int round = 0; round < ROUNDS; ++round) {
    const int i = start + round * 32 + lane;
    const bool valid = i < count;
    const unsigned key = valid ? keys[i] : 0;
    const unsigned digit = (key >> shift) % DIGITS;
    unsigned peers = __ballot_sync(0xffffffffu, valid);
#pragma unroll
    for (int bit = 0; bit < 8; ++bit) {
      const unsigned set = __ballot_sync(0xffffffffu, (digit >> bit) & 1u);
      peers &= (digit >> bit) & 1u ? set : ~set;
    }
    const unsigned earlier = __popc(peers & ((1u << lane) - 1u));
    const unsigned base = valid ? next[warp][digit] : 0;
    __syncwarp();
    if (valid && earlier == 0) next[warp][digit] = base + __popc(peers);
    __syncwarp();
    if (valid) {
      sortedKeys[base + earlier] = key;
      sortedRows[base + earlier] = rows[i];
    }
  }
}

// ---- sums of sorted rows ------------------------------------------------------------------------

__device__ inline float4 operator+(const float4& a, const float4& b) {
  return make_float4(a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w);
}
__device__ inline void clear(float& x) { x = 0.0f; }
__device__ inline void clear(int& x) { x = 0; }
__device__ inline void clear(Bytes1& x) { x = 0; }
__device__ inline void clear(float4& x) { x = make_float4(0.0f, 0.0f, 0.0f, 0.0f); }
template <typename From, typename To> __device__ inline To widen(From x) { return (To)x; }
template <> __device__ inline float4 widen<float4, float4>(float4 x) { return x; }

#define BATCH 8  // rows whose loads are in flight together

// Sums of the runs of equal keys within a chunk of `length` sorted rows; threads along x take columns,
// along y chunks. A run that lies within its chunk goes to the output; one that came over the chunk's
// beginning goes to partials[chunk][0], one that begins here and goes on behind its end to
// partials[chunk][1].
template <typename From, typename To>
__device__ void sumChunks(const From* __restrict__ updates, const unsigned* __restrict__ keys,
                          const unsigned* __restrict__ rows, To* __restrict__ out,
                          To* __restrict__ partials, int count, int length, int width, unsigned none) {
  const long long chunk = blockIdx.x * (long long)blockDim.y + threadIdx.y;
  const long long first = chunk * length;
  const int column = blockIdx.y * blockDim.x + threadIdx.x;
  if (first >= count || column >= width) return;
  const int start = (int)first;
  const int end = first + length < count ? start + length : count;
  bool head = start > 0 && keys[start - 1] == keys[start];
  unsigned current = keys[start];
  To sum;
  clear(sum);
  for (int p = start; p < end; p += BATCH) {
    unsigned key[BATCH];
    To value[BATCH];
#pragma unroll
    for (int k = 0; k < BATCH; ++k) {
      clear(value[k]);
      key[k] = none;
      if (p + k < end) {
        key[k] = keys[p + k];
        if (key[k] != none)
          value[k] = widen<From, To>(updates[(long long)rows[p + k] * width + column]);
      }
    }
#pragma unroll
    for (int k = 0; k < BATCH; ++k) {
      if (p + k < end) {
        if (key[k] != current) {
          if (head)
            partials[(chunk * 2) * width + column] = sum;
          else if (current != none)
            out[(long long)current * width + column] = sum;
          head = false;
          current = key[k];
          clear(sum);
        }
        sum = sum + value[k];
      }
    }
  }
  if (head)
    partials[(chunk * 2) * width + column] = sum;
  else if (current != none) {
    if (end < count && keys[end] == current)
      partials[(chunk * 2 + 1) * width + column] = sum;
    else
      out[(long long)current * width + column] = sum;
  }
}

// A run that goes over chunks belongs to the chunk that it begins in, which adds its pieces in order.
template <typename To>
__device__ void sumPieces(const unsigned* __restrict__ keys, To* __restrict__ out,
                          const To* __restrict__ partials, int count, int length, int width,
                          unsigned none) {
  const long long chunk = blockIdx.x * (long long)blockDim.y + threadIdx.y;
  const long long first = chunk * length;
  const int column = blockIdx.y * blockDim.x + threadIdx.x;
  if (column >= width || first + length >= count) return;
  const int start = (int)first, end = start + length;
  const unsigned key = keys[end - 1];
  if (key == none || keys[end] != key) return;
  if (start > 0 && keys[start - 1] == key) return;
  int low = end, high = count;  // the run's end: the first position from which keys are greater
  while (low < high) {
    const int middle = low + (high - low) / 2;
    if (keys[middle] > key) high = middle;
    else low = middle + 1;
  }
  const long long last = (low - 1) / length;
  To sum = partials[(chunk * 2 + 1) * width + column];
#pragma unroll 8
  for (long long c = chunk + 1; c <= last; ++c) sum = sum + partials[(c * 2) * width + column];
  out[(long long)key * width + column] = sum;
}

#define SCATTER_SUM(NAME, FROM, TO)                                                              \
  KERNEL scatter_sum_##NAME(const FROM* __restrict__ updates, const unsigned* __restrict__ keys, \
                            const unsigned* __restrict__ rows, TO* __restrict__ out,             \
                            TO* __restrict__ partials, int count, int length, int width,         \
                            unsigned none) {                                                     \
    sumChunks<FROM, TO>(updates, keys, rows, out, partials, count, length, width, none);         \
  }                                                                                              \
  KERNEL scatter_pieces_##NAME(const unsigned* __restrict__ keys, TO* __restrict__ out,          \
                               const TO* __restrict__ partials, int count, int length, int width, \
                               unsigned none) {                                                  \
    sumPieces<TO>(keys, out, partials, count, length, width, none);                              \
  }

SCATTER_SUM(f32, float, float)
SCATTER_SUM(f32x4, float4, float4)
SCATTER_SUM(i32, int, int)
SCATTER_SUM(u8, Bytes1, Bytes1)
SCATTER_SUM(u8_i32, Bytes1, int)

// ---- writes: of several rows with one destination, the last one stays ---------------------------

// owner[destination] = 1 + the last row that goes there; `owner` begins as 0.
KERNEL scatter_claim(const int* __restrict__ indices, int* __restrict__ owner, int count,
                     int destinations, Address address) {
  for (GRID_LOOP(i, count)) {
    long long at = 0;
#pragma unroll
    for (int j = 0; j < MAX_DEPTH; ++j)
      if (j < address.depth) at += (long long)indices[i * address.depth + j] * address.stride[j];
    if (at >= 0 && at < destinations) atomicMax(&owner[at], (int)i + 1);
  }
}

// out[d, s] = updates[owner[d], s] where d has an owner, otherwise base[d, s]. `rowStep` 0 gives every
// row the updates' only one; `baseStep` 0 takes base[0] everywhere.
#define SCATTER_WRITE(WIDTH)                                                                     \
  KERNEL scatter_write_##WIDTH(const Bytes##WIDTH* __restrict__ updates,                         \
                               const Bytes##WIDTH* __restrict__ base,                            \
                               const int* __restrict__ owner, Bytes##WIDTH* __restrict__ out,    \
                               long long count, long long slice, int rowStep, int baseStep) {    \
    for (GRID_LOOP(at, count)) {                                                                 \
      const long long destination = at / slice;                                                  \
      const long long row = owner[destination] - 1;                                                \
      out[at] = row < 0 ? base[at * baseStep]                                                    \
                        : updates[(row * slice + (at - destination * slice)) * rowStep];         \
    }                                                                                            \
  }

SCATTER_WRITE(1)
SCATTER_WRITE(4)
SCATTER_WRITE(16)
