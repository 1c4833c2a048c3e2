// What the kernels of some dozen rows have in common: their arguments, matrix loads, and x in shared memory.
#pragma once
#include "experts.cuh"
#include "hopper.cuh"

constexpr int EXPERTS_DOZENS_THREADS = 256, EXPERTS_DOZENS_WARPS = 8;

// Laid out as the host packs it: pointers, then 32-bit values.
struct experts_dozens_args {
  const void *x;                   // [rows, d]
  const unsigned char *selection;  // bool [rows, experts]
  const void *up, *gate, *down;
  const float *up_bias, *gate_bias, *down_bias;  // may be null
  const float *scales;                           // 8-bit storages: of up, gate and down, `neurons` each
  void *out;                                     // [rows, d_out]
  void *hidden;                                  // [rows, neurons rounded up to 16] by place among the selected
  float *partials;                               // `down` in splits: [column groups, splits, rows, columns of a group]
  int *counters;                                 // of the column groups' splits that are done; `up` clears them
  int rows, d, d_out, experts, expert_size, activation;
  int x_type, out_type;  // 0 float32, 1 bf16, 2 fp16
  int skip;              // whether neurons that no row selects are left out, or only masked
  int capacity;          // most neurons of a block of `down`, or a cluster of `up`, rounded up to 16
  // A block's warps: across neurons (columns), across rows, the rest along the sum. Steps of a warp in a slot; slots.
  int across, row_groups, steps, slots;
  int splits, groups;  // `down`: splits of the neurons that are summed through memory, where no cluster does it
};

#ifdef D2DMOE_EMULATED
inline int dozens_rank() { return 0; }
inline int dozens_ranks() { return 1; }
inline uint4 dozens_matrices(unsigned row) {
  const int lane = threadIdx.x % 32;
  unsigned v[4];
  for (int i = 0; i < 4; i++) v[i] = hopper_at<unsigned>(__shfl_sync(~0u, row, i * 8 + lane / 4) + lane % 4 * 4);
  return make_uint4(v[0], v[1], v[2], v[3]);
}
inline uint4 dozens_transposed(unsigned row) {
  const int lane = threadIdx.x % 32;
  unsigned v[4];
  for (int i = 0; i < 4; i++) {
    const unsigned low = __shfl_sync(~0u, row, i * 8 + lane % 4 * 2), high = __shfl_sync(~0u, row, i * 8 + lane % 4 * 2 + 1);
    v[i] = hopper_at<unsigned short>(low + lane / 4 * 2) | (unsigned)hopper_at<unsigned short>(high + lane / 4 * 2) << 16;
  }
  return make_uint4(v[0], v[1], v[2], v[3]);
}
#else
__device__ __forceinline__ int dozens_rank() {
  int rank;
  asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return rank;
}
__device__ __forceinline__ int dozens_ranks() {
  int ranks;
  asm volatile("mov.u32 %0, %%cluster_nctarank;" : "=r"(ranks));
  return ranks;
}
// Four matrices of 8 rows of 16 bytes: lane i gives the address of row i % 8 of matrix i / 8, and lane 4g + t gets word t
// of each one's row g; transposed, the 16-bit values g of rows 2t and 2t + 1.
__device__ __forceinline__ uint4 dozens_matrices(unsigned row) {
  uint4 v;
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "r"(row) : "memory");
  return v;
}
__device__ __forceinline__ uint4 dozens_transposed(unsigned row) {
  uint4 v;
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "r"(row) : "memory");
  return v;
}
#endif

// Rows of 16-byte pieces lie in shared memory with their pieces exchanged by the row's number, so that what a warp reads
// at once meets all banks: eight rows of the same piece, or, of 8-bit weights, four pieces of each row.
template <int STORAGE> constexpr bool DOZENS_IS_8_BIT = STORAGE == INT8;
template <int STORAGE> __device__ __forceinline__ int dozens_exchanged(int row, int piece) {
  return DOZENS_IS_8_BIT<STORAGE> ? piece ^ (row & 1) << 2 : piece ^ (row & 7);
}
template <int STORAGE> __device__ __forceinline__ int dozens_exchanged_x(int row, int piece) {
  return DOZENS_IS_8_BIT<STORAGE> ? piece ^ (row & 1) : piece ^ (row & 7);
}

// Columns first … first + width − 1 of x into shared memory, zeros behind column d, in rows of `width`.
template <int STORAGE> __device__ __forceinline__ void dozens_read_x(const experts_dozens_args &a, char *xs, int first, int width) {
  typedef typename experts_storage<STORAGE>::type T;
  constexpr int PER = 16 / sizeof(T), TYPE = sizeof(T) == 4 ? 0 : STORAGE == BFLOAT16 ? 1 : 2;
  const int lane = threadIdx.x % 32, across = width / PER;
  const bool whole = a.d % 8 == 0 && reinterpret_cast<size_t>(a.x) % 16 == 0;
  for (int r = threadIdx.x / 32; r < a.rows; r += EXPERTS_DOZENS_WARPS) {
    char *row = xs + (long long)r * width * (int)sizeof(T);
    if (whole && a.x_type == TYPE) {
      const T *from = static_cast<const T *>(a.x) + (long long)r * a.d;
#pragma unroll 1
      for (int p = lane; p < across; p += 32) {
        const int c = first + p * PER;
        hopper_copy16(hopper_address(row) + dozens_exchanged_x<STORAGE>(r, p) * 16, from + (c < a.d ? c : 0), c < a.d ? 16 : 0);
      }
    } else if (whole && a.x_type == 0 && PER == 8) {
      const float *from = static_cast<const float *>(a.x) + (long long)r * a.d;
#pragma unroll 4
      for (int p = lane; p < across; p += 32) {
        const int c = first + p * 8;
        float4 low = make_float4(0, 0, 0, 0), high = low;
        if (c < a.d) low = *reinterpret_cast<const float4 *>(from + c), high = *reinterpret_cast<const float4 *>(from + c + 4);
        __align__(16) T out[8] = {experts_round<T>(low.x),  experts_round<T>(low.y),  experts_round<T>(low.z),  experts_round<T>(low.w),
                                  experts_round<T>(high.x), experts_round<T>(high.y), experts_round<T>(high.z), experts_round<T>(high.w)};
        *reinterpret_cast<uint4 *>(row + dozens_exchanged_x<STORAGE>(r, p) * 16) = *reinterpret_cast<const uint4 *>(out);
      }
    } else {
#pragma unroll 1
      for (int c = lane; c < width; c += 32) {
        const float value = first + c < a.d ? experts_read(a.x, (long long)r * a.d + first + c, a.x_type) : 0.0f;
        reinterpret_cast<T *>(row + dozens_exchanged_x<STORAGE>(r, c / PER) * 16)[c % PER] = experts_round<T>(value);
      }
    }
  }
}
