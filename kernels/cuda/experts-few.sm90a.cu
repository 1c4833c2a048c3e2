// The expert op for up to 3 rows on Hopper: a chain of latencies for a small layer, of reads for a large one.
//
// The neurons of all selected experts (of the union over the rows), in order, are cut into equal runs, one a block,
// whatever the experts' size. Every warp works out by itself which neurons are its own, asks for their rows of up (and
// gate) and down in shared memory, and has their activations; the block then adds them, times their rows of down, to its
// share of the output. Shares go through memory: each block sums a few columns over all blocks, in a fixed order, and
// knows by their value which have come.
//
// All blocks have to be resident at once. The stages run in one launch, or as a launch each where they cannot.
#include "experts.cuh"
#include "hopper.cuh"

enum { ROUTE = 1, EXPERTS = 2, SUM = 4 };

// Laid out as the host packs it: pointers, then 32-bit values.
struct experts_few_args {
  const void *x;                   // [rows, d]
  const unsigned char *selection;  // bool [rows, experts]; unused with a router
  const void *up, *gate, *down;
  const float *up_bias, *gate_bias, *down_bias;  // may be null
  const float *scales;                           // 8-bit storages: of up, gate and down, `hidden` each
  const void *router_hidden, *router_output;     // [width, d], [experts, width] in the type of x's copy; may be null
  void *out;                                     // [rows, d_out]
  float *partials;                               // [blocks, rows, padded d_out], zeros before and after a launch
  float *forecast;                               // router: [rows, width], the same
  int rows, d, d_out, experts, expert_size, activation;
  int x_type, out_type;  // 0 float32, 1 bf16, 2 fp16
  int router_width, rule;
  float value;  // of the rule
  int stages;
  int owners;  // warps that have a neuron at a time
  int share;   // 32-byte pieces of the output's sums that a block adds up
#ifdef FEW_STAMPS
  long long *stamps;
#endif
};

#ifdef FEW_STAMPS
#define STAMP(i) \
  if (threadIdx.x == 0) a.stamps[blockIdx.x * 16 + i] = clock64()
#define STAMP_TIME(i)                                          \
  if (threadIdx.x == 0) {                                      \
    long long now;                                             \
    asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(now));    \
    a.stamps[blockIdx.x * 16 + i] = now;                       \
  }
#else
#define STAMP(i)
#define STAMP_TIME(i)
#endif

// ---- What hopper.cuh lacks -------------------------------------------------------------------------------------------

#ifdef D2DMOE_EMULATED
template <int N> inline void few_load(float (&v)[N], const float *p) {
  for (int i = 0; i < N; i++) v[i] = p[i];
}
template <int N> inline void few_store(float *p, const float (&v)[N]) {
  for (int i = 0; i < N; i++) p[i] = v[i];
}
#else
template <int N> __device__ __forceinline__ void few_load(float (&v)[N], const float *p) {
  if constexpr (N == 1)
    asm volatile("ld.relaxed.gpu.global.f32 %0, [%1];" : "=f"(v[0]) : "l"(p) : "memory");
  else if constexpr (N == 2)
    asm volatile("ld.relaxed.gpu.global.v2.f32 {%0, %1}, [%2];" : "=f"(v[0]), "=f"(v[1]) : "l"(p) : "memory");
  else
    asm volatile("ld.relaxed.gpu.global.v4.f32 {%0, %1, %2, %3}, [%4];" : "=f"(v[0]), "=f"(v[1]), "=f"(v[2]), "=f"(v[3]) : "l"(p) : "memory");
}
template <int N> __device__ __forceinline__ void few_store(float *p, const float (&v)[N]) {
  if constexpr (N == 1)
    asm volatile("st.relaxed.gpu.global.f32 [%0], %1;" ::"l"(p), "f"(v[0]) : "memory");
  else if constexpr (N == 2)
    asm volatile("st.relaxed.gpu.global.v2.f32 [%0], {%1, %2};" ::"l"(p), "f"(v[0]), "f"(v[1]) : "memory");
  else
    asm volatile("st.relaxed.gpu.global.v4.f32 [%0], {%1, %2, %3, %4};" ::"l"(p), "f"(v[0]), "f"(v[1]), "f"(v[2]), "f"(v[3]) : "memory");
}
#endif

// Numbers that other blocks wait for lie in memory with all bits inverted, and zero is what has not come yet: no
// arithmetic gives the NaN that it stands for, the hardware's being 0x7fffffff.
template <int N> __device__ __forceinline__ void few_publish(float *p, const float (&v)[N]) {
  float inverted[N];
#pragma unroll
  for (int i = 0; i < N; i++) inverted[i] = __uint_as_float(~__float_as_uint(v[i]));
  few_store<N>(p, inverted);
}
template <int N> __device__ __forceinline__ bool few_is_empty(const float (&v)[N]) {
  bool empty = false;
#pragma unroll
  for (int i = 0; i < N; i++) empty |= __float_as_uint(v[i]) == 0;
  return empty;
}
template <int N> __device__ __forceinline__ void few_invert(float (&v)[N]) {
#pragma unroll
  for (int i = 0; i < N; i++) v[i] = __uint_as_float(~__float_as_uint(v[i]));
}

