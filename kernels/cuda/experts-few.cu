// The expert op for few rows: up to 16 a launch, and as fast as memory gives the selected experts' weights. On Hopper up
// to three rows are experts-few.sm90a.cu's.
//
// A block stays on each multiprocessor. The neurons of all selected experts (of the union over the rows), in order, are
// cut into equal runs, one a block, whatever the experts' size. A block reads the up (and gate) rows of its run once for
// all rows of x, keeps the hidden activations on chip, reads the down rows, and writes its share of every output. Then
// each block sums a few columns over all blocks, in a fixed order.
//
// With several rows those shares would be as large as the weights are. The hidden activations go through memory instead
// (`exchange`): blocks then take (columns, run of neurons) pairs of down, of which `splits` runs have to be summed.
//
// All products are a warp's matrix instructions with the rows of x as its 16 rows: a lane reads 16 contiguous bytes of
// a weight row, so that nothing has to be transposed. Down rows are paired by neuron in registers.
//
// The stages run in one launch with a barrier of the whole grid between them, or as a launch each.
#include "experts.cuh"

enum { ROUTE = 1, HIDDEN = 2, DOWN = 4, SUM = 8, FLAGGED = 16 };

// Laid out as the host packs it: pointers, then 32-bit values.
struct experts_few_args {
  const void *x;                   // [rows, d]
  const unsigned char *selection;  // bool [rows, experts]; unused with a router
  const void *up, *gate, *down;
  const float *up_bias, *gate_bias, *down_bias;  // may be null
  const float *scales;                           // 8-bit storages: of up, gate and down, `hidden` each
  const void *router_hidden, *router_output;     // [width, d], [experts, width] in the type of x's copy; may be null
  void *out;                                     // [rows, d_out]
  float *partials;                               // [blocks or splits, rows, padded d_out]
  void *hidden;                                  // exchange: [rows, hidden rounded up to 16]
  float *forecast;                               // router: [rows, width]
  unsigned long long *counter;                   // of the grid's barriers
  int rows, d, d_out, experts, expert_size, activation;
  int x_type, out_type;  // 0 float32, 1 bf16, 2 fp16
  int router_width, rule;
  float value;                           // of the rule
  int stages, exchange, groups, splits;  // exchange: column groups by runs of neurons
  int capacity;                          // most neurons of a block, a multiple of 16
};

// Bytes of a row in shared memory whose 64-byte pieces, one after the other, fall to alternating halves of the banks.
__device__ __forceinline__ int few_pitch(int bytes) { return bytes / 64 % 2 == 0 ? bytes + 64 : bytes; }

#ifdef D2DMOE_EMULATED
__device__ inline float4 few_load(const float4 *p) { return *p; }
__device__ inline void few_store(float4 *p, float4 v) { *p = v; }
__device__ inline void few_prefetch(const void *) {}
#else
__device__ __forceinline__ float4 few_load(const float4 *p) {
  float4 v;
  asm volatile("ld.volatile.global.v4.f32 {%0, %1, %2, %3}, [%4];" : "=f"(v.x), "=f"(v.y), "=f"(v.z), "=f"(v.w) : "l"(p) : "memory");
  return v;
}
__device__ __forceinline__ void few_store(float4 *p, float4 v) {
  asm volatile("st.volatile.global.v4.f32 [%0], {%1, %2, %3, %4};" ::"l"(p), "f"(v.x), "f"(v.y), "f"(v.z), "f"(v.w) : "memory");
}
__device__ __forceinline__ void few_prefetch(const void *p) { asm volatile("prefetch.global.L2 [%0];" ::"l"(p)); }
#endif

// No arithmetic gives these bits: the hardware's NaN is 0x7fffffff.
__device__ __forceinline__ bool few_is_empty(float4 v) {
  const unsigned empty = 0xffffffffu;
  return __float_as_uint(v.x) == empty || __float_as_uint(v.y) == empty || __float_as_uint(v.z) == empty || __float_as_uint(v.w) == empty;
}

