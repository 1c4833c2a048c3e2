// Attention without its matrix of weights (Dao et al. 2022), bf16 in and out through the tensor cores, float32 between.
//
//   nvcc -ptx -arch=compute_80 -std=c++17 attention-bf16.cu
//
// A block of 4 warps owns 64 queries, in the gradient's second pass 64 keys, of one head; 16 of them are a warp's. It
// goes through tiles of the other side, which come to shared memory by copies in the background. Scores stay in the
// registers that the matrix instruction leaves them in, and these are in the right places to be the next product's
// left operand. Softmax is taken with base 2, so scores are scaled by scale · log2 e.
//
// The gradient has two passes, one for dq and one for dk and dv: each writes what it alone adds up, in a fixed order,
// where one pass would need atomic additions. Rows of a tile are padded by 16 bytes, which lets ldmatrix read 8 of
// them without bank conflicts. Heads are padded with zeros to 32, 64 or 128.
#include "attention.cuh"
#include "tensor-core.cuh"

constexpr int OWN = 64;
constexpr int THREADS = 128;
constexpr float LOG2E = 1.4426950408889634f;
constexpr float LN2 = 0.6931471805599453f;

template <int HD> constexpr int PITCH = HD + 8;
// Rows of the other side's tiles: fewer where a head takes more registers.
template <int HD> constexpr int OTHER = HD > 64 ? 32 : 64;

// ROWS rows of a head from `start` on, zeros beyond `end` and beyond headDim.
template <int HD, int ROWS>
__device__ __forceinline__ void load_tile(bf16 *tile, const bf16 *from, int stride, int start, int end, int headDim) {
  constexpr int perRow = HD / 8;
#pragma unroll
  for (int i = threadIdx.x; i < ROWS * perRow; i += THREADS) {
    const int row = i / perRow, column = i % perRow * 8;
    const bool valid = start + row < end && column < headDim;
    copy16(tile + row * PITCH<HD> + column, valid ? from + (long long)(start + row) * stride + column : from, valid);
  }
}

// c [16 × N] += rows of a (from `row` on) times rows of b, over HD.
template <int HD, int N>
__device__ __forceinline__ void product_of_rows(float (&c)[N / 8][4], const bf16 *a, int row, const bf16 *b) {
#pragma unroll
  for (int k = 0; k < HD; k += 16) {
    unsigned left[4];
    load_matrices(left, a_rows(a, PITCH<HD>, row, k));
#pragma unroll
    for (int n = 0; n < N; n += 16) {
      unsigned right[4];
      load_matrices(right, b_rows(b, PITCH<HD>, n, k));
      mma_16<bf16>(c[n / 8], left, right[0], right[1]);
      mma_16<bf16>(c[n / 8 + 1], left, right[2], right[3]);
    }
  }
}

// c [16 × HD] += p [16 × K], in registers as a product left it, times the K rows of b.
template <int HD, int K>
__device__ __forceinline__ void product_with_weights(float (&c)[HD / 8][4], const float (&p)[K / 8][4], const bf16 *b) {
#pragma unroll
  for (int k = 0; k < K; k += 16) {
    const float(&low)[4] = p[k / 8], (&high)[4] = p[k / 8 + 1];
    const unsigned left[4] = {pack_bf16(low[0], low[1]), pack_bf16(low[2], low[3]), pack_bf16(high[0], high[1]),
                              pack_bf16(high[2], high[3])};
#pragma unroll
    for (int n = 0; n < HD; n += 16) {
      unsigned right[4];
      load_matrices_transposed(right, b_columns(b, PITCH<HD>, k, n));
      mma_16<bf16>(c[n / 8], left, right[0], right[1]);
      mma_16<bf16>(c[n / 8 + 1], left, right[2], right[3]);
    }
  }
}

// Writes a warp's 16 rows (from `row` on) times factors of the rows g and g + 8.
template <int HD>
__device__ __forceinline__ void store_rows(bf16 *to, int stride, const float (&c)[HD / 8][4], int row, int end,
                                           int headDim, float top, float bottom) {
  const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
#pragma unroll
  for (int n = 0; n < HD / 8; n++) {
    const int column = n * 8 + t * 2;
    if (column >= headDim) continue;
    if (row + g < end) {
      *reinterpret_cast<unsigned *>(to + (long long)(row + g) * stride + column) = pack_bf16(c[n][0] * top, c[n][1] * top);
    }
    if (row + g + 8 < end) {
      *reinterpret_cast<unsigned *>(to + (long long)(row + g + 8) * stride + column) =
          pack_bf16(c[n][2] * bottom, c[n][3] * bottom);
    }
  }
}