// a / b from 1 / b, for less than 2^21.
__device__ __forceinline__ int few_divide(int a, float reciprocal) { return (int)(((float)a + 0.5f) * reciprocal); }

// ---- The selection ---------------------------------------------------------------------------------------------------

// Bit 0 of 16 bytes, side by side.
__device__ __forceinline__ unsigned few_bits(const uint4 &v) {
  const unsigned gather = 0x10204080u;
  return (v.x * gather >> 28) | (v.y * gather >> 28) << 4 | (v.z * gather >> 28) << 8 | (v.w * gather >> 28) << 12;
}

// The bits of experts first + 32 · lane … of a row of one byte an expert, 0 or 1.
__device__ __forceinline__ unsigned few_word(const unsigned char *row, int n, int first) {
  const int lane = threadIdx.x % 32, e = first + lane * 32;
  if (n % 16 == 0 && reinterpret_cast<size_t>(row) % 16 == 0) {
    const uint4 zero = make_uint4(0, 0, 0, 0);
    const uint4 low = e < n ? *reinterpret_cast<const uint4 *>(row + e) : zero, high = e + 16 < n ? *reinterpret_cast<const uint4 *>(row + e + 16) : zero;
    return few_bits(low) | few_bits(high) << 16;
  }
  unsigned word = 0;
  const int words = min((n - first + 31) / 32, 32);
#pragma unroll 1
  for (int w = 0; w < words; w++) {
    const int own = first + w * 32 + lane;
    const unsigned ballot = __ballot_sync(~0u, own < n && row[own] != 0);
    if (lane == w) word = ballot;
  }
  return word;
}

// What a warp knows of 1,024 experts: a word a lane.
template <int ROWS> struct few_list {
  unsigned rows[ROWS], any;
  int first;    // expert
  int base;     // selected ones before the first
  int through;  // selected ones before it and in the words up to this lane's

  // `word` gives a row's.
  template <typename F> __device__ __forceinline__ void read(int count, F word) {
    any = 0;
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
      rows[r] = r < count ? word(r) : 0;
      any |= rows[r];
    }
  }
  __device__ __forceinline__ void scan(int n) {
    const int sum = __popc(any);
    through = base + (n > 32 ? warp_sum_upto(sum) : __shfl_sync(~0u, sum, 0));
  }
  __device__ __forceinline__ int end() const { return __shfl_sync(~0u, through, 31); }
  // The expert of that rank among the selected ones, and the rows that want it.
  __device__ __forceinline__ int find(int rank, unsigned &wanted) const {
    const int lane = threadIdx.x % 32;
    const int at = __ffs(__ballot_sync(~0u, through > rank)) - 1;
    const unsigned word = __shfl_sync(~0u, any, at);
    const int k = rank - (__shfl_sync(~0u, through, at) - __popc(word));
    const int bit = __ffs(__ballot_sync(~0u, (word >> lane & 1) != 0 && __popc(word & ((1u << lane) - 1)) == k)) - 1;
    wanted = 1;
    if (ROWS > 1) {
      wanted = 0;
#pragma unroll
      for (int r = 0; r < ROWS; r++) wanted |= (__shfl_sync(~0u, rows[r], at) >> bit & 1) << r;
    }
    return first + at * 32 + bit;
  }
};

// ---- x ---------------------------------------------------------------------------------------------------------------

// A thread's 8 elements of x: asked for early, converted when they are wanted.
struct few_x {
  uint4 v, w;
  __device__ __forceinline__ void load(const experts_few_args &a, bool whole, int r, int c) {
    v = w = make_uint4(0, 0, 0, 0);
    if (!whole || r >= a.rows || c >= a.d) return;
    const char *at = static_cast<const char *>(a.x) + ((long long)r * a.d + c) * (a.x_type == 0 ? 4 : 2);
    v = *reinterpret_cast<const uint4 *>(at);
    if (a.x_type == 0) w = *reinterpret_cast<const uint4 *>(at + 16);
  }
  // Rounded to the type that x is kept in; zeros behind its end.
  template <typename T> __device__ __forceinline__ void get(const experts_few_args &a, bool whole, int r, int c, T (&out)[8]) const {
    if (sizeof(T) == 2 && whole && a.x_type == (std::is_same<T, __half>::value ? 2 : 1)) {
      *reinterpret_cast<uint4 *>(out) = v;
      return;
    }
    const unsigned u[8] = {v.x, v.y, v.z, v.w, w.x, w.y, w.z, w.w};
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
  }
  template <typename T> __device__ __forceinline__ void store(const experts_few_args &a, bool whole, int r, int c, char *to) const {
    __align__(16) T out[8];
    get<T>(a, whole, r, c, out);
    uint4 *at = reinterpret_cast<uint4 *>(to + c * (int)sizeof(T));
    at[0] = reinterpret_cast<uint4 *>(out)[0];
    if (sizeof(T) == 4) at[1] = reinterpret_cast<uint4 *>(out)[sizeof(T) / 4];
  }
};

