// What the attention kernels share: shapes, strides and masks.
#pragma once
#include "common.cuh"

// Elements from one sequence, one position, one head to the next.
struct AttentionStrides {
  int batch, row, head;
};

// q and dq lie as `q` says, k, v, dk and dv as `kv`, out and its gradient as `o`; the numbers log_sum and delta are
// [batch, heads, queries]. The queries are the last of the keys' positions.
struct AttentionShape {
  int heads, group, queries, keys, headDim, causal;
  AttentionStrides q, kv, o;
};

__device__ __forceinline__ long long attention_offset(const AttentionStrides &s, int batch, int row, int head) {
  return (long long)batch * s.batch + (long long)row * s.row + head * s.head;
}

// How many of the first keys the queries before `end` may see.
__device__ __forceinline__ int attention_seen(const AttentionShape &s, int end) {
  return s.causal ? min(s.keys, end + s.keys - s.queries) : s.keys;
}

// Whether all queries from `query` on see all keys before `end`: nothing to test then.
__device__ __forceinline__ bool attention_open(const AttentionShape &s, const int *padding, int query, int end) {
  return padding == nullptr && end <= s.keys && (!s.causal || end - 1 <= query + s.keys - s.queries);
}

// Whether a query sees a key. padding [batch, keys] may be null. What is computed for queries behind the last one is
// never used.
__device__ __forceinline__ bool attention_sees(const AttentionShape &s, const int *padding, int batch, int query,
                                               int key) {
  if (key >= s.keys) return false;
  if (s.causal && key > query + s.keys - s.queries) return false;
  return padding == nullptr || padding[(long long)batch * s.keys + key] != 0;
}

// The gradient of softmax needs Σ out · dOut of each row: one warp a row of a head.
template <typename T>
__device__ __forceinline__ void attention_delta(const T *out, const T *dout, float *delta, const AttentionShape &s,
                                                int rows) {
  const int lane = threadIdx.x % 32;
  const int row = blockIdx.x * 8 + threadIdx.x / 32;
  if (row >= rows) return;
  const int query = row % s.queries, head = row / s.queries % s.heads, batch = row / s.queries / s.heads;
  const long long at = attention_offset(s.o, batch, query, head);
  float sum = 0;
  for (int i = lane; i < s.headDim; i += 32) sum += to_float(out[at + i]) * to_float(dout[at + i]);
  sum = warp_sum(sum);
  if (lane == 0) delta[row] = sum;
}
