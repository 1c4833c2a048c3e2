// Selections of experts: from norms by a rule, their bits, and the rows of each expert.
//
// A selection is a tensor of one byte a (row, expert), 0 or 1, as tfjs reads it. Where many rows are computed it is turned
// into bits [rows, words of 32 experts], and those into lists of rows, expert by expert, ascending: the place of a row
// in its expert's list depends on the bits alone, not on which block comes first.
#include "experts-units.cuh"
#include "experts.cuh"

// A warp a row; of signed numbers, by their magnitudes. Dynamic shared memory: n floats and ceil(n / 32) words for each warp.
KERNEL experts_select(const float *norms, unsigned char *selection, long long rows, int n, int is_signed, int rule, float value) {
  DYNAMIC_SHARED(float, shared);
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, warps = blockDim.x / 32, words = (n + 31) / 32;
  float *own = shared + warp * (n + words);
  unsigned *bits = reinterpret_cast<unsigned *>(own + n);
  for (long long r = blockIdx.x * (long long)warps + warp; r < rows; r += (long long)gridDim.x * warps) {
    for (int e = lane; e < n; e += 32) own[e] = is_signed ? fabsf(norms[r * n + e]) : norms[r * n + e];
    __syncwarp();
    experts_select_row(own, n, rule, value, bits);
    __syncwarp();
    for (int e = lane; e < n; e += 32) selection[r * n + e] = bits[e / 32] >> e % 32 & 1u;
    __syncwarp();
  }
}

// Bytes to bits; a thread 32 experts of a row.
KERNEL experts_bits(const unsigned char *selection, unsigned *bits, long long rows, int n) {
  const unsigned words = (n + 31) / 32;
  const long long all = rows * words;
  for (long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x; i < all; i += (long long)gridDim.x * blockDim.x) {
    const long long row = all < 1ll << 32 ? (long long)((unsigned)i / words) : i / words;
    bits[i] = experts_selected(selection, row, n, (int)(i - row * words) * 32);
  }
}

// ---- Grouping: three launches -----------------------------------------------------------------------------------------
//
// Rows are taken in spans of 256, eight warps of 32 rows. A warp turns its 32 words, one a row, into 32 others, one an
// expert.

enum { GROUP_ROWS = 256 };

// Lane b gets the word whose bit r is bit b of lane r's.
__device__ __forceinline__ unsigned group_transpose(unsigned word) {
  unsigned own = 0;
#pragma unroll
  for (int b = 0; b < 32; b++) {
    const unsigned column = __ballot_sync(~0u, word >> b & 1u);
    if (threadIdx.x % 32 == b) own = column;
  }
  return own;
}

__device__ __forceinline__ unsigned group_word(const unsigned *bits, long long rows, int words) {
  const long long r = blockIdx.x * (long long)GROUP_ROWS + threadIdx.x;
  return group_transpose(r < rows ? bits[r * words + blockIdx.y] : 0u);
}

// spans[expert, span] = rows of the span that select the expert. Grid: (spans, words), blocks of 256.
KERNEL experts_group_count(const unsigned *bits, int *spans, long long rows, int n) {
  __shared__ int counts[8][32];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  counts[warp][lane] = __popc(group_word(bits, rows, (n + 31) / 32));
  __syncthreads();
  const int e = blockIdx.y * 32 + lane;
  if (warp != 0 || e >= n) return;
  int sum = 0;
  for (int w = 0; w < 8; w++) sum += counts[w][lane];
  spans[(long long)e * gridDim.x + blockIdx.x] = sum;
}

// spans become the counts of the spans before; counts[expert] their sum. A warp an expert.
KERNEL experts_group_scan(int *spans, int *counts, int n, int span_count) {
  const int lane = threadIdx.x % 32, warps = gridDim.x * (blockDim.x / 32);
  for (int e = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32; e < n; e += warps) {
    int *own = spans + (long long)e * span_count;
    int before = 0;
    for (int first = 0; first < span_count; first += 32) {
      const int i = first + lane, count = i < span_count ? own[i] : 0;
      const int sum = warp_sum_upto(count);
      if (i < span_count) own[i] = before + sum - count;
      before += __shfl_sync(~0u, sum, 31);
    }
    if (lane == 0) counts[e] = before;
  }
}

// offsets[expert] = rows of all experts before, offsets[n] of all; list = the rows, expert by expert, ascending. Grid and
// blocks as for the counts.
KERNEL experts_group_fill(const unsigned *bits, const int *spans, const int *counts, int *offsets, int *list, long long rows, int n) {
  __shared__ int sums[8][32];
  __shared__ int starts[32];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, first = blockIdx.y * 32;
  const unsigned own = group_word(bits, rows, (n + 31) / 32);
  sums[warp][lane] = __popc(own);
  // Where the block's 32 experts begin: every block adds up the counts before them.
  if (warp == 0) {
    int before = 0;
    for (int e = lane; e < first; e += 32) before += counts[e];
    before = warp_sum(before);
    const int count = first + lane < n ? counts[first + lane] : 0;
    const int sum = warp_sum_upto(count);
    starts[lane] = before + sum - count;
    if (blockIdx.x == 0 && first + lane < n) offsets[first + lane] = before + sum - count;
    if (blockIdx.x == 0 && first + lane == n - 1) offsets[n] = before + sum;
  }
  __syncthreads();
  if (first + lane >= n) return;
  long long at = starts[lane] + spans[(long long)(first + lane) * gridDim.x + blockIdx.x];
  for (int w = 0; w < warp; w++) at += sums[w][lane];
  const int row = blockIdx.x * GROUP_ROWS + warp * 32;
  for (unsigned left = own; left != 0; left &= left - 1) list[at++] = row + __ffs(left) - 1;
}