// ---- Products --------------------------------------------------------------------------------------------------------
//
// A warp reads 512 contiguous bytes of a weight row, which make up 8 columns of the matrix instruction: one for each
// four lanes. The same pieces of x are 8 of its rows, so that the sums lie on the diagonal; a second row of x is the
// other 8.

// c[p] + d[p] += the products with rows 2p and 2p + 1 of x: two chains, since an instruction waits for the one before it
// on the same sums. `xs` is this lane's piece of row 0.
template <int STORAGE, int PAIRS> __device__ __forceinline__ void few_multiply(float (&c)[PAIRS][4], float (&d)[PAIRS][4], uint4 w, const char *xs, int pitch, int rows) {
  const uint4 zero = make_uint4(0, 0, 0, 0);
#pragma unroll
  for (int p = 0; p < PAIRS; p++) {
    if (2 * p >= rows) break;
    const char *upper = xs + 2 * p * pitch, *lower = upper + pitch;
    const bool two = PAIRS > 1 && 2 * p + 1 < rows;
    if (STORAGE == INT8) {
      const unsigned words[4] = {w.x, w.y, w.z, w.w};
#pragma unroll
      for (int half = 0; half < 2; half++) {
        const uint2 q = experts_widen(words[2 * half]), r = experts_widen(words[2 * half + 1]);
        experts_multiply<STORAGE>(half ? d[p] : c[p], *reinterpret_cast<const uint4 *>(upper + half * 16), two ? *reinterpret_cast<const uint4 *>(lower + half * 16) : zero,
                                  make_uint4(q.x, q.y, r.x, r.y));
      }
    } else {
      const uint4 u = *reinterpret_cast<const uint4 *>(upper), l = two ? *reinterpret_cast<const uint4 *>(lower) : zero;
      experts_mma<STORAGE>(c[p], u.x, l.x, u.y, l.y, w.x, w.y);
      experts_mma<STORAGE>(d[p], u.z, l.z, u.w, l.w, w.z, w.w);
    }
  }
}

// The sums of rows 0 … of x over the warp.
template <int PAIRS> __device__ __forceinline__ void few_diagonal(float (&sums)[2 * PAIRS], const float (&c)[PAIRS][4], const float (&d)[PAIRS][4]) {
  const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
#pragma unroll
  for (int p = 0; p < PAIRS; p++)
#pragma unroll
    for (int half = 0; half < 2; half++) sums[2 * p + half] = PAIRS == 1 && half == 1 ? 0 : warp_sum(t == g / 2 ? (g % 2 ? c[p][2 * half + 1] + d[p][2 * half + 1] : c[p][2 * half] + d[p][2 * half]) : 0.0f);
}

// Four bytes of a weight row.
template <int STORAGE, int N> __device__ __forceinline__ void few_widen(float (&v)[N], unsigned w) {
  if constexpr (N == 1) {
    v[0] = __uint_as_float(w);
  } else if constexpr (STORAGE == BFLOAT16) {
    v[0] = __uint_as_float(w << 16), v[1] = __uint_as_float(w & 0xffff0000u);
  } else if constexpr (N == 2) {
    v[0] = __half2float(__ushort_as_half((unsigned short)w)), v[1] = __half2float(__ushort_as_half((unsigned short)(w >> 16)));
  } else {
    const uint2 h = experts_widen(w);
    v[0] = __half2float(__ushort_as_half((unsigned short)h.x)), v[1] = __half2float(__ushort_as_half((unsigned short)(h.x >> 16)));
    v[2] = __half2float(__ushort_as_half((unsigned short)h.y)), v[3] = __half2float(__ushort_as_half((unsigned short)(h.y >> 16)));
  }
}

// ---- The router's choice ---------------------------------------------------------------------------------------------

