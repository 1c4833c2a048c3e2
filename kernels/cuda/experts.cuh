// What the kernels of the expert op share: how weights are stored, a warp's matrix instruction on each storage, the
// activations, and a barrier over the whole grid.
//
// An FFN of `hidden` neurons has the rows up[j], gate[j] (d numbers each) and down[j] (d_out numbers) for neuron j, one
// behind the other, each padded with zeros to 16 bytes. Expert i is the neurons i·e … i·e + e − 1.
#pragma once
#include "common.cuh"

// ---- Storages -------------------------------------------------------------------------------------------------------

enum { HALF, BFLOAT16, TF32, FLOAT32, INT8 };

// ELEMENTS of a weight matrix lie in 16 bytes; x and the hidden activations are kept in `type`.
template <int STORAGE> struct experts_storage;
template <> struct experts_storage<HALF> {
  typedef __half type;
  static constexpr int ELEMENTS = 8;
};
template <> struct experts_storage<BFLOAT16> {
  typedef bf16 type;
  static constexpr int ELEMENTS = 8;
};
template <> struct experts_storage<TF32> {
  typedef float type;
  static constexpr int ELEMENTS = 4;
};
template <> struct experts_storage<FLOAT32> {
  typedef float type;
  static constexpr int ELEMENTS = 4;
};
template <> struct experts_storage<INT8> {
  typedef __half type;
  static constexpr int ELEMENTS = 16;
};

template <typename T> __device__ __forceinline__ T experts_round(float x);
template <> __device__ __forceinline__ float experts_round<float>(float x) { return x; }
template <> __device__ __forceinline__ bf16 experts_round<bf16>(float x) { return __float2bfloat16(x); }
template <> __device__ __forceinline__ __half experts_round<__half>(float x) { return __float2half(x); }

// Element i of an array of float32 (0), bf16 (1) or fp16 (2).
__device__ __forceinline__ float experts_read(const void *x, long long i, int type) {
  if (type == 0) return static_cast<const float *>(x)[i];
  if (type == 1) return __bfloat162float(static_cast<const bf16 *>(x)[i]);
  return __half2float(static_cast<const __half *>(x)[i]);
}
__device__ __forceinline__ void experts_write(void *x, long long i, int type, float value) {
  if (type == 0)
    static_cast<float *>(x)[i] = value;
  else if (type == 1)
    static_cast<bf16 *>(x)[i] = __float2bfloat16(value);
  else
    static_cast<__half *>(x)[i] = __float2half(value);
}

// Four int8 values as two pairs of fp16, exactly.
__device__ __forceinline__ uint2 experts_widen(unsigned four) {
#ifdef D2DMOE_EMULATED
  unsigned short h[4];
  for (int i = 0; i < 4; i++) h[i] = __half_as_ushort(__float2half((float)(signed char)(four >> 8 * i & 0xff)));
  return make_uint2(h[0] | (unsigned)h[1] << 16, h[2] | (unsigned)h[3] << 16);
#else
  // 0x6400 | u is 1024 + u in fp16; u = v + 128.
  const unsigned u = four ^ 0x80808080u;
  unsigned low = __byte_perm(u, 0x64646464u, 0x4140), high = __byte_perm(u, 0x64646464u, 0x4342);
  const unsigned bias = 0x64806480u;  // 1152
  asm("sub.rn.f16x2 %0, %0, %1;" : "+r"(low) : "r"(bias));
  asm("sub.rn.f16x2 %0, %0, %1;" : "+r"(high) : "r"(bias));
  return make_uint2(low, high);
#endif
}

// ---- A warp's product -----------------------------------------------------------------------------------------------
//
// c[16 × 8] += a[16 × k] · b[k × 8] with k = 16 (fp16, bf16) or 8 (float32). With g = lane / 4 and t = lane % 4, a lane
// holds a0 and a2 of row g, a1 and a3 of row g + 8, b0 and b1 of column g, c0 and c1 of row g, columns 2t and 2t + 1, c2
// and c3 of row g + 8. Which terms of the sum t stands for is the caller's choice, as long as a and b agree: that is
// what lets a lane read 16 contiguous bytes of a weight row.

#ifdef D2DMOE_EMULATED

template <int STORAGE> __device__ inline float experts_pair_product(unsigned x, unsigned y) {
  if (STORAGE == TF32 || STORAGE == FLOAT32) return __uint_as_float(x) * __uint_as_float(y);
  float sum = 0;
  for (int i = 0; i < 32; i += 16) {
    const unsigned short p = x >> i, q = y >> i;
    if (STORAGE == BFLOAT16)
      sum += __bfloat162float(__ushort_as_bfloat16(p)) * __bfloat162float(__ushort_as_bfloat16(q));
    else
      sum += __half2float(__ushort_as_half(p)) * __half2float(__ushort_as_half(q));
  }
  return sum;
}

