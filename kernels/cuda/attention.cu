// Attention without its matrix of weights (Dao et al. 2022) in float32, and its gradient.
//
//   nvcc -ptx -arch=compute_80 -std=c++17 attention.cu
//
// A block of 256 threads owns a tile of queries, in the gradient's second pass of keys, of one head, and goes through
// tiles of the other side in shared memory. Of a tile of scores each thread has a square, TILE / 16 on a side: rows
// that follow each other, columns 16 apart, so that 16-byte reads of 8 neighbouring threads meet no bank twice. The
// gradient has two passes, one for dq and one for dk and dv: each writes what it alone adds up, in a fixed order, where
// one pass would need atomic additions. Heads are padded with zeros to 32, 64 or 128.
#include "attention.cuh"
#include "rows.cuh"

constexpr int THREADS = 256;
constexpr int FORWARD_TILE = 64;
constexpr int GRAD_TILE = 32;
template <int HD> constexpr int PITCH = HD + 4;

// ROWS rows of a head from `start` on, zeros beyond `end` and beyond headDim.
template <int HD, int ROWS>
__device__ __forceinline__ void load_tile(float *tile, const float *from, int stride, int start, int end, int headDim) {
  for (int i = threadIdx.x; i < ROWS * HD; i += THREADS) {
    const int row = i / HD, column = i % HD;
    const bool valid = start + row < end && column < headDim;
    tile[row * PITCH<HD> + column] = valid ? from[(long long)(start + row) * stride + column] : 0;
  }
}

// c [S × S] += rows of a (ty · S on) times rows of b (tx, tx + 16, …), over HD.
template <int HD, int S>
__device__ __forceinline__ void product_of_rows(float (&c)[S][S], const float *a, const float *b) {
  const int tx = threadIdx.x % 16, ty = threadIdx.x / 16;
  for (int k = 0; k < HD; k += 4) {
    float4 left[S], right[S];
#pragma unroll
    for (int i = 0; i < S; i++) {
      left[i] = load4(a + (ty * S + i) * PITCH<HD> + k);
      right[i] = load4(b + (tx + i * 16) * PITCH<HD> + k);
    }
#pragma unroll
    for (int i = 0; i < S; i++) {
#pragma unroll
      for (int j = 0; j < S; j++) {
        c[i][j] += left[i].x * right[j].x + left[i].y * right[j].y + left[i].z * right[j].z + left[i].w * right[j].w;
      }
    }
  }
}

// c[i][j] += Σ over the tile of weights(ty · S + i, k) · b[k][tx + 16 · j], where weights(row, k) lies at
// w[row · rowStep + k · step].
template <int HD, int S, int TILE>
__device__ __forceinline__ void product_with_weights(float (&c)[S][HD / 16], const float *w, int rowStep, int step,
                                                     const float *b) {
  const int tx = threadIdx.x % 16, ty = threadIdx.x / 16;
  for (int k = 0; k < TILE; k++) {
    float right[HD / 16];
#pragma unroll
    for (int j = 0; j < HD / 16; j++) right[j] = b[k * PITCH<HD> + tx + j * 16];
#pragma unroll
    for (int i = 0; i < S; i++) {
      const float weight = w[(ty * S + i) * rowStep + k * step];
#pragma unroll
      for (int j = 0; j < HD / 16; j++) c[i][j] += weight * right[j];
    }
  }
}

template <int HD, int S>
__device__ __forceinline__ void store_rows(float *to, int stride, const float (&c)[S][HD / 16], int start, int end,
                                           int headDim, float factor) {
  const int tx = threadIdx.x % 16, ty = threadIdx.x / 16;
#pragma unroll
  for (int i = 0; i < S; i++) {
    const int row = start + ty * S + i;
#pragma unroll
    for (int j = 0; j < HD / 16; j++) {
      if (row < end && tx + j * 16 < headDim) to[(long long)row * stride + tx + j * 16] = c[i][j] * factor;
    }
  }
}