template <int N> __device__ __forceinline__ void clear(float (&c)[N][4]) {
#pragma unroll
  for (int i = 0; i < N; i++) c[i][0] = c[i][1] = c[i][2] = c[i][3] = 0;
}

template <int HD>
__device__ __forceinline__ void forward(const bf16 *q, const bf16 *k, const bf16 *v, const int *padding, bf16 *out,
                                        float *logSum, const AttentionShape &s, float scale) {
  constexpr int N = OTHER<HD>;
  DYNAMIC_SHARED(bf16, shared);
  bf16 *qs = shared, *ks = qs + OWN * PITCH<HD>, *vs = ks + N * PITCH<HD>;
  const int batch = blockIdx.z, head = blockIdx.y, first = blockIdx.x * OWN;
  const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4, warpRow = threadIdx.x / 32 * 16;
  q += attention_offset(s.q, batch, 0, head);
  k += attention_offset(s.kv, batch, 0, head / s.group);
  v += attention_offset(s.kv, batch, 0, head / s.group);

  float o[HD / 8][4], max[2] = {-INFINITY, -INFINITY}, sum[2] = {0, 0};
  clear(o);
  load_tile<HD, OWN>(qs, q, s.q.row, first, s.queries, s.headDim);
  const int seen = attention_seen(s, min(first + OWN, s.queries));
  const float toLog2 = scale * LOG2E;
  for (int start = 0; start < seen; start += N) {
    load_tile<HD, N>(ks, k, s.kv.row, start, s.keys, s.headDim);
    copies_commit();
    load_tile<HD, N>(vs, v, s.kv.row, start, s.keys, s.headDim);
    copies_commit();
    copies_wait<1>();
    __syncthreads();
    float p[N / 8][4];
    clear(p);
    product_of_rows<HD, N>(p, qs, warpRow, ks);
    const bool open = attention_open(s, padding, first, start + N);
    float greatest[2] = {-INFINITY, -INFINITY};
#pragma unroll
    for (int n = 0; n < N / 8; n++) {
#pragma unroll
      for (int i = 0; i < 4; i++) {
        const int query = first + warpRow + g + i / 2 * 8, key = start + n * 8 + t * 2 + i % 2;
        const bool sees = open || attention_sees(s, padding, batch, query, key);
        p[n][i] = sees ? p[n][i] * toLog2 : -INFINITY;
        greatest[i / 2] = fmaxf(greatest[i / 2], p[n][i]);
      }
    }
    float correction[2], origin[2];
#pragma unroll
    for (int r = 0; r < 2; r++) {
      greatest[r] = fmaxf(greatest[r], __shfl_xor_sync(0xffffffffu, greatest[r], 1));
      greatest[r] = fmaxf(greatest[r], __shfl_xor_sync(0xffffffffu, greatest[r], 2));
      greatest[r] = fmaxf(greatest[r], max[r]);
      // While a query has seen no key, 0 stands in for −∞, so that no ∞ − ∞ arises.
      origin[r] = greatest[r] == -INFINITY ? 0 : greatest[r];
      correction[r] = exp2f(max[r] - origin[r]);
      max[r] = greatest[r];
      sum[r] *= correction[r];
    }
#pragma unroll
    for (int n = 0; n < N / 8; n++) {
#pragma unroll
      for (int i = 0; i < 4; i++) {
        p[n][i] = exp2f(p[n][i] - origin[i / 2]);
        sum[i / 2] += p[n][i];
      }
    }
#pragma unroll
    for (int n = 0; n < HD / 8; n++) {
      o[n][0] *= correction[0], o[n][1] *= correction[0];
      o[n][2] *= correction[1], o[n][3] *= correction[1];
    }
    copies_wait<0>();
    __syncthreads();
    product_with_weights<HD, N>(o, p, vs);
    __syncthreads();
  }
#pragma unroll
  for (int r = 0; r < 2; r++) {
    sum[r] += __shfl_xor_sync(0xffffffffu, sum[r], 1);
    sum[r] += __shfl_xor_sync(0xffffffffu, sum[r], 2);
    const int query = first + warpRow + g + r * 8;
    // A query that sees nothing: its output is 0, and exp(score − ∞) makes its gradients 0.
    if (t == 0 && query < s.queries) {
      logSum[((long long)batch * s.heads + head) * s.queries + query] =
          sum[r] > 0 ? (max[r] + log2f(sum[r])) * LN2 : INFINITY;
    }
    sum[r] = sum[r] > 0 ? 1 / sum[r] : 0;
  }
  store_rows<HD>(out + attention_offset(s.o, batch, 0, head), s.o.row, o, first + warpRow, s.queries, s.headDim, sum[0],
                 sum[1]);
}

