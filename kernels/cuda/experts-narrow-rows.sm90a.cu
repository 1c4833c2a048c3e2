// What comes before a narrow layer's experts, in one launch: the router and its choice, or the bits of a choice that is
// there already; and where it pays, the order in which the experts take the rows: by what they run, the most first. Rows of
// a tile then have much in common, and no block begins with much work when others are done.
//
// A warp has 16 rows of the router's two products, whose weights lie in shared memory. Sums of the first stay in registers,
// rounded to 16 bits as the operand of the second. The order is a counting sort over keys of eight bits, a unit of neurons
// or two each; all blocks have room at once and wait for each other between counting and placing.
#include "counters.cuh"
#include "experts-narrow.cuh"
#include "experts-units.cuh"
#include "experts.cuh"
#include "hopper.cuh"

constexpr int EXPERTS_NARROW_THREADS = 256, EXPERTS_NARROW_KEYS = 256, EXPERTS_NARROW_WARPS = EXPERTS_NARROW_THREADS / 32;
// Pieces of 32 of a row of x; elements between rows in shared memory beyond their own, so that no two of four use a bank.
constexpr int EXPERTS_NARROW_PIECES = 8, EXPERTS_NARROW_PAD = 32;

// What one launch does. Blocks of it wait for one another; where they run one after the other it takes two.
enum { EXPERTS_NARROW_COUNT = 1, EXPERTS_NARROW_PLACE = 2 };

struct experts_narrow_rows_call {
  const void *x;                   // [rows, pitch]; null where there is a selection
  const void *hidden, *output;     // the router: [width, pitch], [experts, output_pitch]
  const unsigned char *selection;  // [rows, experts]
  int rows, pitch, width, output_pitch, rule;
  float value;
  experts_narrow_units units;
  unsigned *bits;      // [rows]: the experts that a row runs
  unsigned *codes;     // [rows]: a row's key, and its number among the block's rows of that key above
  unsigned *counts;    // [keys] rows; blocks that have counted; those that have read. Zeros before and after
  unsigned *offsets;   // [blocks, keys]: rows of that key in blocks that counted before
  int *list;           // the rows in their order, or null
  int stages;
};

// Where a key comes in the order: those of more bits first.
struct experts_narrow_places {
  unsigned char of[EXPERTS_NARROW_KEYS];
  constexpr experts_narrow_places() : of() {
    int place = 0;
    for (int bits = 8; bits >= 0; bits--) {
      for (int key = 0; key < EXPERTS_NARROW_KEYS; key++) {
        int own = 0;
        for (int i = 0; i < 8; i++) own += key >> i & 1;
        if (own == bits) of[key] = (unsigned char)place++;
      }
    }
  }
};
__constant__ constexpr experts_narrow_places EXPERTS_NARROW_PLACES;

// The experts that a row runs, from norms of any sign in the lanes of its group of four: lane t has experts 8j + 2t and
// the next as norms[2j], norms[2j + 1].
__device__ __forceinline__ unsigned experts_narrow_above(const float (&norms)[8], float value) {
  const int t = threadIdx.x % 4;
  float most = 0.0f;
#pragma unroll
  for (int i = 0; i < 8; i++) most = fmaxf(most, fabsf(norms[i]));
#pragma unroll
  for (int offset = 1; offset < 4; offset *= 2) most = fmaxf(most, __shfl_xor_sync(~0u, most, offset));
  const float bar = __fmul_rn(most, value);
  unsigned bits = 0;
#pragma unroll
  for (int i = 0; i < 8; i++) bits |= (unsigned)(fabsf(norms[i]) >= bar) << (i / 2 * 8 + 2 * t + i % 2);
#pragma unroll
  for (int offset = 1; offset < 4; offset *= 2) bits |= __shfl_xor_sync(~0u, bits, offset);
  // A row without a positive norm keeps its first expert.
  return value > 0 ? most > 0 ? bits : 1 : ~0u;
}

// The router's weights in shared memory, zeros where there are none.
template <typename T> struct experts_narrow_router {
  T *hidden, *output;
  int pitch, width, output_pitch;  // of rows of `hidden`; a multiple of 16; of rows of `output`
  __device__ __forceinline__ experts_narrow_router(const experts_narrow_rows_call &call, T *shared)
      : hidden(shared), pitch((call.pitch + 63) / 64 * 64 + EXPERTS_NARROW_PAD), width((call.width + 15) / 16 * 16), output_pitch(width + 8) {
    output = hidden + width * pitch;
  }
  __device__ __forceinline__ void load(const experts_narrow_rows_call &call) const {
    auto copy = [&](T *to, int to_rows, int to_pitch, const void *from, int rows, int from_pitch) {
      for (int i = threadIdx.x; i < to_rows * (to_pitch / 8); i += EXPERTS_NARROW_THREADS) {
        const int row = i / (to_pitch / 8), column = i % (to_pitch / 8) * 8;
        const bool there = row < rows && column < from_pitch;
        reinterpret_cast<uint4 *>(to)[i] = there ? *reinterpret_cast<const uint4 *>(static_cast<const T *>(from) + row * from_pitch + column) : make_uint4(0, 0, 0, 0);
      }
    };
    copy(hidden, width, pitch, call.hidden, call.width, call.pitch);
    copy(output, EXPERTS_NARROW_EXPERTS, output_pitch, call.output, call.units.experts, call.output_pitch);
  }
};