template <int A, int B> __device__ __forceinline__ void clear(float (&c)[A][B]) {
#pragma unroll
  for (int i = 0; i < A; i++) {
#pragma unroll
    for (int j = 0; j < B; j++) c[i][j] = 0;
  }
}

template <int HD>
__device__ __forceinline__ void forward(const float *q, const float *k, const float *v, const int *padding, float *out,
                                        float *logSum, const AttentionShape &s, float scale) {
  constexpr int TILE = FORWARD_TILE, S = TILE / 16;
  DYNAMIC_SHARED(float, shared);
  // k and v take turns in one tile.
  float *qs = shared, *others = qs + TILE * PITCH<HD>, *weights = others + TILE * PITCH<HD>;
  const int batch = blockIdx.z, head = blockIdx.y, first = blockIdx.x * TILE;
  const int tx = threadIdx.x % 16, ty = threadIdx.x / 16;
  k += attention_offset(s.kv, batch, 0, head / s.group);
  v += attention_offset(s.kv, batch, 0, head / s.group);
  load_tile<HD, TILE>(qs, q + attention_offset(s.q, batch, 0, head), s.q.row, first, s.queries, s.headDim);
  float o[S][HD / 16], max[S], sum[S];
  clear(o);
#pragma unroll
  for (int i = 0; i < S; i++) max[i] = -INFINITY, sum[i] = 0;
  const int seen = attention_seen(s, min(first + TILE, s.queries));
  for (int start = 0; start < seen; start += TILE) {
    __syncthreads();
    load_tile<HD, TILE>(others, k, s.kv.row, start, s.keys, s.headDim);
    __syncthreads();
    float p[S][S];
    clear(p);
    product_of_rows<HD, S>(p, qs, others);
    const bool open = attention_open(s, padding, first, start + TILE);
#pragma unroll
    for (int i = 0; i < S; i++) {
      float greatest = -INFINITY;
#pragma unroll
      for (int j = 0; j < S; j++) {
        const bool sees = open || attention_sees(s, padding, batch, first + ty * S + i, start + tx + j * 16);
        p[i][j] = sees ? p[i][j] * scale : -INFINITY;
        greatest = fmaxf(greatest, p[i][j]);
      }
      // The 16 threads of a row are half a warp.
#pragma unroll
      for (int bit = 8; bit > 0; bit /= 2) greatest = fmaxf(greatest, __shfl_xor_sync(0xffffffffu, greatest, bit));
      greatest = fmaxf(greatest, max[i]);
      // While a query has seen no key, 0 stands in for −∞, so that no ∞ − ∞ arises.
      const float origin = greatest == -INFINITY ? 0 : greatest, correction = expf(max[i] - origin);
      float total = 0;
#pragma unroll
      for (int j = 0; j < S; j++) {
        p[i][j] = expf(p[i][j] - origin);
        total += p[i][j];
        weights[(ty * S + i) * (TILE + 4) + tx + j * 16] = p[i][j];
      }
#pragma unroll
      for (int bit = 8; bit > 0; bit /= 2) total += __shfl_xor_sync(0xffffffffu, total, bit);
      max[i] = greatest;
      sum[i] = sum[i] * correction + total;
#pragma unroll
      for (int j = 0; j < HD / 16; j++) o[i][j] *= correction;
    }
    __syncthreads();
    load_tile<HD, TILE>(others, v, s.kv.row, start, s.keys, s.headDim);
    __syncthreads();
    product_with_weights<HD, S, TILE>(o, weights, TILE + 4, 1, others);
  }
#pragma unroll
  for (int i = 0; i < S; i++) {
    const int query = first + ty * S + i;
    // A query that sees nothing: its output is 0, and exp(score − ∞) makes its gradients 0.
    if (tx == 0 && query < s.queries) {
      logSum[((long long)batch * s.heads + head) * s.queries + query] = sum[i] > 0 ? max[i] + logf(sum[i]) : INFINITY;
    }
    const float inverse = sum[i] > 0 ? 1 / sum[i] : 0;
#pragma unroll
    for (int j = 0; j < HD / 16; j++) o[i][j] *= inverse;
  }
  store_rows<HD, S>(out + attention_offset(s.o, batch, 0, head), s.o.row, o, first, s.queries, s.headDim, 1);
}