// dq of 64 queries.
template <int HD>
__device__ __forceinline__ void grad_queries(const bf16 *q, const bf16 *k, const bf16 *v, const int *padding,
                                             const bf16 *dout, const float *logSum, const float *delta, bf16 *dq,
                                             const AttentionShape &s, float scale) {
  constexpr int N = OTHER<HD>;
  DYNAMIC_SHARED(bf16, shared);
  bf16 *qs = shared, *dos = qs + OWN * PITCH<HD>, *ks = dos + OWN * PITCH<HD>, *vs = ks + N * PITCH<HD>;
  const int batch = blockIdx.z, head = blockIdx.y, first = blockIdx.x * OWN;
  const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4, warpRow = threadIdx.x / 32 * 16;
  k += attention_offset(s.kv, batch, 0, head / s.group);
  v += attention_offset(s.kv, batch, 0, head / s.group);
  load_tile<HD, OWN>(qs, q + attention_offset(s.q, batch, 0, head), s.q.row, first, s.queries, s.headDim);
  load_tile<HD, OWN>(dos, dout + attention_offset(s.o, batch, 0, head), s.o.row, first, s.queries, s.headDim);
  float total[2], along[2];
#pragma unroll
  for (int r = 0; r < 2; r++) {
    const int query = first + warpRow + g + r * 8;
    const long long at = ((long long)batch * s.heads + head) * s.queries + query;
    total[r] = query < s.queries ? logSum[at] * LOG2E : INFINITY;
    along[r] = query < s.queries ? delta[at] : 0;
  }
  float grad[HD / 8][4];
  clear(grad);
  const int seen = attention_seen(s, min(first + OWN, s.queries));
  const float toLog2 = scale * LOG2E;
  for (int start = 0; start < seen; start += N) {
    load_tile<HD, N>(ks, k, s.kv.row, start, s.keys, s.headDim);
    load_tile<HD, N>(vs, v, s.kv.row, start, s.keys, s.headDim);
    copies_commit();
    copies_wait<0>();
    __syncthreads();
    float p[N / 8][4], dp[N / 8][4];
    clear(p);
    clear(dp);
    product_of_rows<HD, N>(p, qs, warpRow, ks);
    product_of_rows<HD, N>(dp, dos, warpRow, vs);
    const bool open = attention_open(s, padding, first, start + N);
#pragma unroll
    for (int n = 0; n < N / 8; n++) {
#pragma unroll
      for (int i = 0; i < 4; i++) {
        const int query = first + warpRow + g + i / 2 * 8, key = start + n * 8 + t * 2 + i % 2;
        const bool sees = open || attention_sees(s, padding, batch, query, key);
        const float weight = sees ? exp2f(p[n][i] * toLog2 - total[i / 2]) : 0;
        p[n][i] = weight * (dp[n][i] - along[i / 2]);
      }
    }
    product_with_weights<HD, N>(grad, p, ks);
    __syncthreads();
  }
  store_rows<HD>(dq + attention_offset(s.q, batch, 0, head), s.q.row, grad, first + warpRow, s.queries, s.headDim, scale,
                 scale);
}