// What a lane has of the warp's rows row0 + g and row0 + g + 8.
struct experts_narrow_pieces {
  uint4 pieces[2][EXPERTS_NARROW_PIECES];
  template <typename T> __device__ __forceinline__ void load(const experts_narrow_rows_call &call, int row0) {
    const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const T *from = static_cast<const T *>(call.x) + (long long)min(call.rows - 1, row0 + g + 8 * half) * call.pitch;
#pragma unroll
      for (int piece = 0; piece < EXPERTS_NARROW_PIECES; piece++) {
        const int column = piece * 32 + 8 * t;
        pieces[half][piece] = column < call.pitch ? *reinterpret_cast<const uint4 *>(from + column) : make_uint4(0, 0, 0, 0);
      }
    }
  }
};

// The norms, but for their signs, of those rows, as experts_narrow_above has them.
template <typename T>
__device__ __forceinline__ void experts_narrow_norms(const experts_narrow_rows_call &call, const experts_narrow_router<T> &router, const experts_narrow_pieces &x, float (&norms)[2][8]) {
  constexpr int STORAGE = std::is_same<T, bf16>::value ? BFLOAT16 : HALF;
  const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4, pieces = (call.pitch + 31) / 32;
  float sums[4][4] = {};
  for (int k = 0; k < router.width; k += 16) {
    float hidden[2][4] = {};
#pragma unroll
    for (int piece = 0; piece < EXPERTS_NARROW_PIECES; piece++) {
      if (piece >= pieces) break;
#pragma unroll
      for (int j = 0; j < 2; j++)
        experts_multiply<STORAGE>(hidden[j], x.pieces[0][piece], x.pieces[1][piece], hopper_shared_load16(hopper_address(router.hidden + (k + 8 * j + g) * router.pitch + piece * 32 + 8 * t)));
    }
    unsigned a[2][2];
#pragma unroll
    for (int j = 0; j < 2; j++) {
#pragma unroll
      for (int half = 0; half < 2; half++) a[j][half] = hopper_pack_relu<T>(hidden[j][2 * half], hidden[j][2 * half + 1]);
    }
#pragma unroll
    for (int j = 0; j < EXPERTS_NARROW_EXPERTS / 8; j++) {
      if (8 * j >= call.units.experts) break;
      const T *from = router.output + (8 * j + g) * router.output_pitch + k + 2 * t;
      experts_mma<STORAGE>(sums[j], a[0][0], a[0][1], a[1][0], a[1][1], *reinterpret_cast<const unsigned *>(from), *reinterpret_cast<const unsigned *>(from + 8));
    }
  }
#pragma unroll
  for (int half = 0; half < 2; half++) {
#pragma unroll
    for (int i = 0; i < 8; i++) norms[half][i] = sums[i / 2][2 * half + i % 2];
  }
}