// Weights and score gradients of a tile of queries and a tile of keys, from rows of q, k, dout, v; `p` and `ds`
// [GRAD_TILE queries][GRAD_TILE + 4].
template <int HD>
__device__ __forceinline__ void tile_gradients(float *p, float *ds, const float *qs, const float *ks, const float *dos,
                                               const float *vs, const int *padding, const float *logSum,
                                               const float *delta, int batch, int head, int query, int key,
                                               const AttentionShape &s, float scale) {
  constexpr int S = GRAD_TILE / 16;
  const int tx = threadIdx.x % 16, ty = threadIdx.x / 16;
  float scores[S][S], dp[S][S];
  clear(scores);
  clear(dp);
  product_of_rows<HD, S>(scores, qs, ks);
  product_of_rows<HD, S>(dp, dos, vs);
  const bool open = attention_open(s, padding, query, key + GRAD_TILE);
#pragma unroll
  for (int i = 0; i < S; i++) {
    const int row = ty * S + i;
    const long long at = ((long long)batch * s.heads + head) * s.queries + query + row;
    const float total = query + row < s.queries ? logSum[at] : INFINITY;
    const float along = query + row < s.queries ? delta[at] : 0;
#pragma unroll
    for (int j = 0; j < S; j++) {
      const int column = tx + j * 16;
      const bool sees = open || attention_sees(s, padding, batch, query + row, key + column);
      const float weight = sees ? expf(scores[i][j] * scale - total) : 0;
      if (p) p[row * (GRAD_TILE + 4) + column] = weight;
      ds[row * (GRAD_TILE + 4) + column] = weight * (dp[i][j] - along);
    }
  }
}

// dq of a tile of queries.
template <int HD>
__device__ __forceinline__ void grad_queries(const float *q, const float *k, const float *v, const int *padding,
                                             const float *dout, const float *logSum, const float *delta, float *dq,
                                             const AttentionShape &s, float scale) {
  constexpr int TILE = GRAD_TILE, S = TILE / 16;
  DYNAMIC_SHARED(float, shared);
  float *qs = shared, *dos = qs + TILE * PITCH<HD>, *ks = dos + TILE * PITCH<HD>, *vs = ks + TILE * PITCH<HD>;
  float *ds = vs + TILE * PITCH<HD>;
  const int batch = blockIdx.z, head = blockIdx.y, first = blockIdx.x * TILE;
  k += attention_offset(s.kv, batch, 0, head / s.group);
  v += attention_offset(s.kv, batch, 0, head / s.group);
  load_tile<HD, TILE>(qs, q + attention_offset(s.q, batch, 0, head), s.q.row, first, s.queries, s.headDim);
  load_tile<HD, TILE>(dos, dout + attention_offset(s.o, batch, 0, head), s.o.row, first, s.queries, s.headDim);
  float grad[S][HD / 16];
  clear(grad);
  const int seen = attention_seen(s, min(first + TILE, s.queries));
  for (int start = 0; start < seen; start += TILE) {
    __syncthreads();
    load_tile<HD, TILE>(ks, k, s.kv.row, start, s.keys, s.headDim);
    load_tile<HD, TILE>(vs, v, s.kv.row, start, s.keys, s.headDim);
    __syncthreads();
    tile_gradients<HD>(nullptr, ds, qs, ks, dos, vs, padding, logSum, delta, batch, head, first, start, s, scale);
    __syncthreads();
    product_with_weights<HD, S, TILE>(grad, ds, TILE + 4, 1, ks);
  }
  store_rows<HD, S>(dq + attention_offset(s.q, batch, 0, head), s.q.row, grad, first, s.queries, s.headDim, scale);
}