template <int STORAGE>
__device__ inline void experts_mma(float (&c)[4], unsigned a0, unsigned a1, unsigned a2, unsigned a3, unsigned b0, unsigned b1) {
  const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  for (int s = 0; s < 4; s++) {
    const unsigned upper0 = __shfl_sync(~0u, a0, g * 4 + s), upper1 = __shfl_sync(~0u, a2, g * 4 + s);
    const unsigned lower0 = __shfl_sync(~0u, a1, g * 4 + s), lower1 = __shfl_sync(~0u, a3, g * 4 + s);
    const unsigned left0 = __shfl_sync(~0u, b0, 2 * t * 4 + s), left1 = __shfl_sync(~0u, b1, 2 * t * 4 + s);
    const unsigned right0 = __shfl_sync(~0u, b0, (2 * t + 1) * 4 + s), right1 = __shfl_sync(~0u, b1, (2 * t + 1) * 4 + s);
    c[0] += experts_pair_product<STORAGE>(upper0, left0) + experts_pair_product<STORAGE>(upper1, left1);
    c[1] += experts_pair_product<STORAGE>(upper0, right0) + experts_pair_product<STORAGE>(upper1, right1);
    c[2] += experts_pair_product<STORAGE>(lower0, left0) + experts_pair_product<STORAGE>(lower1, left1);
    c[3] += experts_pair_product<STORAGE>(lower0, right0) + experts_pair_product<STORAGE>(lower1, right1);
  }
}

// 16 or 8 bytes of weights, which are read once.
__device__ inline uint4 experts_weights16(const void *p) { return *static_cast<const uint4 *>(p); }
__device__ inline uint2 experts_weights8(const void *p) { return *static_cast<const uint2 *>(p); }

#else

#define EXPERTS_MMA(types, a0, a1, a2, a3, b0, b1)                                                          \
  asm volatile("mma.sync.aligned." types " {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};" \
               : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])                                             \
               : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1))

__device__ __forceinline__ unsigned experts_tf32(float x) {
  unsigned rounded;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(rounded) : "f"(x));
  return rounded;
}

template <int STORAGE>
__device__ __forceinline__ void experts_mma(float (&c)[4], unsigned a0, unsigned a1, unsigned a2, unsigned a3, unsigned b0, unsigned b1) {
  if (STORAGE == HALF || STORAGE == INT8) {
    EXPERTS_MMA("m16n8k16.row.col.f32.f16.f16.f32", a0, a1, a2, a3, b0, b1);
  } else if (STORAGE == BFLOAT16) {
    EXPERTS_MMA("m16n8k16.row.col.f32.bf16.bf16.f32", a0, a1, a2, a3, b0, b1);
  } else {
    const unsigned v[6] = {a0, a1, a2, a3, b0, b1};
    unsigned high[6], low[6];
#pragma unroll
    for (int i = 0; i < 6; i++) {
      high[i] = experts_tf32(__uint_as_float(v[i]));
      low[i] = experts_tf32(__uint_as_float(v[i]) - __uint_as_float(high[i]));
    }
    if (STORAGE == FLOAT32) {
      // The two parts of each operand hold 22 bits: what is left out is below float32's own rounding of the sum.
      EXPERTS_MMA("m16n8k8.row.col.f32.tf32.tf32.f32", low[0], low[1], low[2], low[3], high[4], high[5]);
      EXPERTS_MMA("m16n8k8.row.col.f32.tf32.tf32.f32", high[0], high[1], high[2], high[3], low[4], low[5]);
    }
    EXPERTS_MMA("m16n8k8.row.col.f32.tf32.tf32.f32", high[0], high[1], high[2], high[3], high[4], high[5]);
  }
}