template <typename T> __device__ __forceinline__ void experts_narrow_order(const experts_narrow_rows_call &call) {
  DYNAMIC_SHARED(unsigned char, shared);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, t = lane % 4;
  unsigned *histogram = reinterpret_cast<unsigned *>(shared);
  int *begins = reinterpret_cast<int *>(histogram + EXPERTS_NARROW_KEYS);
  int *sums = begins + EXPERTS_NARROW_KEYS;  // of a warp each
  unsigned *unit_experts = reinterpret_cast<unsigned *>(sums + EXPERTS_NARROW_WARPS);
  float *own = reinterpret_cast<float *>(unit_experts + EXPERTS_NARROW_UNITS) + warp * (EXPERTS_NARROW_EXPERTS + 4);
  const experts_narrow_router<T> router(call, reinterpret_cast<T *>(own - warp * (EXPERTS_NARROW_EXPERTS + 4) + EXPERTS_NARROW_WARPS * (EXPERTS_NARROW_EXPERTS + 4)));
  const int per_block = ((call.rows + (int)gridDim.x - 1) / (int)gridDim.x + 15) / 16 * 16, begin = blockIdx.x * per_block, end = min(call.rows, begin + per_block);
  const int experts = call.units.experts, units = call.units.count();
  const bool is_ordered = call.list != nullptr;

  hopper_launch_next();
  histogram[threadIdx.x] = 0;
  if (threadIdx.x < EXPERTS_NARROW_UNITS) unit_experts[threadIdx.x] = threadIdx.x < units ? call.units.experts_of(threadIdx.x) : 0;
  const int place = EXPERTS_NARROW_PLACES.of[threadIdx.x];
  hopper_wait_launch();
  const int first = begin + warp * 16;
  experts_narrow_pieces x;
  if (call.stages & EXPERTS_NARROW_COUNT && call.x) {
    // Its first rows come while the router does.
    x.load<T>(call, first);
    router.load(call);
  }
  __syncthreads();

  // By the first of a row's four lanes.
  auto put = [&](int row, unsigned bits) {
    if (row >= end) return;
    call.bits[row] = bits;
    if (!is_ordered) return;
    unsigned key = 0;
    for (int unit = 0; unit < units; unit++) key |= (unsigned)((bits & unit_experts[unit]) != 0) << (units > 8 ? unit / 2 : unit);
    call.codes[row] = key | atomicAdd(histogram + key, 1u) << 8;
  };
  if (call.stages & EXPERTS_NARROW_COUNT) {
    if (call.x) {
      for (int row0 = first; row0 < end; row0 += EXPERTS_NARROW_WARPS * 16) {
        float norms[2][8];
        if (row0 > first) x.load<T>(call, row0);
        experts_narrow_norms<T>(call, router, x, norms);
#pragma unroll
        for (int half = 0; half < 2; half++) {
          unsigned bits = 0;
          if (call.rule == 0) {
            bits = experts_narrow_above(norms[half], call.value) & ~0u >> (32 - experts);
          } else {
            // A row at a time, through shared memory.
            for (int row = 0; row < 8; row++) {
              if (g == row) {
#pragma unroll
                for (int i = 0; i < 8; i++) own[i / 2 * 8 + 2 * t + i % 2] = fabsf(norms[half][i]);
              }
              __syncwarp();
              experts_select_row(own, experts, call.rule, call.value, reinterpret_cast<unsigned *>(own + EXPERTS_NARROW_EXPERTS));
              __syncwarp();
              if (g == row) bits = reinterpret_cast<const unsigned *>(own + EXPERTS_NARROW_EXPERTS)[0];
              __syncwarp();
            }
          }
          if (t == 0) put(row0 + g + 8 * half, bits);
        }
      }
    } else {
      for (int row = begin + threadIdx.x; row < end; row += EXPERTS_NARROW_THREADS) put(row, experts_selected(call.selection, row, experts, 0));
    }
  }
  if (!is_ordered) return;

  unsigned *counted = call.counts + EXPERTS_NARROW_KEYS, *read = counted + 1;
  unsigned *offset = call.offsets + blockIdx.x * EXPERTS_NARROW_KEYS + threadIdx.x;
  __syncthreads();
  if (call.stages & EXPERTS_NARROW_COUNT) {
    const unsigned rows = histogram[threadIdx.x];
    *offset = rows > 0 ? atomicAdd(call.counts + threadIdx.x, rows) : 0;
    __syncthreads();
    if (threadIdx.x == 0) counter_release(counted, 1);
  }
  if (!(call.stages & EXPERTS_NARROW_PLACE)) return;
  if (threadIdx.x == 0) counter_wait(counted, gridDim.x);
  __syncthreads();
  const unsigned rows = __ldcg(call.counts + threadIdx.x);
  // All have read before the last one leaves zeros.
  __syncthreads();
  unsigned others = 0;
  if (threadIdx.x == 0) {
    __threadfence();
    others = counter_add(read, 1);
    __threadfence();
  }
  histogram[place] = rows;
  __syncthreads();
  const int mine = (int)histogram[threadIdx.x], upto = warp_sum_upto(mine);
  if (lane == 31) sums[warp] = upto;
  __syncthreads();
  int before = upto - mine;
  for (int w = 0; w < warp; w++) before += sums[w];
  __syncthreads();
  histogram[threadIdx.x] = before;
  __syncthreads();
  begins[threadIdx.x] = (int)(histogram[place] + *offset);
  __syncthreads();
  for (int row = begin + threadIdx.x; row < end; row += EXPERTS_NARROW_THREADS) {
    const unsigned code = call.codes[row];
    call.list[begins[code & 255] + (code >> 8)] = row;
  }
  if (threadIdx.x == 0) sums[0] = others == gridDim.x - 1;
  __syncthreads();
  if (!sums[0]) return;
  call.counts[threadIdx.x] = 0;
  if (threadIdx.x < 2) counted[threadIdx.x] = 0;
}

#define EXPERTS_NARROW_ROWS(NAME, T)                                                                                       \
  extern "C" __global__ void __launch_bounds__(EXPERTS_NARROW_THREADS, 2)                                                  \
      NAME(const void *x, const void *hidden, const void *output, const unsigned char *selection, int rows, int pitch,     \
           int width, int output_pitch, int rule, float value, int experts, int size, unsigned *bits, unsigned *codes,     \
           unsigned *counts, unsigned *offsets, int *list, int stages) {                                                   \
    experts_narrow_order<T>({x, hidden, output, selection, rows, pitch, width, output_pitch, rule, value, {experts, size}, \
                             bits, codes, counts, offsets, list, stages});                                                 \
  }
EXPERTS_NARROW_ROWS(experts_narrow_rows_bf16, bf16)
EXPERTS_NARROW_ROWS(experts_narrow_rows_f16, __half)
