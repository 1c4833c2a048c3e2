// Copies between strided layouts: slice, transpose, concat, tile, reverse, pad and what is made of
// them. Every kernel exists by element width; the host takes the widest that both layouts allow, so
// that a run of float32 moves by 16 bytes.
#include "common.cuh"
#include "layout.cuh"

#define MAX_RANK 6

// ---- strided copy -------------------------------------------------------------------------------

// Axes from the innermost outwards; strides in elements, negative for a reversed axis and 0 for a
// repeated one.
struct Axes {
  int rank;
  Divider size[MAX_RANK];
  int from[MAX_RANK], to[MAX_RANK];
};

struct WideAxes {
  long long rank;
  WideDivider size[MAX_RANK];
  long long from[MAX_RANK], to[MAX_RANK];
};

template <typename T, typename Layout, typename Index, typename Offset, int ITEMS>
__device__ void stridedCopy(const T* __restrict__ from, T* __restrict__ to, Index count,
                            const Layout& axes) {
  const unsigned long long tile = (unsigned long long)blockDim.x * ITEMS;
  for (unsigned long long start = blockIdx.x * tile; start < count; start += gridDim.x * tile) {
    T value[ITEMS];
    Offset target[ITEMS];
#pragma unroll
    for (int k = 0; k < ITEMS; ++k) {
      const unsigned long long i = start + k * blockDim.x + threadIdx.x;
      if (i < count) {
        Index rest = (Index)i;
        Offset source = 0;
        target[k] = 0;
#pragma unroll
        for (int axis = 0; axis < MAX_RANK; ++axis) {
          if (axis == axes.rank) break;
          const Index outer = axes.size[axis].quotient(rest);
          const Offset coordinate = (Offset)(rest - outer * axes.size[axis].divisor);
          source += coordinate * axes.from[axis];
          target[k] += coordinate * axes.to[axis];
          rest = outer;
        }
        value[k] = from[source];
      }
    }
#pragma unroll
    for (int k = 0; k < ITEMS; ++k) {
      if (start + k * blockDim.x + threadIdx.x < count) to[target[k]] = value[k];
    }
  }
}

// Enough items a thread to keep 16 bytes or more of each in flight.
#define STRIDED_COPY(WIDTH, ITEMS)                                                               \
  extern "C" __global__ void arrays_copy_##WIDTH(const Bytes##WIDTH* __restrict__ from,          \
                                                 Bytes##WIDTH* __restrict__ to, unsigned count,  \
                                                 Axes axes) {                                    \
    stridedCopy<Bytes##WIDTH, Axes, unsigned, int, ITEMS>(from, to, count, axes);                \
  }                                                                                              \
  extern "C" __global__ void arrays_copy_wide_##WIDTH(const Bytes##WIDTH* __restrict__ from,     \
                                                      Bytes##WIDTH* __restrict__ to,             \
                                                      long long count, WideAxes axes) {          \
    stridedCopy<Bytes##WIDTH, WideAxes, unsigned long long, long long, ITEMS>(from, to, count,   \
                                                                              axes);             \
  }

STRIDED_COPY(1, 4)
STRIDED_COPY(2, 4)
STRIDED_COPY(4, 4)
STRIDED_COPY(8, 2)
STRIDED_COPY(16, 2)

// ---- transposition through shared memory --------------------------------------------------------

// The source is contiguous along `rows` of the target's axes and the target along `columns`: tiles of
// 64 x 64 are read along the one and written along the other. The remaining axes number the tiles.
#define TILE 64
#define TILE_ROWS 4

struct Swap {
  int rows, columns;          // extents of the axis contiguous in the source, in the target
  int fromColumn, toRow;      // stride of the source along columns, of the target along rows
  Divider tileRows, tileColumns;
  Axes outer;
};

template <typename T>
__device__ void swapAxes(const T* __restrict__ from, T* __restrict__ to, const Swap& swap) {
  // Rows of an odd number of words: threads that walk down a column then meet different banks.
  __shared__ T tile[TILE][TILE + (sizeof(T) < 4 ? 4 / sizeof(T) : 1)];
  unsigned rest = blockIdx.x;
  unsigned next = swap.tileColumns.quotient(rest);
  const int column0 = (int)(rest - next * swap.tileColumns.divisor) * TILE;
  rest = next;
  next = swap.tileRows.quotient(rest);
  const int row0 = (int)(rest - next * swap.tileRows.divisor) * TILE;
  rest = next;
  long long source = 0, target = 0;
#pragma unroll
  for (int axis = 0; axis < MAX_RANK; ++axis) {
    if (axis == swap.outer.rank) break;
    const unsigned outer = swap.outer.size[axis].quotient(rest);
    const int coordinate = (int)(rest - outer * swap.outer.size[axis].divisor);
    source += (long long)coordinate * swap.outer.from[axis];
    target += (long long)coordinate * swap.outer.to[axis];
    rest = outer;
  }
  const int x = threadIdx.x, y = threadIdx.y;
  from += source + row0 + x;
  to += target + column0 + x;
  T value[TILE / TILE_ROWS];  // all loads of a thread are in flight before the first is stored
#pragma unroll
  for (int k = 0; k < TILE / TILE_ROWS; ++k) {
    const int column = column0 + y + k * TILE_ROWS;
    if (row0 + x < swap.rows && column < swap.columns)
      value[k] = from[(long long)column * swap.fromColumn];
  }
#pragma unroll
  for (int k = 0; k < TILE / TILE_ROWS; ++k) tile[y + k * TILE_ROWS][x] = value[k];
  __syncthreads();
#pragma unroll
  for (int k = 0; k < TILE; k += TILE_ROWS) {
    if (column0 + x < swap.columns && row0 + y + k < swap.rows)
      to[(long long)(row0 + y + k) * swap.toRow] = tile[x][y + k];
  }
}

