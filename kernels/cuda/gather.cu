// Elements and rows picked by indices that live on the device. An index out of range gives zeros.
#include "common.cuh"
#include "layout.cuh"

__device__ inline void clear(Bytes1& value) { value = 0; }
__device__ inline void clear(Bytes2& value) { value = 0; }
__device__ inline void clear(Bytes4& value) { value = 0; }
__device__ inline void clear(Bytes8& value) { value.x = value.y = 0; }
__device__ inline void clear(Bytes16& value) { value.x = value.y = value.z = value.w = 0; }

// out[b, o, i, s] = x[b, o, indices[b, i], s], flattened as [batch, outer, picks or axis, slice].
struct Picks {
  Divider slice, picks, outer;
  int axis;
};

struct WidePicks {
  WideDivider slice, picks, outer;
  long long axis;
};

template <typename T, typename Sizes, typename Index, int ITEMS>
__device__ void gatherRows(const T* __restrict__ x, const int* __restrict__ indices,
                           T* __restrict__ out, Index count, const Sizes& sizes) {
  const unsigned long long tile = (unsigned long long)blockDim.x * ITEMS;
  for (unsigned long long start = blockIdx.x * tile; start < count; start += gridDim.x * tile) {
    T value[ITEMS];
#pragma unroll
    for (int k = 0; k < ITEMS; ++k) {
      const unsigned long long at = start + k * blockDim.x + threadIdx.x;
      clear(value[k]);
      if (at < count) {
        const Index row = sizes.slice.quotient((Index)at);
        const Index s = (Index)at - row * sizes.slice.divisor;
        const Index block = sizes.picks.quotient(row);
        const Index i = row - block * sizes.picks.divisor;
        const Index batch = sizes.outer.quotient(block);
        const int index = indices[batch * sizes.picks.divisor + i];
        if (index >= 0 && index < sizes.axis)
          value[k] = x[((unsigned long long)block * sizes.axis + index) * sizes.slice.divisor + s];
      }
    }
#pragma unroll
    for (int k = 0; k < ITEMS; ++k) {
      const unsigned long long at = start + k * blockDim.x + threadIdx.x;
      if (at < count) out[at] = value[k];
    }
  }
}

#define GATHER_ROWS(WIDTH, ITEMS)                                                                \
  extern "C" __global__ void gather_rows_##WIDTH(const Bytes##WIDTH* __restrict__ x,             \
                                                 const int* __restrict__ indices,                \
                                                 Bytes##WIDTH* __restrict__ out, unsigned count, \
                                                 Picks sizes) {                                  \
    gatherRows<Bytes##WIDTH, Picks, unsigned, ITEMS>(x, indices, out, count, sizes);             \
  }                                                                                              \
  extern "C" __global__ void gather_rows_wide_##WIDTH(const Bytes##WIDTH* __restrict__ x,        \
                                                      const int* __restrict__ indices,           \
                                                      Bytes##WIDTH* __restrict__ out,            \
                                                      long long count, WidePicks sizes) {        \
    gatherRows<Bytes##WIDTH, WidePicks, unsigned long long, ITEMS>(x, indices, out, count,       \
                                                                   sizes);                       \
  }

GATHER_ROWS(1, 4)
GATHER_ROWS(2, 4)
GATHER_ROWS(4, 4)
GATHER_ROWS(8, 2)
GATHER_ROWS(16, 2)

// out[i, s] = x[sum over j of indices[i, j] * stride[j], s], flattened as [rows, slice].
#define MAX_DEPTH 6

struct Address {
  int depth;
  int stride[MAX_DEPTH];
};

template <typename T>
__device__ void gatherNd(const T* __restrict__ x, const int* __restrict__ indices, T* __restrict__ out,
                         long long count, long long slice, long long rows, const Address& address) {
  for (long long at = blockIdx.x * (long long)blockDim.x + threadIdx.x; at < count;
       at += (long long)gridDim.x * blockDim.x) {
    const long long i = at / slice;
    long long row = 0;
#pragma unroll
    for (int j = 0; j < MAX_DEPTH; ++j)
      if (j < address.depth) row += (long long)indices[i * address.depth + j] * address.stride[j];
    T value;
    clear(value);
    if (row >= 0 && row < rows) value = x[row * slice + (at - i * slice)];
    out[at] = value;
  }
}

#define GATHER_ND(WIDTH)                                                                         \
  extern "C" __global__ void gather_nd_##WIDTH(                                                  \
      const Bytes##WIDTH* __restrict__ x, const int* __restrict__ indices,                       \
      Bytes##WIDTH* __restrict__ out, long long count, long long slice, long long rows,          \
      Address address) {                                                                         \
    gatherNd<Bytes##WIDTH>(x, indices, out, count, slice, rows, address);                        \
  }

GATHER_ND(1)
GATHER_ND(4)
GATHER_ND(16)

// out[i, d] = indices[i] == d ? on : off, as bit patterns.
#define ONE_HOT(WIDTH)                                                                           \
  extern "C" __global__ void gather_one_hot_##WIDTH(const int* __restrict__ indices,             \
                                                    Bytes##WIDTH* __restrict__ out,              \
                                                    long long count, int depth, unsigned on,     \
                                                    unsigned off) {                              \
    for (long long at = blockIdx.x * (long long)blockDim.x + threadIdx.x; at < count;            \
         at += (long long)gridDim.x * blockDim.x) {                                              \
      const long long i = at / depth;                                                            \
      out[at] = (Bytes##WIDTH)(indices[i] == (int)(at - i * depth) ? on : off);                  \
    }                                                                                            \
  }

ONE_HOT(1)
ONE_HOT(4)