// Sums over steps s0 … s1 of 64 bytes of 8 rows of MATRICES matrices: lane (g, t) reads the row at `w[m] + row_bytes`.
template <int STORAGE, int MATRICES>
__device__ __forceinline__ void few_dot(float (&c)[MATRICES][4], const char *const (&w)[MATRICES], bool valid, int chunks, int s0, int s1,
                                        const char *xs, int pitch, int rows) {
  constexpr int STEPS = 8 / MATRICES;
  const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  const char *upper_row = xs + g * pitch, *lower_row = xs + (g + 8) * pitch;
  const bool has_upper = g < rows, has_lower = g + 8 < rows;
  const uint4 zero = make_uint4(0, 0, 0, 0);
  for (int s = s0; s < s1; s += STEPS) {
    uint4 v[STEPS][MATRICES];
#pragma unroll
    for (int i = 0; i < STEPS; i++) {
      const int chunk = (s + i) * 4 + t;
      const bool inside = valid && s + i < s1 && chunk < chunks;
#pragma unroll
      for (int m = 0; m < MATRICES; m++) v[i][m] = inside ? experts_weights16(w[m] + chunk * 16) : zero;
    }
#pragma unroll
    for (int i = 0; i < STEPS; i++) {
      if (s + i >= s1) break;
      const int chunk = (s + i) * 4 + t;
      if (STORAGE == INT8) {
        uint4 upper[2] = {zero, zero}, lower[2] = {zero, zero};
#pragma unroll
        for (int half = 0; half < 2; half++) {
          if (has_upper) upper[half] = *reinterpret_cast<const uint4 *>(upper_row + chunk * 32 + half * 16);
          if (has_lower) lower[half] = *reinterpret_cast<const uint4 *>(lower_row + chunk * 32 + half * 16);
        }
#pragma unroll
        for (int m = 0; m < MATRICES; m++) {
          const uint2 p = experts_widen(v[i][m].x), q = experts_widen(v[i][m].y);
          const uint2 r = experts_widen(v[i][m].z), u = experts_widen(v[i][m].w);
          experts_multiply<STORAGE>(c[m], upper[0], lower[0], make_uint4(p.x, p.y, q.x, q.y));
          experts_multiply<STORAGE>(c[m], upper[1], lower[1], make_uint4(r.x, r.y, u.x, u.y));
        }
      } else {
        const uint4 upper = has_upper ? *reinterpret_cast<const uint4 *>(upper_row + chunk * 16) : zero;
        const uint4 lower = has_lower ? *reinterpret_cast<const uint4 *>(lower_row + chunk * 16) : zero;
#pragma unroll
        for (int m = 0; m < MATRICES; m++) experts_multiply<STORAGE>(c[m], upper, lower, v[i][m]);
      }
    }
  }
}

// A tile of down: 16 neurons by 8 chunks of columns, 4 neurons a lane.
template <int STORAGE>
__device__ __forceinline__ void few_load_down(uint4 (&w)[4], const char *down, long long row_bytes, const int *neurons, int column_bytes) {
  const int4 n = *reinterpret_cast<const int4 *>(neurons);
  const int j[4] = {n.x, n.y, n.z, n.w};
  const bool inside = column_bytes < row_bytes;
#pragma unroll
  for (int i = 0; i < 4; i++) {
    w[i] = make_uint4(0, 0, 0, 0);
    if (!inside || j[i] < 0) continue;
    const char *at = down + j[i] * row_bytes + column_bytes;
    if (STORAGE == INT8) {
      const uint2 v = experts_weights8(at);
      w[i].x = v.x, w[i].y = v.y;
    } else {
      w[i] = experts_weights16(at);
    }
  }
}

// acc[q] += hidden · down over a tile, for column q of each of the 8 chunks.
template <int STORAGE, int Q>
__device__ __forceinline__ void few_multiply_down(float (&acc)[Q][4], uint4 (&w)[4], const char *upper, const char *lower, bool has_upper, bool has_lower) {
  if (STORAGE == TF32 || STORAGE == FLOAT32) {
    const uint4 zero = make_uint4(0, 0, 0, 0);
    const uint4 a = has_upper ? *reinterpret_cast<const uint4 *>(upper) : zero, b = has_lower ? *reinterpret_cast<const uint4 *>(lower) : zero;
    const unsigned w0[4] = {w[0].x, w[0].y, w[0].z, w[0].w}, w1[4] = {w[1].x, w[1].y, w[1].z, w[1].w};
    const unsigned w2[4] = {w[2].x, w[2].y, w[2].z, w[2].w}, w3[4] = {w[3].x, w[3].y, w[3].z, w[3].w};
#pragma unroll
    for (int q = 0; q < 4; q++) {
      experts_mma<STORAGE>(acc[q], a.x, b.x, a.y, b.y, w0[q], w1[q]);
      experts_mma<STORAGE>(acc[q], a.z, b.z, a.w, b.w, w2[q], w3[q]);
    }
    return;
  }
  if (STORAGE == INT8) {
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const uint2 p = experts_widen(w[i].x), q = experts_widen(w[i].y);
      w[i] = make_uint4(p.x, p.y, q.x, q.y);
    }
  }
  const uint2 zero = make_uint2(0, 0);
  const uint2 a = has_upper ? *reinterpret_cast<const uint2 *>(upper) : zero, b = has_lower ? *reinterpret_cast<const uint2 *>(lower) : zero;
  const unsigned w0[4] = {w[0].x, w[0].y, w[0].z, w[0].w}, w1[4] = {w[1].x, w[1].y, w[1].z, w[1].w};
  const unsigned w2[4] = {w[2].x, w[2].y, w[2].z, w[2].w}, w3[4] = {w[3].x, w[3].y, w[3].z, w[3].w};