// dk and dv of a tile of keys, from all queries of all heads that share them.
template <int HD>
__device__ __forceinline__ void grad_keys(const float *q, const float *k, const float *v, const int *padding,
                                          const float *dout, const float *logSum, const float *delta, float *dk,
                                          float *dv, const AttentionShape &s, float scale) {
  constexpr int TILE = GRAD_TILE, S = TILE / 16;
  DYNAMIC_SHARED(float, shared);
  float *qs = shared, *dos = qs + TILE * PITCH<HD>, *ks = dos + TILE * PITCH<HD>, *vs = ks + TILE * PITCH<HD>;
  float *ds = vs + TILE * PITCH<HD>, *p = ds + TILE * (TILE + 4);
  const int batch = blockIdx.z, kvHead = blockIdx.y, first = blockIdx.x * TILE;
  const long long own = attention_offset(s.kv, batch, 0, kvHead);
  load_tile<HD, TILE>(ks, k + own, s.kv.row, first, s.keys, s.headDim);
  load_tile<HD, TILE>(vs, v + own, s.kv.row, first, s.keys, s.headDim);
  float gradK[S][HD / 16], gradV[S][HD / 16];
  clear(gradK);
  clear(gradV);
  // The first query that sees the first of these keys.
  const int earliest = s.causal ? max(0, first - (s.keys - s.queries)) / TILE * TILE : 0;
  for (int head = kvHead * s.group; head < (kvHead + 1) * s.group; head++) {
    for (int start = earliest; start < s.queries; start += TILE) {
      __syncthreads();
      load_tile<HD, TILE>(qs, q + attention_offset(s.q, batch, 0, head), s.q.row, start, s.queries, s.headDim);
      load_tile<HD, TILE>(dos, dout + attention_offset(s.o, batch, 0, head), s.o.row, start, s.queries, s.headDim);
      __syncthreads();
      tile_gradients<HD>(p, ds, qs, ks, dos, vs, padding, logSum, delta, batch, head, start, first, s, scale);
      __syncthreads();
      product_with_weights<HD, S, TILE>(gradV, p, 1, TILE + 4, dos);
      product_with_weights<HD, S, TILE>(gradK, ds, 1, TILE + 4, qs);
    }
  }
  store_rows<HD, S>(dk + own, s.kv.row, gradK, first, s.keys, s.headDim, scale);
  store_rows<HD, S>(dv + own, s.kv.row, gradV, first, s.keys, s.headDim, 1);
}

#define ATTENTION(HD)                                                                                                 \
  KERNEL __launch_bounds__(THREADS) attention_f32_##HD(const float *q, const float *k, const float *v,                \
                                                       const int *padding, float *out, float *logSum,                 \
                                                       const AttentionShape shape, float scale) {                     \
    forward<HD>(q, k, v, padding, out, logSum, shape, scale);                                                         \
  }                                                                                                                   \
  KERNEL __launch_bounds__(THREADS)                                                                                   \
      attention_grad_queries_f32_##HD(const float *q, const float *k, const float *v, const int *padding,             \
                                      const float *dout, const float *logSum, const float *delta, float *dq,          \
                                      const AttentionShape shape, float scale) {                                      \
    grad_queries<HD>(q, k, v, padding, dout, logSum, delta, dq, shape, scale);                                        \
  }                                                                                                                   \
  KERNEL __launch_bounds__(THREADS)                                                                                   \
      attention_grad_keys_f32_##HD(const float *q, const float *k, const float *v, const int *padding,                \
                                   const float *dout, const float *logSum, const float *delta, float *dk, float *dv,  \
                                   const AttentionShape shape, float scale) {                                         \
    grad_keys<HD>(q, k, v, padding, dout, logSum, delta, dk, dv, shape, scale);                                       \
  }
ATTENTION(32)
ATTENTION(64)
ATTENTION(128)

KERNEL __launch_bounds__(256) attention_delta_f32(const float *out, const float *dout, float *delta,
                                                  const AttentionShape shape, int rows) {
  attention_delta(out, dout, delta, shape, rows);
}
