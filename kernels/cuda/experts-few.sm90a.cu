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
#include "tensor-core.cuh"

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
  float per_size, per_blocks;  // 1 / expert_size, 1 / blocks
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
  constexpr int AT_ONCE = N < 4 ? N : 4;
#pragma unroll
  for (int first = 0; first < N; first += AT_ONCE) {
    float inverted[AT_ONCE];
#pragma unroll
    for (int i = 0; i < AT_ONCE; i++) inverted[i] = __uint_as_float(~__float_as_uint(v[first + i]));
    few_store<AT_ONCE>(p + first, inverted);
  }
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

// The bits of experts first + 32 · lane … of a row of one byte an expert, 0 or 1. Where they lie well they are asked for before
// they are used.
struct few_word {
  uint4 low, high;
  static __device__ __forceinline__ bool lies_well(const unsigned char *row, int n) { return n % 16 == 0 && reinterpret_cast<size_t>(row) % 16 == 0; }
  __device__ __forceinline__ void load(const unsigned char *row, int n, int first) {
    const int e = first + (int)threadIdx.x % 32 * 32;
    low = high = make_uint4(0, 0, 0, 0);
    if (!lies_well(row, n)) return;
    if (e < n) low = *reinterpret_cast<const uint4 *>(row + e);
    if (e + 16 < n) high = *reinterpret_cast<const uint4 *>(row + e + 16);
  }
  __device__ __forceinline__ unsigned get(const unsigned char *row, int n, int first) const {
    if (lies_well(row, n)) return few_bits(low) | few_bits(high) << 16;
    const int lane = threadIdx.x % 32;
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
};

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
      rows[r] = r < count ? word(r) : 0u;
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
template <int STORAGE, int N> __device__ __forceinline__ void few_widen(float *v, unsigned w) {
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

template <int N> __device__ __forceinline__ void few_copy_floats(float *to, const float *from) {
  if constexpr (N == 1)
    *to = *from;
  else if constexpr (N == 2)
    *reinterpret_cast<float2 *>(to) = *reinterpret_cast<const float2 *>(from);
  else
#pragma unroll
    for (int i = 0; i < N; i += 4) *reinterpret_cast<float4 *>(to + i) = *reinterpret_cast<const float4 *>(from + i);
}

// sums[r][…] += h[r][k] · row k of `many`, for the WORDS · 4 bytes of each that `w` points to.
template <int STORAGE, int ROWS, int WORDS, int N> __device__ __forceinline__ void few_add_down(float (&sums)[ROWS][N], const char *w, int row_bytes, const float *h, int pitch, int many) {
  typedef typename std::conditional<WORDS == 2, uint2, unsigned>::type piece;
  auto add = [&](const piece &p, auto h_of) {
    unsigned words[WORDS];
    *reinterpret_cast<piece *>(words) = p;
    float v[N];
#pragma unroll
    for (int j = 0; j < WORDS; j++) few_widen<STORAGE, N / WORDS>(v + j * N / WORDS, words[j]);
#pragma unroll
    for (int r = 0; r < ROWS; r++)
#pragma unroll
      for (int k = 0; k < N; k++) sums[r][k] += h_of(r) * v[k];
  };
  int at = 0;
#pragma unroll 1
  for (; at + 4 <= many; at += 4, w += 4 * row_bytes) {
    piece p[4];
#pragma unroll
    for (int i = 0; i < 4; i++) p[i] = *reinterpret_cast<const piece *>(w + i * row_bytes);
    float4 four[ROWS];
#pragma unroll
    for (int r = 0; r < ROWS; r++) four[r] = *reinterpret_cast<const float4 *>(h + r * pitch + at);
    add(p[0], [&](int r) { return four[r].x; });
    add(p[1], [&](int r) { return four[r].y; });
    add(p[2], [&](int r) { return four[r].z; });
    add(p[3], [&](int r) { return four[r].w; });
  }
#pragma unroll 1
  for (; at < many; at++, w += row_bytes) add(*reinterpret_cast<const piece *>(w), [&](int r) { return h[r * pitch + at]; });
}

// ---- The router's choice ---------------------------------------------------------------------------------------------

// Norms of at least 0 in shared memory, rows `pitch` apart (a multiple of 32) with no numbers behind their end whose
// bits are −1, to a bit an expert.
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

// The `count` greatest of one row's norms, laid out as above: their numbers, the greatest first. A lane has four of 128 norms
// and counts for each of its warp's eight experts, in a byte of its own, how many of the four come before it; numbers of at
// least 0 compare as their bits do. Signs of differences are added, since a predicate is waited for.
template <int THREADS> __device__ __forceinline__ void few_rank(const float *norms, int pitch, int n, float count, unsigned short *ranked) {
  const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  const int *bits = reinterpret_cast<const int *>(norms);
  auto precedes = [](int other, int own) { return (unsigned)(own - other) >> 31; };
  for (int e0 = threadIdx.x / 32 * 8; e0 < n; e0 += THREADS / 4) {
    const int4 low = *reinterpret_cast<const int4 *>(bits + e0), high = *reinterpret_cast<const int4 *>(bits + e0 + 4);
    const int own[8] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
    // The eight among themselves: two a lane.
    const int2 near = *reinterpret_cast<const int2 *>(bits + e0 + 2 * t);
    const unsigned among = precedes(near.x, bits[e0 + g] - (2 * t < g)) + precedes(near.y, bits[e0 + g] - (2 * t + 1 < g));
    int place = 0;
    for (int j0 = 0; j0 < pitch; j0 += 128) {
      const int j = j0 + lane * 4, ties = j < e0 ? 1 : 0;
      int4 others = make_int4(-1, -1, -1, -1);
      if (j < pitch && (j < e0 || j >= e0 + 8)) others = *reinterpret_cast<const int4 *>(bits + j);
      unsigned before[8];
#pragma unroll
      for (int i = 0; i < 8; i++) {
        const int bar = own[i] - ties;
        before[i] = precedes(others.x, bar) + precedes(others.y, bar) + precedes(others.z, bar) + precedes(others.w, bar);
      }
      unsigned packed[2];
#pragma unroll
      for (int i = 0; i < 2; i++) packed[i] = before[4 * i] + (before[4 * i + 1] << 8) + (before[4 * i + 2] << 16) + (before[4 * i + 3] << 24);
      if (j0 == 0) packed[0] += g < 4 ? among << g * 8 : 0, packed[1] += g < 4 ? 0 : among << (g - 4) * 8;
      const unsigned first = __reduce_add_sync(~0u, packed[0]), second = __reduce_add_sync(~0u, packed[1]);
      place += (lane < 4 ? first : second) >> lane % 4 * 8 & 0xff;
    }
    if (lane < 8 && e0 + lane < n && place < count) ranked[place] = (unsigned short)(e0 + lane);
  }
}

// ---- A neuron --------------------------------------------------------------------------------------------------------

struct few_neuron {
  long long at;
  unsigned wanted;  // by row
};
struct few_vectors {
  float bias, gate_bias, scale, gate_scale, down_scale;
};

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
  const int row_bytes = pieces * 16, down_bytes = (a.d_out + ELEMENTS - 1) / ELEMENTS * 16;
  const int padded = down_bytes / 4 * N, vectors = padded / 4, x_pieces = (pieces * ELEMENTS + 7) / 8, x_pitch = x_pieces * 8 * (int)sizeof(T);
  const bool routes = a.router_hidden != nullptr;
  const bool is_ranked = ROWS == 1 && routes && a.rule == 1;
  STAMP(0);
  STAMP_TIME(14);

  // Eight rows of the router's output layer a warp, 16 pieces of each, wait where weights come later.
  constexpr int AHEAD = 4;
  const int r_pieces = (a.router_width + ROUTER_ELEMENTS - 1) / ROUTER_ELEMENTS, r_pitch = max(4 * AHEAD, (r_pieces + 3) / 4 * 4) * 16;
  const int norms_pitch = (n + 31) / 32 * 32;
  // Shared memory, as few-hopper-plan.ts counts it. What else a router needs lies where sums come later, but for what it chose.
  DYNAMIC_SHARED(char, shared);
  char *downs = shared + owners * MATRICES * row_bytes;                                  // [2][owners]
  char *xs = shared + max(owners * (MATRICES * row_bytes + 2 * down_bytes), routes ? AHEAD * THREADS * 16 : 0);  // [rows]
  float *hs = reinterpret_cast<float *>(xs + rows * x_pitch);                            // [2][ROWS][WARPS], room for four rows
  float *parts = hs + 2 * WARPS * 4;                                                     // [WARPS][8]
  const unsigned barriers = hopper_address(parts + WARPS * 8);                           // of up, then of down: [3][owners], room for [3][WARPS]
  unsigned short *ranked = reinterpret_cast<unsigned short *>(parts + WARPS * 8 + 3 * WARPS * 2);  // [n], of one row
  float *sums = parts + WARPS * 8 + 3 * WARPS * 2 + (ROWS == 1 && routes ? (n + 7) / 8 * 4 : 0);  // [rows][padded]
  char *predicted = reinterpret_cast<char *>(sums);                                      // [rows][r_pitch]
  float *norms = reinterpret_cast<float *>(predicted + rows * r_pitch);                  // [rows][norms_pitch]
  unsigned *chosen = reinterpret_cast<unsigned *>(norms + rows * norms_pitch);           // [rows][words]

  // ---- Before the wait no more than must be there behind it: a block whose multiprocessor was busy to the end starts late,
  // and all wait for it ----
  hopper_launch_next();
  const int h_pieces = (a.d + ROUTER_ELEMENTS - 1) / ROUTER_ELEMENTS;
  uint4 first_piece = make_uint4(0, 0, 0, 0);
  if (routes && a.stages & ROUTE && (int)blockIdx.x < a.router_width && (int)threadIdx.x < h_pieces)
    first_piece = experts_weights16(static_cast<const char *>(a.router_hidden) + ((long long)blockIdx.x * h_pieces + threadIdx.x) * 16);
  const bool whole = a.d % 8 == 0 && reinterpret_cast<size_t>(a.x) % 16 == 0;
  int x_row = 0, x_column = threadIdx.x;
  if (ROWS > 1)
    while (x_column >= x_pieces && x_row < rows) x_column -= x_pieces, x_row++;
  // By one warp of each block: the others do not stand in its way.
  auto prefetch = [&](int by, const void *from, long long bytes) {
    if (warp == by)
      for (long long at = (blockIdx.x + gridDim.x * lane) * 128; at < bytes; at += (long long)gridDim.x * 4096) hopper_prefetch_line(static_cast<const char *>(from) + at);
  };
  if (!routes) prefetch(15, a.selection, (long long)rows * n);
  prefetch(14, a.x, (long long)rows * a.d * (a.x_type == 0 ? 4 : 2));
  if (a.stages & EXPERTS && warp < owners && lane == 0) {
    for (int i = 0; i < 3; i++) hopper_init(barriers + (i * owners + warp) * 8, i == 0 ? MATRICES : 1);
    hopper_proxy_fence();
  }
  hopper_wait_launch();

  // ---- The selection, where it is given, and x: both on their way at once ----
  few_list<ROWS> list;
  list.first = list.base = 0;
  few_word selection[ROWS];
  auto load_selection = [&] {
#pragma unroll
    for (int r = 0; r < ROWS; r++)
      if (r < rows) selection[r].load(a.selection + (long long)r * n, n, list.first);
  };
  auto use_selection = [&] { list.read(rows, [&](int r) { return selection[r].get(a.selection + (long long)r * n, n, list.first); }); };
  auto read_selection = [&] { load_selection(), use_selection(); };
  if (!routes && a.stages & EXPERTS) load_selection();
  few_x x;
  x.load(a, whole, x_row, x_column * 8);
  auto prefetch_biases = [&] {
    if (a.up_bias != nullptr) prefetch(13, a.up_bias, (long long)n * size * 4);
    if (a.down_bias != nullptr) prefetch(12, a.down_bias, a.d_out * 4);
  };
  if (!routes) prefetch_biases();
  auto output_piece = [&](int e, int piece) { return static_cast<const char *>(a.router_output) + ((long long)e * r_pieces + piece) * 16; };
  auto is_piece = [&](int e, int piece) { return e < n && piece < r_pieces; };
  auto finish_x = [&] {
    for (; x_row < rows && x_column < x_pieces;) {
      x.template store<T>(a, whole, x_row, x_column * 8, xs + x_row * x_pitch);
      x_column += THREADS;
      if (ROWS > 1)
        while (x_column >= x_pieces && x_row < rows) x_column -= x_pieces, x_row++;
      x.load(a, whole, x_row, x_column * 8);
    }
  };
  // ---- Which of the selected neurons are this block's ----
  const int mine = warp < owners ? warp : 1 << 28;
  int lo = 0, count = 0;
  auto cut = [&](int experts) {
    const int selected = experts * size, run = few_divide(selected + (int)gridDim.x - 1, a.per_blocks);
    lo = min((int)blockIdx.x * run, selected), count = min(run, selected - lo);
  };
  // ---- What lanes 0 to 3 ask for: rows of up, of gate, and of down for turns of even and of odd number ----
  const char *copied = static_cast<const char *>(lane == 0 ? a.up : lane == 1 ? a.gate : a.down);
  const int slot = (lane - 2) * owners + warp, copy_bytes = lane < 2 ? row_bytes : down_bytes;
  const unsigned copy_to = lane < 2 ? hopper_address(shared) + (warp * MATRICES + lane) * row_bytes : hopper_address(downs) + slot * down_bytes;
  const unsigned copy_barrier = barriers + (lane < 2 ? warp : owners + slot) * 8;
  auto ask_from = [&](bool wants, const char *from) {
    if (!wants) return;
    hopper_expect(copy_barrier, copy_bytes);
    hopper_copy_passing(copy_to, from, copy_bytes, copy_barrier);
  };
  auto ask = [&](bool wants, long long at) { ask_from(wants, copied + at * copy_bytes); };
  few_neuron now = {}, next = {};
  if (routes) {
    // A neuron's activation, from the warps' sums, which lie by row.
    auto publish = [&](int j) {
      __syncthreads();
      if ((int)threadIdx.x < rows) {
        float v[4];
#pragma unroll
        for (int i = 0; i < 4; i++) {
          const float4 four = *reinterpret_cast<const float4 *>(parts + threadIdx.x * WARPS + i * 4);
          v[i] = (four.x + four.y) + (four.z + four.w);
        }
        const float sum[1] = {fmaxf((v[0] + v[1]) + (v[2] + v[3]), 0.0f)};
        few_publish<1>(a.forecast + threadIdx.x * a.router_width + j, sum);
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
      if (lane == 0) parts[warp] = sum;
      publish(first_neuron);
      first_neuron += gridDim.x;
      if (x_column < x_pieces) *reinterpret_cast<uint4 *>(xs + x_column * 16) = *reinterpret_cast<const uint4 *>(own), x_row = rows;
    }
    // Copies to shared memory, as what waits for another load does not wait for them.
    if (a.stages & EXPERTS) {
#pragma unroll
      for (int i = 0; i < AHEAD; i++) {
        const int e = warp * 8 + lane / 4, piece = i * 4 + lane % 4;
        const bool valid = is_piece(e, piece);
        copy16(shared + (i * THREADS + threadIdx.x) * 16, valid ? output_piece(e, piece) : static_cast<const char *>(a.router_output), valid);
      }
      copies_commit();
    }
    prefetch_biases();
    if (a.stages & (ROUTE | EXPERTS)) finish_x();
    STAMP(1);
    if (a.stages & ROUTE && first_neuron < a.router_width) {
      __syncthreads();
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
          for (int r = 0; r < ROWS; r++) parts[r * WARPS + warp] = sum[r];
        publish(j);
        __syncthreads();
      }
    }
    STAMP(2);
    if ((a.stages & (EXPERTS | SUM)) == 0) return;
    // ---- Every block for itself: the norms from the router's hidden layer, and the choice ----
    if (a.stages & EXPERTS) {
      const int g = lane / 4, t = lane % 4;
      // How many experts run is known before which: what a lane asks for first is worked out ahead, lane 3 for the turn after.
      if (is_ranked) cut(min((int)a.value, n));
      const int place = lo + mine + (lane == 3 ? owners : 0), rank = few_divide(place, a.per_size), offset = place - rank * size;
      const bool has_first = is_ranked && mine < count && lane < 4 && place < lo + count;
      const char *first_from = copied + (long long)offset * copy_bytes;
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
      copies_wait<0>();
      __syncthreads();
      STAMP(3);
      // Eight experts a warp.
      const char *own_predicted = predicted + (ROWS == 1 ? 0 : min(g, rows - 1)) * r_pitch + t * 16;
      float c[AHEAD][4] = {};
      uint4 upper[AHEAD], weights[AHEAD];
#pragma unroll
      for (int i = 0; i < AHEAD; i++) upper[i] = g < rows ? *reinterpret_cast<const uint4 *>(own_predicted + i * 64) : make_uint4(0, 0, 0, 0);
#pragma unroll
      for (int i = 0; i < AHEAD; i++) weights[i] = *reinterpret_cast<const uint4 *>(shared + (i * THREADS + threadIdx.x) * 16);
#pragma unroll
      for (int i = 0; i < AHEAD; i++) experts_multiply<ROUTER>(c[i], upper[i], make_uint4(0, 0, 0, 0), weights[i]);
      hopper_proxy_fence();  // the copy engine writes where they lay
      // What is left of a wide router, and of many experts.
      for (int e0 = warp * 8; e0 < norms_pitch; e0 += WARPS * 8) {
#pragma unroll 1
        for (int piece = e0 == warp * 8 ? 4 * AHEAD : 0; piece < r_pieces; piece += 4)
          experts_multiply<ROUTER>(c[0], *reinterpret_cast<const uint4 *>(own_predicted + piece * 16), make_uint4(0, 0, 0, 0),
                                   is_piece(e0 + g, piece + t) ? experts_weights16(output_piece(e0 + g, piece + t)) : make_uint4(0, 0, 0, 0));
        // Of the greatest, what is no number comes first: else the others would not count it.
        auto norm = [&](int e, float x) { return e >= n ? __uint_as_float(~0u) : a.rule == 1 ? fminf(fabsf(x), INFINITY) : fabsf(x); };
        const int e = e0 + 2 * t;
        if (g < rows) *reinterpret_cast<float2 *>(norms + g * norms_pitch + e) = make_float2(norm(e, c[0][0] + c[1][0] + (c[2][0] + c[3][0])), norm(e + 1, c[0][1] + c[1][1] + (c[2][1] + c[3][1])));
#pragma unroll
        for (int i = 0; i < AHEAD; i++)
#pragma unroll
          for (int k = 0; k < 4; k++) c[i][k] = 0;
      }
      __syncthreads();
      STAMP(13);
      if (is_ranked) {
        few_rank<THREADS>(norms, norms_pitch, n, a.value, ranked);
        __syncthreads();
        STAMP(4);
        const int expert = has_first ? ranked[rank] : 0;
        first_from += (long long)expert * size * copy_bytes;
        ask_from(has_first && lane < MATRICES, first_from);
        ask_from(has_first && lane == 2, first_from);
        now.at = (long long)expert * size + offset, now.wanted = next.wanted = 1;
        next.at = __shfl_sync(~0u, now.at, 3), now.at = __shfl_sync(~0u, now.at, 0);
      } else {
        few_select<THREADS>(norms, norms_pitch, rows, n, a.rule, a.value, chosen);
        __syncthreads();
        // A router has no more experts than the list.
        const int words = (n + 31) / 32;
        list.read(rows, [&](int r) { return lane < words ? chosen[r * words + lane] : 0u; });
      }
    }
  }

  const long long hidden = (long long)n * size;
  auto find = [&](int place) {
    few_neuron m;
    const int rank = few_divide(lo + place, a.per_size);
    if (n > 1024)
      while (rank >= list.end()) list.base = list.end(), list.first += 1024, read_selection(), list.scan(n);
    m.wanted = 1;
    m.at = (long long)(is_ranked ? ranked[rank] : list.find(rank, m.wanted)) * size + (lo + place - rank * size);
    return m;
  };
  auto read_vectors = [&](const few_neuron &m) {
    few_vectors v;
    v.bias = a.up_bias != nullptr ? a.up_bias[m.at] : 0.0f;
    v.gate_bias = GATED && a.gate_bias != nullptr ? a.gate_bias[m.at] : 0.0f;
    v.scale = v.gate_scale = v.down_scale = 1;
    if (IS_8_BIT) {
      v.scale = a.scales[m.at], v.down_scale = a.scales[2 * hidden + m.at];
      if (GATED) v.gate_scale = a.scales[hidden + m.at];
    }
    return v;
  };
  // ---- Without a ranking: how many neurons are this block's, and the first of them ----
  if (a.stages & EXPERTS && !is_ranked) {
    __syncwarp();  // the barriers are there for lanes 1 and 2 too
    if (!routes) use_selection();
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
    cut(experts);
    STAMP(5);
    if (mine < count) now = find(mine), ask(lane < MATRICES, now.at), ask(lane == 2, now.at);
    if (mine + owners < count) next = find(mine + owners);
    STAMP(6);
  }

  // ---- While weights come: what this block adds up. Of the 32 bytes of the output's sums that some warps add up, a lane has one
  // half of every 16th block's share, or of fewer where there are warps to help ----
  const int helpers = a.share <= 4 ? 4 : a.share <= 8 ? 2 : 1, helper = warp % helpers;
  const int all = rows * vectors, begin = blockIdx.x * a.share, end = min(begin + a.share, (all + 1) / 2);
  auto row_of = [&](int piece, int &column) {
    int vector = 2 * piece + lane % 2, r = 0;
    if (ROWS > 1)
      while (vector >= vectors && r < rows) vector -= vectors, r++;
    column = vector * 4 + lane / 2;
    return vector < vectors ? r : rows;
  };
  const int first_sum = begin + warp / helpers;
  if (a.stages & EXPERTS) {
    if (!routes) finish_x();
    __syncthreads();
    STAMP(7);

    // ---- The products, a neuron a warp at a time ----
    for (int turn = 0, t0 = 0; turn == 0 || t0 < count; turn++, t0 += owners) {
      const int half = turn % 2;
      if (mine < count - t0) {
        const char *w = shared + warp * MATRICES * row_bytes + lane * 16, *x = xs + lane * (ELEMENTS * (int)sizeof(T));
        float c[MATRICES][PAIRS][4] = {}, d[MATRICES][PAIRS][4] = {};
        const few_neuron m = now;
        const few_vectors f = read_vectors(m);
        hopper_wait(barriers + warp * 8, turn & 1);
        auto multiply = [&](bool inside) {
#pragma unroll
          for (int m = 0; m < MATRICES; m++)
            few_multiply<STORAGE, PAIRS>(c[m], d[m], inside ? *reinterpret_cast<const uint4 *>(w + m * row_bytes) : make_uint4(0, 0, 0, 0), inside ? x : xs, x_pitch, rows);
          w += 512, x += 32 * ELEMENTS * (int)sizeof(T);
        };
        constexpr int UNROLLED = ROWS == 1 && ELEMENTS == 8 ? 8 : 4;  // more would not fit registers
#pragma unroll UNROLLED
        for (int first = 32; first <= pieces; first += 32) multiply(true);
        if (pieces % 32 != 0) multiply(lane < pieces % 32);
        now = next;
        __syncwarp();
        if (mine < count - t0 - owners) {
          // Up and gate before down, which there is less to do with when it comes.
          ask(lane < MATRICES, now.at);
          if (turn == 0) ask(lane == 3, now.at);
          if (mine < count - t0 - 2 * owners) next = find(t0 + 2 * owners + mine);
        }
        float u[2 * PAIRS], v[2 * PAIRS];
        few_diagonal<PAIRS>(u, c[0], d[0]);
        if (GATED) few_diagonal<PAIRS>(v, c[MATRICES - 1], d[MATRICES - 1]);
        float h[ROWS];
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
          u[r] = u[r] * f.scale + f.bias;
          h[r] = GATED ? experts_activate(v[r] * f.gate_scale + f.gate_bias, a.activation) * u[r] : experts_activate(u[r], a.activation);
          h[r] = m.wanted >> r & 1 ? h[r] * f.down_scale : 0.0f;
        }
        if (lane == 0)
#pragma unroll
          for (int r = 0; r < ROWS; r++) hs[(half * ROWS + r) * WARPS + warp] = h[r];
        hopper_wait(barriers + (owners + half * owners + warp) * 8, turn / 2 & 1);
      }
      __syncthreads();
      if (turn == 0) STAMP(8);
      // All are done with the turn before: its rows of down make room.
      if (turn > 0 && mine < count - t0 - owners) ask(lane == 3 - half, now.at);
      const int many = min(owners, count - t0);
      const bool last = t0 + owners >= count;
      const float *h = hs + half * ROWS * WARPS;
      // 4 bytes of every row a thread, or 8 where there are enough of them.
      auto add_down = [&](auto words) {
        constexpr int WORDS = decltype(words)::value, COLUMNS = N * WORDS;
        for (int column = threadIdx.x * COLUMNS; column < padded; column += THREADS * COLUMNS) {
          __align__(16) float acc[ROWS][COLUMNS] = {};
          if (turn > 0)
#pragma unroll
            for (int r = 0; r < ROWS; r++)
              if (r < rows) few_copy_floats<COLUMNS>(acc[r], sums + r * padded + column);
          few_add_down<STORAGE, ROWS, WORDS>(acc, downs + half * owners * down_bytes + column / N * 4, down_bytes, h, WARPS, many);
#pragma unroll
          for (int r = 0; r < ROWS; r++) {
            if (r >= rows) break;
            if (last)
              few_publish<COLUMNS>(a.partials + ((long long)blockIdx.x * rows + r) * padded + column, acc[r]);
            else
              few_copy_floats<COLUMNS>(sums + r * padded + column, acc[r]);
          }
        }
      };
      if (down_bytes >= 8 * THREADS)
        add_down(std::integral_constant<int, 2>());
      else
        add_down(std::integral_constant<int, 1>());
    }
    STAMP(9);
  }