#pragma unroll
  for (int i = 0; i < 4; i++) {
    experts_mma<STORAGE>(acc[2 * i], a.x, b.x, a.y, b.y, (w0[i] & 0xffffu) | w1[i] << 16, (w2[i] & 0xffffu) | w3[i] << 16);
    experts_mma<STORAGE>(acc[2 * i + 1], a.x, b.x, a.y, b.y, w0[i] >> 16 | (w1[i] & 0xffff0000u), w2[i] >> 16 | (w3[i] & 0xffff0000u));
  }
}

// The bits of the experts that run, of `rows` rows, from norms in shared memory.
__device__ void few_select(const float *norms, int rows, int n, int rule, float value, unsigned *words) {
  const int per_row = (n + 31) / 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
  if (rule == 0 || rows * per_row > warps) {
    for (int r = warp; r < rows; r += warps) experts_select_row(norms + r * n, n, rule, value, words + r * per_row);
    return;
  }
  // Few: a thread an expert, whose place is how many come before it, greater ones and equal ones of lower number.
  if (warp >= rows * per_row) return;
  const float *row = norms + warp / per_row * n;
  const int e = warp % per_row * 32 + threadIdx.x % 32;
  const float own = e < n ? row[e] : -1.0f;
  int place = 0;
  double before = 0, total = 0;
  if (rule == 1) {
#pragma unroll 8
    for (int j = 0; j < n; j++) place += row[j] > own || (row[j] == own && j < e);
  } else {
#pragma unroll 8
    for (int j = 0; j < n; j++) {
      const bool first = row[j] > own || (row[j] == own && j < e);
      place += first, total += row[j], before += first ? row[j] : 0.0f;
    }
  }
  const bool runs = rule == 1 ? (float)place < value : place == 0 || before < total * (double)value;
  const unsigned word = __ballot_sync(~0u, runs && e < n);
  if (threadIdx.x % 32 == 0) words[warp] = word;
}

// A selection of one byte an expert, 0 or 1, as bits: [rows, words of 32]. The last threads begin: the first ones have
// the first elements of x to wait for.
__device__ void few_read_selection(const unsigned char *selection, int rows, int n, unsigned *words) {
  const int per_row = (n + 31) / 32;
  if (n % 16 == 0 && reinterpret_cast<size_t>(selection) % 16 == 0) {
    const int pieces = n / 16;
    unsigned short *halves = reinterpret_cast<unsigned short *>(words);
    for (int i0 = blockDim.x - 1 - threadIdx.x; i0 < rows * pieces; i0 += 4 * blockDim.x) {
      uint4 v[4];
#pragma unroll
      for (int k = 0; k < 4; k++) {
        const int i = i0 + k * blockDim.x;
        v[k] = i < rows * pieces ? reinterpret_cast<const uint4 *>(selection)[i] : make_uint4(0, 0, 0, 0);
      }
#pragma unroll
      for (int k = 0; k < 4; k++) {
        const int i = i0 + k * blockDim.x;
        if (i >= rows * pieces) break;
        // Bit 0 of each of four bytes, side by side.
        const unsigned gather = 0x10204080u;
        const unsigned bits = (v[k].x * gather >> 28) | (v[k].y * gather >> 28) << 4 | (v[k].z * gather >> 28) << 8 | (v[k].w * gather >> 28) << 12;
        const int at = i / pieces * per_row * 2 + i % pieces;
        halves[at] = (unsigned short)bits;
        if (i % pieces == pieces - 1 && pieces % 2 == 1) halves[at + 1] = 0;
      }
    }
    return;
  }
  const int lane = threadIdx.x % 32, warps = blockDim.x / 32;
  for (int i0 = warps - 1 - threadIdx.x / 32; i0 < rows * per_row; i0 += 8 * warps) {
    bool runs[8];
#pragma unroll
    for (int k = 0; k < 8; k++) {
      const int i = i0 + k * warps, e = i % per_row * 32 + lane;
      runs[k] = i < rows * per_row && e < n && selection[(long long)(i / per_row) * n + e] != 0;
    }
#pragma unroll
    for (int k = 0; k < 8; k++) {
      const int i = i0 + k * warps;
      const unsigned word = __ballot_sync(~0u, runs[k]);
      if (lane == 0 && i < rows * per_row) words[i] = word;
    }
  }
}