// dk and dv of 64 keys, from all queries of all heads that share them.
template <int HD>
__device__ __forceinline__ void grad_keys(const bf16 *q, const bf16 *k, const bf16 *v, const int *padding,
                                          const bf16 *dout, const float *logSum, const float *delta, bf16 *dk, bf16 *dv,
                                          const AttentionShape &s, float scale) {
  constexpr int N = OTHER<HD>;
  __shared__ float totals[N], alongs[N];
  DYNAMIC_SHARED(bf16, shared);
  bf16 *ks = shared, *vs = ks + OWN * PITCH<HD>, *qs = vs + OWN * PITCH<HD>, *dos = qs + N * PITCH<HD>;
  const int batch = blockIdx.z, kvHead = blockIdx.y, first = blockIdx.x * OWN;
  const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4, warpRow = threadIdx.x / 32 * 16;
  const long long own = attention_offset(s.kv, batch, 0, kvHead);
  load_tile<HD, OWN>(ks, k + own, s.kv.row, first, s.keys, s.headDim);
  load_tile<HD, OWN>(vs, v + own, s.kv.row, first, s.keys, s.headDim);
  float gradK[HD / 8][4], gradV[HD / 8][4];
  clear(gradK);
  clear(gradV);
  const float toLog2 = scale * LOG2E;
  // The first query that sees the first of these keys.
  const int earliest = s.causal ? max(0, first - (s.keys - s.queries)) / N * N : 0;
  for (int head = kvHead * s.group; head < (kvHead + 1) * s.group; head++) {
    const bf16 *queries = q + attention_offset(s.q, batch, 0, head), *grads = dout + attention_offset(s.o, batch, 0, head);
    for (int start = earliest; start < s.queries; start += N) {
      load_tile<HD, N>(qs, queries, s.q.row, start, s.queries, s.headDim);
      load_tile<HD, N>(dos, grads, s.o.row, start, s.queries, s.headDim);
      copies_commit();
      if (threadIdx.x < N) {
        const int query = start + threadIdx.x;
        const long long at = ((long long)batch * s.heads + head) * s.queries + query;
        totals[threadIdx.x] = query < s.queries ? logSum[at] * LOG2E : INFINITY;
        alongs[threadIdx.x] = query < s.queries ? delta[at] : 0;
      }
      copies_wait<0>();
      __syncthreads();
      float p[N / 8][4], ds[N / 8][4];
      clear(p);
      clear(ds);
      product_of_rows<HD, N>(p, ks, warpRow, qs);
      product_of_rows<HD, N>(ds, vs, warpRow, dos);
      const bool open = attention_open(s, padding, start, first + OWN);
#pragma unroll
      for (int n = 0; n < N / 8; n++) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
          const int column = n * 8 + t * 2 + i % 2, key = first + warpRow + g + i / 2 * 8;
          const bool sees = open || attention_sees(s, padding, batch, start + column, key);
          p[n][i] = sees ? exp2f(p[n][i] * toLog2 - totals[column]) : 0;
          ds[n][i] = p[n][i] * (ds[n][i] - alongs[column]);
        }
      }
      product_with_weights<HD, N>(gradV, p, dos);
      product_with_weights<HD, N>(gradK, ds, qs);
      __syncthreads();
    }
  }
  store_rows<HD>(dk + own, s.kv.row, gradK, first + warpRow, s.keys, s.headDim, scale, scale);
  store_rows<HD>(dv + own, s.kv.row, gradV, first + warpRow, s.keys, s.headDim, 1, 1);
}

#define ATTENTION(HD)                                                                                                  \
  KERNEL __launch_bounds__(THREADS) attention_bf16_##HD(const bf16 *q, const bf16 *k, const bf16 *v, const int *padding, \
                                                        bf16 *out, float *logSum, const AttentionShape shape,          \
                                                        float scale) {                                                 \
    forward<HD>(q, k, v, padding, out, logSum, shape, scale);                                                          \
  }                                                                                                                    \
  KERNEL __launch_bounds__(THREADS)                                                                                    \
      attention_grad_queries_bf16_##HD(const bf16 *q, const bf16 *k, const bf16 *v, const int *padding,                \
                                       const bf16 *dout, const float *logSum, const float *delta, bf16 *dq,            \
                                       const AttentionShape shape, float scale) {                                      \
    grad_queries<HD>(q, k, v, padding, dout, logSum, delta, dq, shape, scale);                                         \
  }                                                                                                                    \
  KERNEL __launch_bounds__(THREADS)                                                                                    \
      attention_grad_keys_bf16_##HD(const bf16 *q, const bf16 *k, const bf16 *v, const int *padding, const bf16 *dout, \
                                    const float *logSum, const float *delta, bf16 *dk, bf16 *dv,                       \
                                    const AttentionShape shape, float scale) {                                         \
    grad_keys<HD>(q, k, v, padding, dout, logSum, delta, dk, dv, shape, scale);                                        \
  }
ATTENTION(32)
ATTENTION(64)
ATTENTION(128)

KERNEL __launch_bounds__(256) attention_delta_bf16(const bf16 *out, const bf16 *dout, float *delta,
                                                   const AttentionShape shape, int rows) {
  attention_delta(out, dout, delta, shape, rows);
}