  // ---- The sum over blocks ----
  if (a.stages & SUM) {
    constexpr int AT_ONCE = 5;
    const int apart = 16 * helpers, first_share = lane / 2 + 16 * helper;
    const long long step = (long long)apart * all * 4;
    // Once, where there are helpers.
    for (int i = first_sum; i - warp / helpers < end; i += WARPS / helpers) {
      float sum[4] = {}, bias = 0;
      int column;
      const int r = row_of(i, column);
      const bool writes = helper == 0 && lane < 8 && i < end && r < rows && column < a.d_out;
      if (writes && a.down_bias != nullptr) bias = a.down_bias[column];
      for (int first = 0; first < (int)gridDim.x; first += apart * AT_ONCE) {
        // A lane's shares from p0 on, `apart` from each other. All that have not come are asked for at once: one after the other,
        // each would wait for memory.
        const int p0 = first + first_share;
        float v[AT_ONCE][4] = {};
        float *from = a.partials + ((long long)p0 * all + 2 * i + lane % 2) * 4;
        const bool there = i < end && 2 * i + lane % 2 < all;
        auto is_missing = [&](int q) { return there && p0 + q * apart < (int)gridDim.x && few_is_empty<4>(v[q]); };
        auto ask_shares = [&] {
#pragma unroll
          for (int q = 0; q < AT_ONCE; q++)
            if (is_missing(q)) few_load<4>(v[q], from + q * step);
        };
        auto is_any_missing = [&] {
          bool missing = false;
#pragma unroll
          for (int q = 0; q < AT_ONCE; q++) missing |= is_missing(q);
          return missing;
        };
        // Blocks of several turns end far apart. What many lanes ask for time and again would be in the way of others' weights: one
        // waits for its own before all ask again, until few are missing.
        for (;;) {
          ask_shares();
          const unsigned missing = __ballot_sync(~0u, is_any_missing());
          if (missing == 0) break;
          if (count > owners && __popc(missing) > 8 && lane == __ffs(missing) - 1)
            while (is_any_missing()) ask_shares();
          __syncwarp();
        }
#pragma unroll
        for (int q = 0; q < AT_ONCE; q++) {
          if (few_is_empty<4>(v[q])) break;
          few_invert<4>(v[q]);
          constexpr float empty[4] = {};
          few_store<4>(from + q * step, empty);
#pragma unroll
          for (int k = 0; k < 4; k++) sum[k] += v[q][k];
        }
      }
      // A lane gives half of its columns away and keeps the other half, until it has one.
      const bool upper = lane & 2, odd = lane & 4;
      float pair[2];
#pragma unroll
      for (int k = 0; k < 2; k++) pair[k] = (upper ? sum[2 + k] : sum[k]) + __shfl_xor_sync(~0u, upper ? sum[k] : sum[2 + k], 2);
      float one = (odd ? pair[1] : pair[0]) + __shfl_xor_sync(~0u, odd ? pair[0] : pair[1], 4);
      one += __shfl_xor_sync(~0u, one, 8);
      one += __shfl_xor_sync(~0u, one, 16);
      if (lane < 8) parts[warp * 8 + lane % 2 * 4 + (upper ? 2 : 0) + (odd ? 1 : 0)] = one;
      if (helpers > 1)
        __syncthreads();
      else
        __syncwarp();
      if (writes) {
        for (int h = 0; h < helpers; h++) bias += parts[(warp + h) * 8 + lane % 2 * 4 + lane / 2];
        experts_write(a.out, (long long)r * a.d_out + column, a.out_type, bias);
      }
      __syncwarp();
    }
    STAMP(12);
    STAMP_TIME(15);
    // All blocks have read the router's hidden layer, since what came of it is here.
    if (routes && blockIdx.x == 0 && warp == 0) {
      constexpr float empty[1] = {};
      for (int i = lane; i < rows * a.router_width; i += 32) few_store<1>(a.forecast + i, empty);
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