#define SWAP_AXES(WIDTH)                                                                         \
  extern "C" __global__ void __launch_bounds__(TILE* TILE_ROWS)                                  \
      arrays_swap_##WIDTH(const Bytes##WIDTH* __restrict__ from, Bytes##WIDTH* __restrict__ to,  \
                          Swap swap) {                                                           \
    swapAxes<Bytes##WIDTH>(from, to, swap);                                                      \
  }

SWAP_AXES(1)
SWAP_AXES(2)
SWAP_AXES(4)
SWAP_AXES(8)

// ---- padding ------------------------------------------------------------------------------------

// Axes from the innermost outwards. A coordinate of the target minus `before` is one of the source
// where it is within its size.
struct Padding {
  int rank;
  Divider size[MAX_RANK];
  int before[MAX_RANK], inside[MAX_RANK], from[MAX_RANK];
};

template <typename T, int ITEMS>
__device__ void padConstant(const T* __restrict__ from, T* __restrict__ to, unsigned count, T constant,
                            const Padding& axes) {
  const unsigned long long step = (unsigned long long)blockDim.x * ITEMS;
  for (unsigned long long start = blockIdx.x * step; start < count; start += gridDim.x * step) {
    T value[ITEMS];
#pragma unroll
    for (int k = 0; k < ITEMS; ++k) {
      const unsigned long long i = start + k * blockDim.x + threadIdx.x;
      unsigned rest = (unsigned)i;
      int source = 0;
      bool inside = i < count;
#pragma unroll
      for (int axis = 0; axis < MAX_RANK; ++axis) {
        if (axis == axes.rank) break;
        const unsigned outer = axes.size[axis].quotient(rest);
        const int coordinate = (int)(rest - outer * axes.size[axis].divisor) - axes.before[axis];
        inside = inside && coordinate >= 0 && coordinate < axes.inside[axis];
        source += coordinate * axes.from[axis];
        rest = outer;
      }
      value[k] = constant;
      if (inside) value[k] = from[source];
    }
#pragma unroll
    for (int k = 0; k < ITEMS; ++k) {
      const unsigned long long i = start + k * blockDim.x + threadIdx.x;
      if (i < count) to[i] = value[k];
    }
  }
}

// `offset` 0 reflects about the edge elements, 1 repeats them (symmetric).
template <typename T, int ITEMS>
__device__ void padMirror(const T* __restrict__ from, T* __restrict__ to, unsigned count, int offset,
                          const Padding& axes) {
  const unsigned long long step = (unsigned long long)blockDim.x * ITEMS;
  for (unsigned long long start = blockIdx.x * step; start < count; start += gridDim.x * step) {
    T value[ITEMS];
#pragma unroll
    for (int k = 0; k < ITEMS; ++k) {
      const unsigned long long i = start + k * blockDim.x + threadIdx.x;
      if (i < count) {
        unsigned rest = (unsigned)i;
        int source = 0;
#pragma unroll
        for (int axis = 0; axis < MAX_RANK; ++axis) {
          if (axis == axes.rank) break;
          const unsigned outer = axes.size[axis].quotient(rest);
          int coordinate = (int)(rest - outer * axes.size[axis].divisor) - axes.before[axis];
          if (coordinate < 0)
            coordinate = -coordinate - offset;
          else if (coordinate >= axes.inside[axis])
            coordinate = 2 * (axes.inside[axis] - 1) - coordinate + offset;
          source += coordinate * axes.from[axis];
          rest = outer;
        }
        value[k] = from[source];
      }
    }
#pragma unroll
    for (int k = 0; k < ITEMS; ++k) {
      const unsigned long long i = start + k * blockDim.x + threadIdx.x;
      if (i < count) to[i] = value[k];
    }
  }
}

__device__ inline void repeatBits(unsigned bits, Bytes1& value) { value = (Bytes1)bits; }
__device__ inline void repeatBits(unsigned bits, Bytes4& value) { value = bits; }
__device__ inline void repeatBits(unsigned bits, Bytes16& value) {
  value.x = value.y = value.z = value.w = bits;
}

// `bits` is the constant's pattern, repeated to four bytes by the host where an element is one byte.
#define PAD(WIDTH, ITEMS)                                                                        \
  extern "C" __global__ void arrays_pad_##WIDTH(const Bytes##WIDTH* __restrict__ from,           \
                                                Bytes##WIDTH* __restrict__ to, unsigned count,   \
                                                unsigned bits, Padding axes) {                   \
    Bytes##WIDTH constant;                                                                       \
    repeatBits(bits, constant);                                                                  \
    padConstant<Bytes##WIDTH, ITEMS>(from, to, count, constant, axes);                           \
  }                                                                                              \
  extern "C" __global__ void arrays_mirror_##WIDTH(const Bytes##WIDTH* __restrict__ from,        \
                                                   Bytes##WIDTH* __restrict__ to,                \
                                                   unsigned count, int offset, Padding axes) {   \
    padMirror<Bytes##WIDTH, ITEMS>(from, to, count, offset, axes);                               \
  }

PAD(1, 4)
PAD(4, 4)
PAD(16, 2)