// 16 or 8 bytes of weights, which are read once. Volatile: these stay where they stand, ahead of what waits for them.
__device__ __forceinline__ uint4 experts_weights16(const void *p) {
  uint4 v;
  asm volatile("ld.global.nc.L1::no_allocate.L2::256B.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(p));
  return v;
}
__device__ __forceinline__ uint2 experts_weights8(const void *p) {
  uint2 v;
  asm volatile("ld.global.nc.L1::no_allocate.L2::256B.v2.u32 {%0, %1}, [%2];" : "=r"(v.x), "=r"(v.y) : "l"(p));
  return v;
}

#endif

// c += a · b over 16 bytes a lane: 8 terms for each of 4 lanes in 16 bits, 4 in float32. `upper` is of row g, `lower` of
// row g + 8, `w` of column g.
template <int STORAGE>
__device__ __forceinline__ void experts_multiply(float (&c)[4], const uint4 &upper, const uint4 &lower, const uint4 &w) {
  experts_mma<STORAGE>(c, upper.x, lower.x, upper.y, lower.y, w.x, w.y);
  experts_mma<STORAGE>(c, upper.z, lower.z, upper.w, lower.w, w.z, w.w);
}

// ---- Activations, as packages/kernels numbers them ------------------------------------------------------------------

__device__ __forceinline__ float experts_activate(float x, int activation) {
  switch (activation) {
    case 0:
      return x > 0 ? x : (x == x ? 0.0f : x);
    case 1:
      return 0.5f * x * (1.0f + erff(x * 0.70710678118654752f));
    case 2:
      return 0.5f * x * (1.0f + tanhf(0.79788456080286536f * (x + 0.044715f * x * x * x)));
    default:
      return x / (1.0f + expf(-x));
  }
}

// ---- Selection ------------------------------------------------------------------------------------------------------

// Bits that are ordered as norms are.
__device__ __forceinline__ unsigned experts_order(float norm) { return __float_as_uint(fabsf(norm)); }

// A warp selects one row's experts from norms of at least 0: rule 0 runs those of at least value · the greatest, 1 the
// `value` greatest, 2 the fewest, greatest first, whose sum is at least value · the sum of all. Ties go to the lower
// number, one expert always runs. Norms of at least 0 are ordered as their bits are, so that the least norm that runs is
// found bit by bit. Writes ceil(n / 32) words.
__device__ inline void experts_select_row(const float *norms, int n, int rule, float value, unsigned *words) {
  const int lane = threadIdx.x % 32;
  float most = 0;
  double total = 0;
  for (int e = lane; e < n; e += 32) most = fmaxf(most, norms[e]), total += rule == 2 ? norms[e] : 0.0f;
  most = warp_max(most);
  if (rule == 2) total = warp_sum(total);
  const double need = total * (double)value;
  int places = n;          // of those that equal the least
  unsigned least = 0;      // bits of the least norm that runs
  if (rule == 0) {
    // A row without a positive norm keeps its first expert.
    if (value > 0 && most > 0) {
      const float bar = __fmul_rn(most, value);
      for (int first = 0; first < n; first += 32) {
        const unsigned word = __ballot_sync(~0u, first + lane < n && norms[first + lane < n ? first + lane : 0] >= bar);
        if (lane == 0) words[first / 32] = word;
      }
      return;
    }
    if (value > 0) places = 1;
  } else if (rule == 1 ? value < (float)n : need > 0) {
    for (unsigned bit = 1u << 30; bit != 0; bit >>= 1) {
      const unsigned candidate = least | bit;
      if (candidate > __float_as_uint(most)) continue;
      bool enough;
      if (rule == 1) {
        int count = 0;
        for (int e = lane; e < n; e += 32) count += experts_order(norms[e]) >= candidate;
        enough = (float)warp_sum(count) >= value;
      } else {
        double sum = 0;
        for (int e = lane; e < n; e += 32) sum += experts_order(norms[e]) >= candidate ? norms[e] : 0.0f;
        enough = warp_sum(sum) >= need;
      }
      if (enough) least = candidate;
    }
    int above = 0;
    double sum = 0;
    for (int e = lane; e < n; e += 32)
      if (experts_order(norms[e]) > least) above++, sum += norms[e];
    above = warp_sum(above);
    if (rule == 1) {
      places = (int)value - above;
    } else {
      const double missing = ceil((need - warp_sum(sum)) / (double)__uint_as_float(least));
      places = missing < 1 ? 1 : missing > n ? n : (int)missing;
    }
  } else if (rule == 2) {
    least = __float_as_uint(most);
    places = 1;
  }
  for (int first = 0; first < n; first += 32) {
    const unsigned bits = first + lane < n ? experts_order(norms[first + lane]) : 0u;
    const bool inside = first + lane < n;
    const unsigned tied = __ballot_sync(~0u, inside && bits == least);
    const int place = __popc(tied & ((1u << lane) - 1));
    const unsigned word = __ballot_sync(~0u, inside && (bits > least || (bits == least && place < places)));
    if (lane == 0) words[first / 32] = word;
    places -= __popc(tied);
  }
}

// ---- A barrier over the grid ----------------------------------------------------------------------------------------
//
// All blocks have to be resident at once. `counter` only ever counts up, by gridDim.x a barrier, so that it needs no
// resetting between launches; a launch reads it before its first arrival, when it cannot have passed the next multiple.

__device__ __forceinline__ unsigned long long experts_barrier_base(const unsigned long long *counter) {
  const unsigned long long now = *reinterpret_cast<const volatile unsigned long long *>(counter);
  return now - now % gridDim.x;
}

// `which` counts a launch's barriers from 1. What threads wrote before it, all blocks read after it.
__device__ __forceinline__ void experts_barrier(unsigned long long *counter, unsigned long long base, int which) {
  __syncthreads();
  if (threadIdx.x == 0) {
#ifdef D2DMOE_EMULATED
    atomicAdd(counter, 1ull);
#else
    asm volatile("fence.acq_rel.gpu;\n\tred.relaxed.gpu.global.add.u64 [%0], %1;" ::"l"(counter), "l"(1ull) : "memory");
    const unsigned long long target = base + (unsigned long long)which * gridDim.x;
    unsigned long long now;
    do {
      asm volatile("ld.acquire.gpu.global.u64 %0, [%1];" : "=l"(now) : "l"(counter) : "memory");
    } while (now < target);
#endif
  }
  __syncthreads();
}