// The rows of x into shared memory, zeros from d up to `width`.
template <typename T, int THREADS> __device__ __forceinline__ void few_read_x(const experts_few_args &a, char *xs, int pitch, int width) {
  const int pieces = width / 8;  // of 8 elements
  const bool whole = a.d % 8 == 0 && reinterpret_cast<size_t>(a.x) % 16 == 0;
  for (int i0 = threadIdx.x; i0 < a.rows * pieces; i0 += 4 * THREADS) {
    uint4 v[4], w[4];
#pragma unroll
    for (int k = 0; k < 4; k++) {
      const int i = i0 + k * THREADS, r = i / pieces, c = i % pieces * 8;
      v[k] = w[k] = make_uint4(0, 0, 0, 0);
      if (!whole || i >= a.rows * pieces || c >= a.d) continue;
      const char *at = static_cast<const char *>(a.x) + ((long long)r * a.d + c) * (a.x_type == 0 ? 4 : 2);
      v[k] = *reinterpret_cast<const uint4 *>(at);
      if (a.x_type == 0) w[k] = *reinterpret_cast<const uint4 *>(at + 16);
    }
#pragma unroll
    for (int k = 0; k < 4; k++) {
      const int i = i0 + k * THREADS, r = i / pieces, c = i % pieces * 8;
      if (i >= a.rows * pieces) break;
      const unsigned u[8] = {v[k].x, v[k].y, v[k].z, v[k].w, w[k].x, w[k].y, w[k].z, w[k].w};
      __align__(16) T out[8];
#pragma unroll
      for (int e = 0; e < 8; e++) {
        float value = 0;
        if (!whole)
          value = c + e < a.d ? experts_read(a.x, (long long)r * a.d + c + e, a.x_type) : 0.0f;
        else if (a.x_type == 0)
          value = __uint_as_float(u[e]);
        else if (a.x_type == 1)
          value = __uint_as_float(e % 2 ? u[e / 2] & 0xffff0000u : u[e / 2] << 16);
        else
          value = __half2float(__ushort_as_half((unsigned short)(u[e / 2] >> e % 2 * 16)));
        out[e] = experts_round<T>(value);
      }
      uint4 *to = reinterpret_cast<uint4 *>(xs + r * pitch + c * (int)sizeof(T));
      to[0] = reinterpret_cast<uint4 *>(out)[0];
      if (sizeof(T) == 4) to[1] = reinterpret_cast<uint4 *>(out)[sizeof(T) / 4];
    }
  }
}

struct few_list {
  unsigned *words;  // [rows, per_row]
  unsigned *all;    // [per_row], of any row
  int *before;      // [per_row + 1]: experts in the words before
  int *slots;
};

// The neurons at places lo … hi − 1 of the list of all selected ones, with the rows that want each; −1 up to a multiple
// of 16.
__device__ void few_neurons(const few_list &list, int rows, int n, int size, int lo, int hi, int *neurons, unsigned *wanted) {
  const int per_row = (n + 31) / 32;
  const int first = lo / size, last = hi > lo ? (hi - 1) / size : first - 1;
  for (int e = threadIdx.x; e < n; e += blockDim.x) {
    const unsigned word = list.all[e / 32], bit = 1u << e % 32;
    const int rank = list.before[e / 32] + __popc(word & (bit - 1));
    if ((word & bit) && rank >= first && rank <= last) list.slots[rank - first] = e;
  }
  __syncthreads();
  for (int i = threadIdx.x; i < (hi - lo + 15) / 16 * 16; i += blockDim.x) {
    int neuron = -1;
    if (lo + i < hi) {
      const int e = list.slots[(lo + i) / size - first];
      neuron = e * size + (lo + i) % size;
      if (wanted != nullptr) {
        unsigned bits = 0;
        for (int r = 0; r < rows; r++) bits |= (list.words[r * per_row + e / 32] >> e % 32 & 1u) << r;
        wanted[i] = bits;
      }
    }
    neurons[i] = neuron;
  }
  __syncthreads();
}