// Norms of at least 0 in shared memory, rows `pitch` apart (a multiple of 32) with negative numbers behind their end, to a
// bit an expert.
template <int THREADS> __device__ __forceinline__ void few_select(const float *norms, int pitch, int rows, int n, int rule, float value, unsigned *words) {
  const int per_row = (n + 31) / 32, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  if (rule != 1) {
    for (int r = warp; r < rows; r += THREADS / 32) experts_select_row(norms + r * pitch, n, rule, value, words + r * per_row);
    return;
  }
  // An expert's place is how many come before it: greater ones, and equal ones of lower number, which are greater than the
  // number below it. Four lanes count, every fourth eight of the others each, and two of its own eight.
  const int g = lane / 4, t = lane % 4;
  for (int r = 0; r < rows; r++) {
    const float *row = norms + r * pitch;
    for (int e0 = warp * 8; e0 < pitch; e0 += THREADS / 4) {
      const float own = row[e0 + g], below = own > 0 ? __uint_as_float(__float_as_uint(own) - 1) : -0.5f;
      float above = 0;
#pragma unroll 1
      for (int j = t * 8; j < pitch; j += 32) {
        const float bar = j == e0 ? INFINITY : j < e0 ? below : own;
        const float4 v = *reinterpret_cast<const float4 *>(row + j), w = *reinterpret_cast<const float4 *>(row + j + 4);
        const float all[8] = {v.x, v.y, v.z, v.w, w.x, w.y, w.z, w.w};
#pragma unroll
        for (int i = 0; i < 8; i++)
          if (all[i] > bar) above += 1;
      }
      const float2 near = *reinterpret_cast<const float2 *>(row + e0 + 2 * t);
      if (near.x > (2 * t < g ? below : own)) above += 1;
      if (near.y > (2 * t + 1 < g ? below : own)) above += 1;
      above += __shfl_xor_sync(~0u, above, 1);
      above += __shfl_xor_sync(~0u, above, 2);
      // A warp's eight experts: every fourth bit.
      unsigned bits = __ballot_sync(~0u, t == 0 && e0 + g < n && above < value);
      bits = (bits | bits >> 3) & 0x03030303u;
      bits = (bits | bits >> 6) & 0x000f000fu;
      if (lane == 0) reinterpret_cast<unsigned char *>(words + r * per_row)[e0 / 8] = (unsigned char)(bits | bits >> 12);
    }
  }
}

// ---- The kernel ------------------------------------------------------------------------------------------------------