template <int STORAGE, bool GATED, int THREADS> __device__ __forceinline__ void experts_few(const experts_few_args &a) {
  typedef typename experts_storage<STORAGE>::type T;
  constexpr int ELEMENTS = experts_storage<STORAGE>::ELEMENTS;
  constexpr bool IS_8_BIT = STORAGE == INT8;
  constexpr int ROUTER = IS_8_BIT ? (int)HALF : STORAGE;
  constexpr int ROUTER_ELEMENTS = 16 / sizeof(T);
  constexpr int WARPS = THREADS / 32, MATRICES = GATED ? 2 : 1;
  constexpr int Q = sizeof(T) == 4 ? 4 : 8, UNIT = 8 * Q;  // columns of down: a lane's, a warp's
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  const int block = blockIdx.x, blocks = gridDim.x;
  const int rows = a.rows, n = a.experts, size = a.expert_size, words = (n + 31) / 32;
  const int chunks = (a.d + ELEMENTS - 1) / ELEMENTS, steps = (chunks + 3) / 4;
  const int units = (a.d_out + UNIT - 1) / UNIT, padded = units * UNIT;
  const long long row_bytes = chunks * 16ll;
  const long long down_bytes = (a.d_out + ELEMENTS - 1) / ELEMENTS * 16ll;
  const long long neurons_in_all = (long long)n * size, hidden_pitch = (neurons_in_all + 15) / 16 * 16;
  unsigned long long base = 0;
  int barrier = 0;
  if (threadIdx.x == 0) base = experts_barrier_base(a.counter);

  // Shared memory, as few_shared on the host counts it.
  DYNAMIC_SHARED(char, shared);
  const int x_pitch = few_pitch(steps * 4 * ELEMENTS * (int)sizeof(T));
  const int h_pitch = (a.capacity * (int)sizeof(T) + 127) / 128 * 128 + (sizeof(T) == 2 ? 32 : 64);
  const int r_steps = (a.router_width + 4 * ROUTER_ELEMENTS - 1) / (4 * ROUTER_ELEMENTS), r_pitch = few_pitch(r_steps * 64);
  float *parts = reinterpret_cast<float *>(shared);
  char *xs = shared + WARPS * (rows > 8 ? 16 : 8) * UNIT * 4;
  char *hs = xs + rows * x_pitch;
  int *neurons = reinterpret_cast<int *>(hs + rows * h_pitch);
  unsigned *wanted = reinterpret_cast<unsigned *>(neurons + a.capacity);
  int *down_neurons = a.exchange ? neurons + 2 * a.capacity : neurons;
  few_list list;
  list.words = reinterpret_cast<unsigned *>(neurons + (a.exchange ? 3 : 2) * a.capacity);
  list.all = list.words + rows * words;
  list.before = reinterpret_cast<int *>(list.all + words);
  list.slots = list.before + words + 1;
  // A router's own: what it forecasts, over the room of the lists that come later.
  char *rs = hs;
  float *norms = parts;

  // ---- The selection, where it is given, and x: both on their way at once ----
  if (a.router_hidden == nullptr) few_read_selection(a.selection, rows, n, list.words);
  few_read_x<T, THREADS>(a, xs, x_pitch, steps * 4 * ELEMENTS);
  const int vectors = padded / 4, items = rows * vectors, per_block = (items + blocks - 1) / blocks;
  const int begin = block * per_block, end = min(begin + per_block, items);
  if (a.down_bias != nullptr && threadIdx.x < per_block) few_prefetch(a.down_bias + min((begin + (int)threadIdx.x) % vectors * 4, a.d_out - 1));

  // ---- The router's hidden layer: 8 neurons a tile, a tile a block, its sum over all warps ----
  if (a.stages & ROUTE) {
    __syncthreads();
    const int tiles = (a.router_width + 7) / 8;
    const int r_chunks = (a.d + ROUTER_ELEMENTS - 1) / ROUTER_ELEMENTS, all = (r_chunks + 3) / 4;
    for (int tile = block; tile < tiles; tile += blocks) {
      float c[1][4] = {};
      const int j = tile * 8 + g;
      const char *const w[1] = {static_cast<const char *>(a.router_hidden) + (long long)j * r_chunks * 16};
      few_dot<ROUTER, 1>(c, w, j < a.router_width, r_chunks, all * warp / WARPS, all * (warp + 1) / WARPS, xs, x_pitch, rows);
      float *own = parts + warp * 128;
      own[g * 8 + 2 * t] = c[0][0], own[g * 8 + 2 * t + 1] = c[0][1];
      if (rows > 8) own[(g + 8) * 8 + 2 * t] = c[0][2], own[(g + 8) * 8 + 2 * t + 1] = c[0][3];
      __syncthreads();
      for (int i = threadIdx.x; i < rows * 8; i += THREADS) {
        float sum = 0;
        for (int p = 0; p < WARPS; p++) sum += parts[p * 128 + i];
        if (tile * 8 + i % 8 < a.router_width) a.forecast[i / 8 * a.router_width + tile * 8 + i % 8] = fmaxf(sum, 0.0f);
      }
      __syncthreads();
    }
    if ((a.stages & (HIDDEN | DOWN)) == 0) return;
    experts_barrier(a.counter, base, ++barrier);
  }

  // ---- The selection, and the list of its neurons ----
  if (a.stages & (HIDDEN | DOWN | SUM)) {
    if (a.router_hidden != nullptr) {
      // Every block for itself: the norms from the router's hidden layer.
      for (int i = threadIdx.x; i < rows * r_steps * 4 * ROUTER_ELEMENTS; i += THREADS) {
        const int r = i / (r_steps * 4 * ROUTER_ELEMENTS), k = i % (r_steps * 4 * ROUTER_ELEMENTS);
        reinterpret_cast<T *>(rs + r * r_pitch)[k] = experts_round<T>(k < a.router_width ? __ldcg(a.forecast + r * a.router_width + k) : 0.0f);
      }
      __syncthreads();
      const int r_chunks = (a.router_width + ROUTER_ELEMENTS - 1) / ROUTER_ELEMENTS;
      for (int tile = warp; tile < (n + 7) / 8; tile += WARPS) {
        float c[1][4] = {};
        const int e = tile * 8 + g;
        const char *const w[1] = {static_cast<const char *>(a.router_output) + (long long)e * r_chunks * 16};
        few_dot<ROUTER, 1>(c, w, e < n, r_chunks, 0, r_steps, rs, r_pitch, rows);
#pragma unroll
        for (int i = 0; i < 4; i++) {
          const int r = g + i / 2 * 8, column = tile * 8 + 2 * t + i % 2;
          if (r < rows && column < n) norms[r * n + column] = fabsf(c[0][i]);
        }
      }
      __syncthreads();
      few_select(norms, rows, n, a.rule, a.value, list.words);
    }
    __syncthreads();
    if (warp == 0) {
      int count = 0;
      for (int first = 0; first < words; first += 32) {
        const int w = first + lane;
        unsigned any = 0;
        if (w < words)
          for (int r = 0; r < rows; r++) any |= list.words[r * words + w];
        const int sum = warp_sum_upto(__popc(any));
        if (w < words) list.all[w] = any, list.before[w] = count + sum - __popc(any);
        count += __shfl_sync(~0u, sum, 31);
      }
      if (lane == 0) list.before[words] = count;
    }
    __syncthreads();
  }
  const int selected = list.before[words] * size;
  const int run = (selected + blocks - 1) / blocks, lo = min(block * run, selected), hi = min(lo + run, selected);
  // A block's part of down: its own neurons and all columns, or a run of neurons and a group of columns.
  int down_lo = lo, down_hi = hi, unit0 = 0, unit1 = units, slot = block, slots = run > 0 ? (selected + run - 1) / run : 0;
  if (a.exchange) {
    const int down_run = ((selected + a.splits - 1) / a.splits + 15) / 16 * 16;
    slot = block / a.groups;
    slots = down_run > 0 ? (selected + down_run - 1) / down_run : 0;
    down_lo = min(slot * down_run, selected);
    down_hi = slot < a.splits ? min(down_lo + down_run, selected) : down_lo;
    unit0 = units * (block % a.groups) / a.groups, unit1 = units * (block % a.groups + 1) / a.groups;
  }
  if (a.stages & HIDDEN || !a.exchange) few_neurons(list, rows, n, size, lo, hi, neurons, wanted);
  if (a.exchange && a.stages & DOWN) few_neurons(list, rows, n, size, down_lo, down_hi, down_neurons, nullptr);

  // ---- The first tiles of down, on their way while the hidden activations are computed ----
  const char *down = static_cast<const char *>(a.down);
  const int tiles = (down_hi - down_lo + 15) / 16, wide = unit1 - unit0;
  const int subs = wide > 0 && wide < WARPS ? WARPS / wide : 1;
  const int sub = wide > 0 ? warp / wide % subs : 0;
  const bool has_down = a.stages & DOWN && wide > 0 && warp < wide * subs && tiles > 0;
  const int tile0 = tiles * sub / subs, tile1 = tiles * (sub + 1) / subs;
  constexpr int AHEAD = 2;
  uint4 next[AHEAD][4];
  auto load_tiles = [&](int unit, int tile) {
#pragma unroll
    for (int i = 0; i < AHEAD; i++)
      if (tile + i < tile1)
        few_load_down<STORAGE>(next[i], down, down_bytes, down_neurons + (tile + i) * 16 + 4 * t, (unit * UNIT + g * Q) * (16 / ELEMENTS));
  };
  if (has_down) load_tiles(unit0 + warp % wide, tile0);

  // ---- Hidden activations ----
  if (a.stages & HIDDEN) {
    const int own = (hi - lo + 7) / 8;
    for (int t0 = 0; t0 < own; t0 += WARPS) {
      const int many = min(WARPS, own - t0), cuts = min(WARPS / many, steps), items = rows * 8 * many;
      // What the sums are finished with, asked for early.
      auto finish_inputs = [&](int i, float &b, float &bg, float &s, float &sg, float &sd) {
        b = bg = 0, s = sg = sd = 1;
        const int at = t0 * 8 + i % (8 * many), j = lo + at < hi ? neurons[at] : -1;
        if (i >= items || j < 0) return;
        if (a.up_bias) b = a.up_bias[j];
        if (GATED && a.gate_bias) bg = a.gate_bias[j];
        if (IS_8_BIT) {
          s = a.scales[j], sd = a.scales[2 * neurons_in_all + j];
          if (GATED) sg = a.scales[neurons_in_all + j];
        }
      };
      float b, bg, s, sg, sd;
      finish_inputs(threadIdx.x, b, bg, s, sg, sd);
      if (warp < many * cuts) {
        const int at = (t0 + warp % many) * 8 + g, cut = warp / many;
        const bool valid = lo + at < hi;
        const long long offset = valid ? neurons[at] * row_bytes : 0;
        float c[MATRICES][4] = {};
        const char *w[MATRICES];
        w[0] = static_cast<const char *>(a.up) + offset;
        if (GATED) w[MATRICES - 1] = static_cast<const char *>(a.gate) + offset;
        few_dot<STORAGE, MATRICES>(c, w, valid, chunks, steps * cut / cuts, steps * (cut + 1) / cuts, xs, x_pitch, rows);
#pragma unroll
        for (int m = 0; m < MATRICES; m++) {
          float *to = parts + (warp * MATRICES + m) * 128;
          to[g * 8 + 2 * t] = c[m][0], to[g * 8 + 2 * t + 1] = c[m][1];
          to[(g + 8) * 8 + 2 * t] = c[m][2], to[(g + 8) * 8 + 2 * t + 1] = c[m][3];
        }
      }
      __syncthreads();
      for (int i = threadIdx.x; i < items; i += THREADS) {
        if (i != threadIdx.x) finish_inputs(i, b, bg, s, sg, sd);
        const int r = i / (8 * many), at = i % (8 * many), tile = at / 8;
        float u = 0, v = 0;
        for (int p = 0; p < cuts; p++) {
          u += parts[(p * many + tile) * MATRICES * 128 + r * 8 + at % 8];
          if (GATED) v += parts[((p * many + tile) * MATRICES + 1) * 128 + r * 8 + at % 8];
        }
        u = u * s + b;
        float h = GATED ? experts_activate(v * sg + bg, a.activation) * u : experts_activate(u, a.activation);
        const int place = t0 * 8 + at;
        const bool runs = lo + place < hi && wanted[place] >> r & 1;
        // 8-bit down rows: the row's greatest weight here, the steps of 1/127 of it at the end.
        if (IS_8_BIT) h *= sd * 127.0f;
        const T rounded = experts_round<T>(runs ? h : 0.0f);
        if (!a.exchange)
          reinterpret_cast<T *>(hs + r * h_pitch)[place] = rounded;
        else if (lo + place < hi)
          static_cast<T *>(a.hidden)[r * hidden_pitch + lo + place] = rounded;
      }
      // Tiles of down are 16 wide.
      if (!a.exchange && t0 + many == own && own % 2 == 1)
        for (int i = threadIdx.x; i < rows * 8; i += THREADS) reinterpret_cast<T *>(hs + i / 8 * h_pitch)[own * 8 + i % 8] = experts_round<T>(0.0f);
      __syncthreads();
    }
    if (a.exchange && a.stages & DOWN) experts_barrier(a.counter, base, ++barrier);
  }
  if (a.exchange && a.stages & DOWN) {
    constexpr int PER = 16 / sizeof(T);
    const int vectors = tiles * 16 / PER;
    for (int i = threadIdx.x; i < rows * vectors; i += THREADS) {
      const int r = i / vectors, at = i % vectors * PER;
      uint4 v = __ldcg(reinterpret_cast<const uint4 *>(static_cast<const T *>(a.hidden) + r * hidden_pitch + down_lo + at));
      T *values = reinterpret_cast<T *>(&v);
#pragma unroll
      for (int k = 0; k < PER; k++)
        if (down_lo + at + k >= down_hi) values[k] = experts_round<T>(0.0f);
      *reinterpret_cast<uint4 *>(hs + r * h_pitch + at * (int)sizeof(T)) = v;
    }
    __syncthreads();
  }

  // ---- Down ----
  if (a.stages & DOWN) {
    const bool has_upper = g < rows, has_lower = g + 8 < rows;
    float *partial = a.partials + (long long)slot * rows * padded;
    bool loaded = true;
    for (int v = warp; has_down && v < wide * subs; v += WARPS) {
      const int unit = unit0 + v % wide;
      float acc[Q][4] = {};
      for (int tile = tile0; tile < tile1; tile += AHEAD) {
        if (!loaded) load_tiles(unit, tile);
        loaded = false;
#pragma unroll
        for (int i = 0; i < AHEAD; i++) {
          if (tile + i >= tile1) break;
          const int at = ((tile + i) * 16 + 4 * t) * (int)sizeof(T);
          few_multiply_down<STORAGE, Q>(acc, next[i], hs + g * h_pitch + at, hs + (g + 8) * h_pitch + at, has_upper, has_lower);
        }
      }
      loaded = false;
      // Lane (g, t) has rows g and g + 8 of 2Q columns in a row.
#pragma unroll
      for (int half = 0; half < 2; half++) {
        const int r = g + half * 8;
        if (r >= rows) continue;
        float *to = subs > 1 ? parts + (warp * (rows > 8 ? 16 : 8) + r) * UNIT + 2 * t * Q : partial + (long long)r * padded + unit * UNIT + 2 * t * Q;
#pragma unroll
        for (int q = 0; q < 2 * Q; q += 4) {
          const int side = half * 2 + q / Q, k = q % Q;
          const float4 four = make_float4(acc[k][side], acc[k + 1][side], acc[k + 2][side], acc[k + 3][side]);
          if (subs > 1)
            *reinterpret_cast<float4 *>(to + q) = four;
          else
            few_store(reinterpret_cast<float4 *>(to + q), four);
        }
      }
    }
    if (subs > 1 && tiles > 0 && wide > 0) {
      __syncthreads();
      for (int i = threadIdx.x; i < rows * wide * UNIT / 4; i += THREADS) {
        const int r = i / (wide * UNIT / 4), column = i % (wide * UNIT / 4) * 4;
        float4 sum = make_float4(0, 0, 0, 0);
        for (int p = 0; p < subs; p++) {
          const float4 one = *reinterpret_cast<const float4 *>(parts + ((p * wide + column / UNIT) * (rows > 8 ? 16 : 8) + r) * UNIT + column % UNIT);
          sum.x += one.x, sum.y += one.y, sum.z += one.z, sum.w += one.w;
        }
        few_store(reinterpret_cast<float4 *>(partial + (long long)r * padded + unit0 * UNIT + column), sum);
      }
    }
    if ((a.stages & (SUM | FLAGGED)) == SUM) experts_barrier(a.counter, base, ++barrier);
  }

  // ---- The sum over blocks ----
  if (a.stages & SUM) {
    const int across = per_block > 2 * WARPS ? 4 : 2;  // items side by side in a warp
    const float unit_scale = STORAGE == INT8 ? 1.0f / 127.0f : 1.0f;
    for (int first = begin + warp * across; first < end; first += WARPS * across) {
      const int item = first + lane % across;
      const bool inside = item < end;
      float4 *from = reinterpret_cast<float4 *>(a.partials) + (inside ? item : begin);
      float4 sum = make_float4(0, 0, 0, 0);
      constexpr int AT_ONCE = 8;
      const int step = 32 / across;
      for (int p0 = lane / across; p0 < slots; p0 += step * AT_ONCE) {
        float4 v[AT_ONCE];
#pragma unroll
        for (int i = 0; i < AT_ONCE; i++) {
          const int p = p0 + i * step;
          v[i] = inside && p < slots ? few_load(from + (long long)p * items) : make_float4(0, 0, 0, 0);
        }
#pragma unroll
        for (int i = 0; i < AT_ONCE; i++) {
          const int p = p0 + i * step;
          if (a.stages & FLAGGED && inside && p < slots) {
            while (few_is_empty(v[i])) v[i] = few_load(from + (long long)p * items);
            const float empty = __uint_as_float(0xffffffffu);
            few_store(from + (long long)p * items, make_float4(empty, empty, empty, empty));
          }
          sum.x += v[i].x, sum.y += v[i].y, sum.z += v[i].z, sum.w += v[i].w;
        }
      }
      for (int offset = 16; offset >= across; offset /= 2) {
        sum.x += __shfl_xor_sync(~0u, sum.x, offset), sum.y += __shfl_xor_sync(~0u, sum.y, offset);
        sum.z += __shfl_xor_sync(~0u, sum.z, offset), sum.w += __shfl_xor_sync(~0u, sum.w, offset);
      }
      if (lane >= across || !inside) continue;
      const int r = item / vectors, column = item % vectors * 4;
      const float four[4] = {sum.x, sum.y, sum.z, sum.w};
#pragma unroll
      for (int i = 0; i < 4; i++)
        if (column + i < a.d_out)
          experts_write(a.out, (long long)r * a.d_out + column + i, a.out_type, four[i] * unit_scale + (a.down_bias ? a.down_bias[column + i] : 0.0f));
    }
  }
}

#define EXPERTS_FEW(name, STORAGE)                                                                                  \
  KERNEL __launch_bounds__(512, 1) experts_few_plain_##name(const experts_few_args a) { experts_few<STORAGE, false, 512>(a); } \
  KERNEL __launch_bounds__(512, 1) experts_few_gated_##name(const experts_few_args a) { experts_few<STORAGE, true, 512>(a); }

EXPERTS_FEW(f16, HALF)
EXPERTS_FEW(bf16, BFLOAT16)
EXPERTS_FEW(tf32, TF32)
EXPERTS_FEW(f32, FLOAT32)
EXPERTS_FEW(int8, INT8)