template <int STORAGE, bool GATED, int ROWS> __device__ __forceinline__ void experts_few(const experts_few_args &a) {
  typedef typename experts_storage<STORAGE>::type T;
  constexpr int THREADS = 512, WARPS = THREADS / 32;
  constexpr int ELEMENTS = experts_storage<STORAGE>::ELEMENTS;
  constexpr bool IS_8_BIT = STORAGE == INT8;
  constexpr int ROUTER = IS_8_BIT ? (int)HALF : STORAGE;
  constexpr int ROUTER_ELEMENTS = 16 / sizeof(T);
  constexpr int MATRICES = GATED ? 2 : 1, PAIRS = (ROWS + 1) / 2;
  constexpr int N = ELEMENTS / 4;  // columns of 4 bytes of down
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int rows = ROWS == 1 ? 1 : a.rows, n = a.experts, size = a.expert_size, owners = a.owners;
  const int pieces = (a.d + ELEMENTS - 1) / ELEMENTS;
  const int row_bytes = pieces * 16, down_bytes = (a.d_out + ELEMENTS - 1) / ELEMENTS * 16, units = down_bytes / 4;
  const int vectors = units * N / 4, x_pieces = (pieces * ELEMENTS + 7) / 8, x_pitch = x_pieces * 8 * (int)sizeof(T);
  const bool routes = a.router_hidden != nullptr;
  STAMP(0);
  STAMP_TIME(14);

  // Shared memory, as few-hopper-plan.ts counts it. What a router needs lies where sums come later.
  DYNAMIC_SHARED(char, shared);
  char *downs = shared + owners * MATRICES * row_bytes;           // [2][owners]
  char *xs = downs + 2 * owners * down_bytes;                     // [rows]
  float *hs = reinterpret_cast<float *>(xs + rows * x_pitch);     // [2][WARPS][4]
  float *parts = hs + 2 * WARPS * 4;                              // [WARPS][8]
  const unsigned barriers = hopper_address(parts + WARPS * 8);    // of up, then of down: [3][owners], room for [3][WARPS]
  float *sums = parts + WARPS * 8 + 3 * WARPS * 2;                // [rows][units * N]
  const int r_pieces = (a.router_width + ROUTER_ELEMENTS - 1) / ROUTER_ELEMENTS, r_pitch = (r_pieces + 3) / 4 * 64;
  const int norms_pitch = (n + 31) / 32 * 32;
  char *predicted = reinterpret_cast<char *>(sums);                                      // [rows][r_pitch]
  float *norms = reinterpret_cast<float *>(predicted + rows * r_pitch);                  // [rows][norms_pitch]
  unsigned *chosen = reinterpret_cast<unsigned *>(norms + rows * norms_pitch);           // [rows][words]

  hopper_launch_next();
  // ---- What depends on no launch before: all that can be worked out of the arguments, since what comes after the wait is a
  // chain; and of the router's hidden layer a neuron a block ----
  const float per_size = 1.0f / (float)size, per_blocks = 1.0f / (float)gridDim.x;
  if (a.stages & EXPERTS && warp < owners && lane == 0) {
    for (int i = 0; i < 3; i++) hopper_init(barriers + (i * owners + warp) * 8, 1);
    hopper_init_done();
  }
  const int h_pieces = (a.d + ROUTER_ELEMENTS - 1) / ROUTER_ELEMENTS;
  uint4 first_piece = make_uint4(0, 0, 0, 0);
  if (routes) {
    if (a.stages & ROUTE && (int)blockIdx.x < a.router_width && (int)threadIdx.x < h_pieces)
      first_piece = experts_weights16(static_cast<const char *>(a.router_hidden) + ((long long)blockIdx.x * h_pieces + threadIdx.x) * 16);
    hopper_prefetch(a.router_output, (long long)n * r_pieces * 16);
  } else {
    hopper_prefetch(a.selection, (long long)rows * n);
  }
  hopper_prefetch(a.x, (long long)rows * a.d * (a.x_type == 0 ? 4 : 2));
  if (a.up_bias != nullptr) hopper_prefetch(a.up_bias, (long long)n * size * 4);
  if (a.down_bias != nullptr) hopper_prefetch(a.down_bias, a.d_out * 4);
  // Of the 32 bytes of the output's sums that some warps add up, a lane has one half of every 16th block's share, or of
  // fewer where there are warps to help.
  const int helpers = a.share <= 4 ? 4 : a.share <= 8 ? 2 : 1, helper = warp % helpers;
  const int all = rows * vectors, begin = blockIdx.x * a.share, end = min(begin + a.share, (all + 1) / 2);
  auto row_of = [&](int piece, int &column) {
    int vector = 2 * piece + lane % 2, r = 0;
    if (ROWS > 1)
      while (vector >= vectors && r < rows) vector -= vectors, r++;
    column = vector * 4 + lane / 2;
    return vector < vectors ? r : rows;
  };
  auto bias_at = [&](int piece) {
    int column;
    return lane < 8 && row_of(piece, column) < rows && column < a.d_out && a.down_bias != nullptr ? a.down_bias + column : nullptr;
  };
  const int first_sum = begin + warp / helpers;
  const float *bias_from = a.stages & SUM && first_sum < end ? bias_at(first_sum) : nullptr;
  const bool whole = a.d % 8 == 0 && reinterpret_cast<size_t>(a.x) % 16 == 0;
  int x_row = 0, x_column = threadIdx.x;
  if (ROWS > 1)
    while (x_column >= x_pieces && x_row < rows) x_column -= x_pieces, x_row++;
  hopper_wait_launch();

  // ---- The selection, where it is given, and x: both on their way at once ----
  few_list<ROWS> list;
  list.first = list.base = 0;
  auto read_selection = [&] { list.read(rows, [&](int r) { return few_word(a.selection + (long long)r * n, n, list.first); }); };
  if (!routes && a.stages & EXPERTS) read_selection();
  few_x x;
  x.load(a, whole, x_row, x_column * 8);
  auto finish_x = [&] {
    for (; x_row < rows && x_column < x_pieces;) {
      x.template store<T>(a, whole, x_row, x_column * 8, xs + x_row * x_pitch);
      x_column += THREADS;
      if (ROWS > 1)
        while (x_column >= x_pieces && x_row < rows) x_column -= x_pieces, x_row++;
      x.load(a, whole, x_row, x_column * 8);
    }
  };
  auto read_bias = [](const float *from) { return from != nullptr ? *from : 0.0f; };
  const float first_bias = read_bias(bias_from);
  if (routes) {
    // A neuron's activation, from the warps' sums.
    auto publish = [&](int j) {
      __syncthreads();
      if ((int)threadIdx.x < rows) {
        float v[1] = {0};
#pragma unroll
        for (int p = 0; p < WARPS; p++) v[0] += parts[p * 4 + threadIdx.x];
        v[0] = fmaxf(v[0], 0.0f);
        few_publish<1>(a.forecast + threadIdx.x * a.router_width + j, v);
      }
    };
    int first_neuron = blockIdx.x;
    // Where a thread has a piece of x as it has one of the block's first neuron, nothing goes through shared memory: all
    // blocks wait for this sum.
    if (ROWS == 1 && sizeof(T) == 2 && x_pieces <= THREADS && a.stages & ROUTE && first_neuron < a.router_width) {
      __align__(16) T own[8], weights[8];
      x.template get<T>(a, whole, 0, x_column * 8, own);
      *reinterpret_cast<uint4 *>(weights) = first_piece;
      float sum = 0;
#pragma unroll
      for (int e = 0; e < 8; e++) sum += (float)own[e] * (float)weights[e];
      sum = warp_sum(sum);
      if (lane == 0) parts[warp * 4] = sum;
      publish(first_neuron);
      first_neuron += gridDim.x;
    }
    if (a.stages & (ROUTE | EXPERTS)) finish_x();
    __syncthreads();
    STAMP(1);
    if (a.stages & ROUTE) {
      for (int j = first_neuron; j < a.router_width; j += gridDim.x) {
        float c[PAIRS][4] = {}, d[PAIRS][4] = {};
        for (int i = threadIdx.x; i - lane < h_pieces; i += THREADS) {
          uint4 w = first_piece;
          if (j != (int)blockIdx.x || i != (int)threadIdx.x)
            w = i < h_pieces ? experts_weights16(static_cast<const char *>(a.router_hidden) + ((long long)j * h_pieces + i) * 16) : make_uint4(0, 0, 0, 0);
          few_multiply<ROUTER, PAIRS>(c, d, w, xs + (i < h_pieces ? i * 16 : 0), x_pitch, rows);
        }
        float sum[2 * PAIRS];
        few_diagonal<PAIRS>(sum, c, d);
        if (lane == 0)
#pragma unroll
          for (int r = 0; r < ROWS; r++) parts[warp * 4 + r] = sum[r];
        publish(j);
        __syncthreads();
      }
    }
    STAMP(2);
    if ((a.stages & (EXPERTS | SUM)) == 0) return;
    // ---- Every block for itself: the norms from the router's hidden layer, and the choice ----
    if (a.stages & EXPERTS) {
      constexpr int EARLY = 4;
      const int g = lane / 4, t = lane % 4;
      auto output_piece = [&](int e, int piece) {
        return e < n && piece < r_pieces ? *reinterpret_cast<const uint4 *>(static_cast<const char *>(a.router_output) + ((long long)e * r_pieces + piece) * 16) : make_uint4(0, 0, 0, 0);
      };
      uint4 early[EARLY];
#pragma unroll
      for (int i = 0; i < EARLY; i++) early[i] = output_piece(warp * 8 + g, i * 4 + t);
      for (int r = 0; r < rows; r++)
        for (int k = threadIdx.x; k < r_pitch / (int)sizeof(T); k += THREADS) {
          float v[1] = {0};
          if (k < a.router_width) {
            const float *from = a.forecast + r * a.router_width + k;
            do few_load<1>(v, from);
            while (few_is_empty<1>(v));
            few_invert<1>(v);
          }
          reinterpret_cast<T *>(predicted + r * r_pitch)[k] = experts_round<T>(v[0]);
        }
      __syncthreads();
      STAMP(3);
      // Eight experts a warp; rows behind the last repeat it.
      const char *own_predicted = predicted + (ROWS == 1 ? 0 : min(g, rows - 1)) * r_pitch + t * 16;
      for (int e0 = warp * 8; e0 < norms_pitch; e0 += WARPS * 8) {
        float c[2][4] = {};
        for (int p0 = 0; p0 < r_pieces; p0 += 4 * EARLY) {
          if (e0 != warp * 8 || p0 > 0)
#pragma unroll
            for (int i = 0; i < EARLY; i++) early[i] = output_piece(e0 + g, p0 + i * 4 + t);
#pragma unroll
          for (int i = 0; i < EARLY; i++) {
            if (p0 + i * 4 >= r_pieces) break;
            experts_multiply<ROUTER>(c[i % 2], *reinterpret_cast<const uint4 *>(own_predicted + (p0 / 4 + i) * 64), make_uint4(0, 0, 0, 0), early[i]);
          }
        }
        // Of the greatest, what is no number comes first: else the others would not count it.
        auto norm = [&](int e, float x) { return e >= n ? -1.0f : a.rule == 1 ? fminf(fabsf(x), INFINITY) : fabsf(x); };
        const int e = e0 + 2 * t;
        if (g < rows) *reinterpret_cast<float2 *>(norms + g * norms_pitch + e) = make_float2(norm(e, c[0][0] + c[1][0]), norm(e + 1, c[0][1] + c[1][1]));
      }
      __syncthreads();
      STAMP(13);
      few_select<THREADS>(norms, norms_pitch, rows, n, a.rule, a.value, chosen);
      __syncthreads();
      STAMP(4);
      // A router has no more experts than the list.
      const int words = (n + 31) / 32;
      list.read(rows, [&](int r) { return lane < words ? chosen[r * words + lane] : 0u; });
    }
  }

  if (a.stages & EXPERTS) {
    // ---- How many neurons are this block's ----
    list.scan(n);
    int experts = list.end();
    if (n > 1024) {
      for (list.first = 1024; list.first < n; list.first += 1024) {
        list.base = experts;
        read_selection(), list.scan(n);
        experts = list.end();
      }
      list.first = list.base = 0;
      read_selection(), list.scan(n);
    }
    const int selected = experts * size, run = few_divide(selected + (int)gridDim.x - 1, per_blocks);
    const int lo = min((int)blockIdx.x * run, selected), count = min(run, selected - lo);
    STAMP(5);

    // ---- A warp's neuron of a turn ----
    struct neuron {
      long long at;
      unsigned wanted;
      float bias, gate_bias, scale, gate_scale, down_scale;
    };
    const long long hidden = (long long)n * size;
    auto find = [&](int place) {
      neuron m;
      const int rank = few_divide(lo + place, per_size);
      if (n > 1024)
        while (rank >= list.end()) list.base = list.end(), list.first += 1024, read_selection(), list.scan(n);
      m.at = (long long)list.find(rank, m.wanted) * size + (lo + place - rank * size);
      return m;
    };
    auto finish = [&](neuron &m) {
      m.bias = a.up_bias != nullptr ? a.up_bias[m.at] : 0.0f;
      m.gate_bias = GATED && a.gate_bias != nullptr ? a.gate_bias[m.at] : 0.0f;
      m.scale = m.gate_scale = m.down_scale = 1;
      if (IS_8_BIT) {
        m.scale = a.scales[m.at], m.down_scale = a.scales[2 * hidden + m.at];
        if (GATED) m.gate_scale = a.scales[hidden + m.at];
      }
    };
    auto ask_up = [&](const neuron &m) {
      if (lane != 0) return;
      const unsigned to = hopper_address(shared) + warp * MATRICES * row_bytes, barrier = barriers + warp * 8;
      hopper_expect(barrier, MATRICES * row_bytes);
      hopper_copy(to, static_cast<const char *>(a.up) + m.at * row_bytes, row_bytes, barrier);
      if (GATED) hopper_copy(to + row_bytes, static_cast<const char *>(a.gate) + m.at * row_bytes, row_bytes, barrier);
    };
    auto ask_down = [&](const neuron &m, int half) {
      if (lane != 0) return;
      const int slot = half * owners + warp;
      const unsigned barrier = barriers + (owners + slot) * 8;
      hopper_expect(barrier, down_bytes);
      hopper_copy(hopper_address(downs) + slot * down_bytes, static_cast<const char *>(a.down) + m.at * down_bytes, down_bytes, barrier);
    };
    neuron now = {}, next = {};
    const int mine = warp < owners ? warp : 1 << 28;
    if (mine < count) now = find(mine), finish(now), ask_up(now), ask_down(now, 0);
    if (mine + owners < count) next = find(mine + owners), finish(next), ask_down(next, 1);
    STAMP(6);
    if (!routes) finish_x();
    __syncthreads();
    STAMP(7);

    // ---- The products, a neuron a warp at a time ----
    for (int turn = 0, t0 = 0; turn == 0 || t0 < count; turn++, t0 += owners) {
      const int half = turn % 2;
      if (mine < count - t0) {
        const char *w = shared + warp * MATRICES * row_bytes + lane * 16, *x = xs + lane * (ELEMENTS * (int)sizeof(T));
        float c[MATRICES][PAIRS][4] = {}, d[MATRICES][PAIRS][4] = {};
        hopper_wait(barriers + warp * 8, turn & 1);
        auto multiply = [&](bool inside) {
#pragma unroll
          for (int m = 0; m < MATRICES; m++)
            few_multiply<STORAGE, PAIRS>(c[m], d[m], inside ? *reinterpret_cast<const uint4 *>(w + m * row_bytes) : make_uint4(0, 0, 0, 0), inside ? x : xs, x_pitch, rows);
          w += 512, x += 32 * ELEMENTS * (int)sizeof(T);
        };
#pragma unroll 4
        for (int first = 32; first <= pieces; first += 32) multiply(true);
        if (pieces % 32 != 0) multiply(lane < pieces % 32);
        const neuron m = now;
        now = next;
        __syncwarp();
        if (mine < count - t0 - owners) {
          ask_up(now);
          if (mine < count - t0 - 2 * owners) next = find(t0 + 2 * owners + mine), finish(next);
        }
        float u[2 * PAIRS], v[2 * PAIRS];
        few_diagonal<PAIRS>(u, c[0], d[0]);
        if (GATED) few_diagonal<PAIRS>(v, c[MATRICES - 1], d[MATRICES - 1]);
        float h[4] = {};
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
          u[r] = u[r] * m.scale + m.bias;
          h[r] = GATED ? experts_activate(v[r] * m.gate_scale + m.gate_bias, a.activation) * u[r] : experts_activate(u[r], a.activation);
          h[r] = m.wanted >> r & 1 ? h[r] * m.down_scale : 0.0f;
        }
        if (lane == 0) *reinterpret_cast<float4 *>(hs + (half * WARPS + warp) * 4) = make_float4(h[0], h[1], h[2], h[3]);
        hopper_wait(barriers + (owners + half * owners + warp) * 8, turn / 2 & 1);
      }
      __syncthreads();
      if (turn == 0) STAMP(8);
      // All are done with the turn before: its rows of down make room.
      if (turn > 0 && mine < count - t0 - owners) ask_down(now, 1 - half);
      const int many = min(owners, count - t0);
      const bool last = t0 + owners >= count;
      const float *h = hs + half * WARPS * 4;
      for (int unit = threadIdx.x; unit < units; unit += THREADS) {
        float acc[ROWS][N];
#pragma unroll
        for (int r = 0; r < ROWS; r++)
#pragma unroll
          for (int i = 0; i < N; i++) acc[r][i] = turn == 0 || r >= rows ? 0.0f : sums[(r * units + unit) * N + i];
        const char *w = downs + half * owners * down_bytes + unit * 4;
#pragma unroll 4
        for (int at = 0; at < many; at++) {
          float v[N];
          few_widen<STORAGE, N>(v, *reinterpret_cast<const unsigned *>(w + at * down_bytes));
#pragma unroll
          for (int r = 0; r < ROWS; r++)
#pragma unroll
            for (int i = 0; i < N; i++) acc[r][i] += h[at * 4 + r] * v[i];
        }
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
          if (r >= rows) break;
          if (last)
            few_publish<N>(a.partials + (((long long)blockIdx.x * rows + r) * units + unit) * N, acc[r]);
          else
#pragma unroll
            for (int i = 0; i < N; i++) sums[(r * units + unit) * N + i] = acc[r][i];
        }
      }
    }
    STAMP(9);
  }

  // ---- The sum over blocks ----
  if (a.stages & SUM) {
    // Once, where there are helpers.
    for (int i = first_sum; i - warp / helpers < end; i += WARPS / helpers) {
      float sum[4] = {};
      const bool there = i < end && 2 * i + lane % 2 < all;
      constexpr int AT_ONCE = 5;
      const int apart = 16 * helpers;
      for (int p0 = lane / 2 + 16 * helper; p0 < (int)gridDim.x; p0 += apart * AT_ONCE) {
        float v[AT_ONCE][4] = {};
        float *from = a.partials + ((long long)p0 * all + 2 * i + lane % 2) * 4;
        const long long step = (long long)apart * all * 4;
        auto is_missing = [&](int q) { return there && p0 + q * apart < (int)gridDim.x && few_is_empty<4>(v[q]); };
        // All that have not come are asked for at once: one after the other, each would wait for memory.
        for (bool missing = true; missing;) {
#pragma unroll
          for (int q = 0; q < AT_ONCE; q++)
            if (is_missing(q)) few_load<4>(v[q], from + q * step);
          missing = false;
#pragma unroll
          for (int q = 0; q < AT_ONCE; q++) missing |= is_missing(q);
        }
#pragma unroll
        for (int q = 0; q < AT_ONCE; q++) {
          if (!there || p0 + q * apart >= (int)gridDim.x) break;
          few_invert<4>(v[q]);
          constexpr float empty[4] = {};
          few_store<4>(from + q * step, empty);
#pragma unroll
          for (int k = 0; k < 4; k++) sum[k] += v[q][k];
        }
      }
#pragma unroll
      for (int k = 0; k < 4; k++)
#pragma unroll
        for (int offset = 2; offset < 32; offset *= 2) sum[k] += __shfl_xor_sync(~0u, sum[k], offset);
      if (lane < 2) *reinterpret_cast<float4 *>(parts + warp * 8 + lane * 4) = make_float4(sum[0], sum[1], sum[2], sum[3]);
      if (helpers > 1)
        __syncthreads();
      else
        __syncwarp();
      int column;
      if (const int r = row_of(i, column); helper == 0 && lane < 8 && i < end && r < rows && column < a.d_out) {
        float own = i == first_sum ? first_bias : read_bias(bias_at(i));
        for (int h = 0; h < helpers; h++) own += parts[(warp + h) * 8 + lane % 2 * 4 + lane / 2];
        experts_write(a.out, (long long)r * a.d_out + column, a.out_type, own);
      }
      __syncwarp();
    }
    STAMP(12);
    STAMP_TIME(15);
    // All blocks have read the router's hidden layer, since what came of it is here.
    if (routes && blockIdx.x == 0) {
      __syncthreads();
      constexpr float empty[1] = {};
      for (int i = threadIdx.x; i < rows * a.router_width; i += THREADS) few_store<1>(a.forecast + i, empty);
    }
  }
}

#define EXPERTS_FEW(name, STORAGE)                                                                                                    \
  KERNEL __launch_bounds__(512, 1) experts_one_plain_##name(const experts_few_args a) { experts_few<STORAGE, false, 1>(a); } \
  KERNEL __launch_bounds__(512, 1) experts_one_gated_##name(const experts_few_args a) { experts_few<STORAGE, true, 1>(a); }  \
  KERNEL __launch_bounds__(512, 1) experts_three_plain_##name(const experts_few_args a) { experts_few<STORAGE, false, 3>(a); } \
  KERNEL __launch_bounds__(512, 1) experts_three_gated_##name(const experts_few_args a) { experts_few<STORAGE, true, 3>(a); }

EXPERTS_FEW(f16, HALF)
EXPERTS_FEW(bf16, BFLOAT16)
EXPERTS_FEW(tf32, TF32)
EXPERTS_FEW(f32, FLOAT32)
EXPERTS_FEW(int8, INT8)
