// The expert op for some hundred rows on Hopper (sm_90a), where rows run most of the experts, or experts are so small that
// they run some of every tile's: a dense layer in two launches that zeroes what a row does not run.
//
// So few rows do not fill the card with tiles: a tile is all rows (up to 256) by 64 neurons or columns, and the sum is cut
// into SPLIT parts, the blocks of a cluster. Each part's operands arrive through the copy engine in steps 64 deep, four
// of them under way; then the blocks exchange sums through distributed shared memory, each for 64 / SPLIT columns, adding
// up the parts in their order: equal calls give equal bits. The second launch may begin before the first is over: it then
// has its weights when the activations come.
//
// The emulator has no clusters: there a block works out all parts of the sum itself.
#include "experts-hundreds.cuh"
#include "hopper-results.cuh"

constexpr int EXPERTS_HUNDREDS_SLOTS = 4, EXPERTS_HUNDREDS_SLOT = 5 * 8192;  // 64 lines of weights, 256 rows
constexpr int EXPERTS_HUNDREDS_MASKED_SHARED = 1024 + EXPERTS_HUNDREDS_SLOTS * EXPERTS_HUNDREDS_SLOT + 65536 + 1024 + 128;

struct experts_hundreds_product {
  const hopper_map *weights, *rows_map;
  const float *bias;
  const unsigned char *selection;
  void *out;                      // [rows, lines]
  int rows, tile_rows, k, lines;  // rows: of all tiles; lines: neurons of up, columns of down
  int experts, size, activation, out32;
};

// blockIdx.x: part of the sum, then lines; blockIdx.y: rows. A warpgroup for each 64 rows, and one that copies.
template <typename T, bool UP, int SPLIT> __device__ __forceinline__ void experts_hundreds_masked(const experts_hundreds_product &call) {
  DYNAMIC_SHARED(unsigned char, shared);
  constexpr int GROUPS = 8 / SPLIT;  // of eight columns, that a block adds up
  const int warpgroup = threadIdx.x / 128, warpgroups = blockDim.x / 128 - 1, warp = threadIdx.x / 32 % 4, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  const int part = blockIdx.x % SPLIT, line0 = blockIdx.x / SPLIT * 64, row0 = blockIdx.y * call.tile_rows, rows = min(call.tile_rows, call.rows - row0);
  const int column0 = part * GROUPS * 8;  // of what this block adds up, in the tile
  const unsigned ring_base = (hopper_address(shared) + 1023) / 1024 * 1024;
  unsigned char *base = shared + (ring_base - hopper_address(shared));
  float4 *exchanged = reinterpret_cast<float4 *>(base + EXPERTS_HUNDREDS_SLOTS * EXPERTS_HUNDREDS_SLOT);  // [parts][GROUPS][512]
  unsigned *masks = reinterpret_cast<unsigned *>(exchanged + 4096);                                      // of a row's columns
  hopper_ring<EXPERTS_HUNDREDS_SLOTS> ring{hopper_address(masks + 256)};
  const int all_steps = (call.k + 63) / 64;
#ifdef D2DMOE_EMULATED
  const int first_step = 0, steps = all_steps;
#else
  const int per_part = (all_steps + SPLIT - 1) / SPLIT, first_step = part * per_part, steps = max(0, min(per_part, all_steps - first_step));
#endif
  if (UP) hopper_launch_next();
  hopper_cluster_arrive_relaxed();
  if (threadIdx.x == 0) {
    ring.init(1, warpgroups * 4);
    hopper_init_done();
  }
  __syncthreads();

  float sum[32];
#pragma unroll
  for (int i = 0; i < 32; i++) sum[i] = 0.0f;
  if (warpgroup == warpgroups) {
    if (threadIdx.x % 128 == 0) {
      auto weights = [&](int step, unsigned slot, unsigned barrier) {
        hopper_expect(barrier, 8192 * (1 + warpgroups));
        const int k = (first_step + step) * 64;
        hopper_copy_box(ring_base + slot * EXPERTS_HUNDREDS_SLOT, call.weights, barrier, UP ? k : line0, UP ? line0 : k);
      };
      auto gather = [&](int step, unsigned slot, unsigned barrier) {
        hopper_copy_box(ring_base + slot * EXPERTS_HUNDREDS_SLOT + 8192, call.rows_map, barrier, (first_step + step) * 64, row0);
      };
      const int ahead = min(steps, EXPERTS_HUNDREDS_SLOTS);
      for (int step = 0; step < ahead; step++) weights(step, step, ring.barriers + step * 8);
      hopper_wait_launch();
      for (int step = 0; step < ahead; step++) gather(step, step, ring.barriers + step * 8);
      for (int step = ahead; step < steps; step++) {
        hopper_wait(ring.empty(), ring.phase);
        weights(step, ring.slot, ring.full()), gather(step, ring.slot, ring.full());
        ring.next();
      }
    }
  } else {
    // Which of the columns that this block adds up each row runs.
    if (UP) {
      hopper_wait_launch();
      for (int row = threadIdx.x; row < rows; row += warpgroups * 128) {
        unsigned mask = 0;
        for (int c = 0; c < GROUPS * 8;) {
          const int neuron = line0 + column0 + c, expert = neuron / call.size, next = min(GROUPS * 8, (expert + 1) * call.size - line0 - column0);
          if (expert < call.experts && call.selection[(long long)(row0 + row) * call.experts + expert]) mask |= (~0u >> (32 - (next - c))) << c;
          c = next;
        }
        masks[row] = mask;
      }
    }
    for (int step = 0; step < steps; step++) {
      hopper_wait(ring.full(), ring.phase);
      const unsigned slot = ring_base + ring.slot * EXPERTS_HUNDREDS_SLOT;
      const unsigned long long left = hopper_descriptor(slot + 8192 + warpgroup * 8192, 0), right = hopper_descriptor(slot, 8192);
      hopper_wgmma_fence();
#pragma unroll
      for (int s = 0; s < 4; s++) hopper_wgmma<T, 0, UP ? 0 : 1>(sum, left + s * 2, right + s * (UP ? 2 : 128), 1);
      hopper_wgmma_commit();
      hopper_wgmma_wait<0>();
      hopper_settled(sum);
      if (lane == 0) hopper_arrive(ring.empty());
      ring.next();
    }
  }

  // To each block its columns; it has its own already.
#ifndef D2DMOE_EMULATED
  hopper_cluster_wait();
  if (warpgroup < warpgroups) {
    const unsigned to = hopper_address(exchanged + part * GROUPS * 512 + threadIdx.x);
#pragma unroll
    for (int j = 0; j < 8; j++)
      if (j / GROUPS != part) hopper_cluster_store(to + j % GROUPS * 512 * 16, j / GROUPS, make_float4(sum[4 * j], sum[4 * j + 1], sum[4 * j + 2], sum[4 * j + 3]));
  }
  hopper_cluster_arrive();
  hopper_cluster_wait();
#else
  __syncthreads();
#endif
  if (warpgroup == warpgroups) return;
  float mine[GROUPS][4];
#pragma unroll
  for (int j = 0; j < GROUPS; j++) mine[j][0] = mine[j][1] = mine[j][2] = mine[j][3] = 0.0f;
#pragma unroll
  for (int p = 0; p < SPLIT; p++) {
#ifdef D2DMOE_EMULATED
    if (p != part) continue;
#endif
#pragma unroll
    for (int j = 0; j < GROUPS; j++) {
      float4 v = make_float4(sum[4 * (p * GROUPS + j)], sum[4 * (p * GROUPS + j) + 1], sum[4 * (p * GROUPS + j) + 2], sum[4 * (p * GROUPS + j) + 3]);
      if (p != part) v = exchanged[(p * GROUPS + j) * 512 + threadIdx.x];
      mine[j][0] += v.x, mine[j][1] += v.y, mine[j][2] += v.z, mine[j][3] += v.w;
    }
  }
  const experts_logistic logistic(call.activation);
  auto activate = [&](float v) { return call.activation == 0 ? fmaxf(v, 0.0f) : call.activation == 1 ? experts_gelu(v) : logistic(v); };
  float bias[GROUPS][2];
#pragma unroll
  for (int j = 0; j < GROUPS; j++) {
#pragma unroll
    for (int e = 0; e < 2; e++) {
      const int line = line0 + column0 + 8 * j + 2 * t + e;
      bias[j][e] = call.bias && line < call.lines ? call.bias[line] : 0.0f;
    }
  }
#pragma unroll
  for (int half = 0; half < 2; half++) {
    const int row = warpgroup * 64 + warp * 16 + 8 * half + g;
    const long long at = (long long)(row0 + row) * call.lines + line0 + column0;
    if (UP) {
      const unsigned mask = row < rows ? masks[row] : 0;
      unsigned w[4];
#pragma unroll
      for (int j = 0; j < GROUPS; j++) {
        float v[2];
#pragma unroll
        for (int e = 0; e < 2; e++) v[e] = mask >> (8 * j + 2 * t + e) & 1 ? activate(mine[j][2 * half + e] + bias[j][e]) : 0.0f;
        w[j] = hopper_pack<T>(v[0], v[1]);
      }
      hopper_exchange(w, t);
      if (row < rows && line0 + column0 + 8 * t < call.lines) *reinterpret_cast<uint4 *>(static_cast<T *>(call.out) + at + 8 * t) = make_uint4(w[0], w[1], w[2], w[3]);
    } else {
#pragma unroll
      for (int j = 0; j < GROUPS; j++) {
        const int column = 8 * j + 2 * t;
        if (row >= rows || line0 + column0 + column >= call.lines) continue;
        const float low = mine[j][2 * half] + bias[j][0], high = mine[j][2 * half + 1] + bias[j][1];
        if (call.out32) *reinterpret_cast<float2 *>(static_cast<float *>(call.out) + at + column) = make_float2(low, high);
        else *reinterpret_cast<unsigned *>(static_cast<T *>(call.out) + at + column) = hopper_pack<T>(low, high);
      }
    }
  }
}

#define EXPERTS_HUNDREDS_MASKED(NAME, T, UP, SPLIT)                                                                      \
  extern "C" __global__ void __cluster_dims__(SPLIT, 1, 1) __launch_bounds__(640, 1)                                     \
      NAME(const __grid_constant__ hopper_map weights, const __grid_constant__ hopper_map rows_map, const float *bias,   \
           const unsigned char *selection, void *out, int rows, int tile_rows, int k, int lines, int experts, int size,  \
           int activation, int out32) {                                                                                  \
    experts_hundreds_masked<T, UP, SPLIT>({&weights, &rows_map, bias, selection, out, rows, tile_rows, k, lines,         \
                                           experts, size, activation, out32});                                           \
  }
EXPERTS_HUNDREDS_MASKED(experts_hundreds_masked_up_bf16, bf16, true, 2)
EXPERTS_HUNDREDS_MASKED(experts_hundreds_masked_up_f16, __half, true, 2)
EXPERTS_HUNDREDS_MASKED(experts_hundreds_masked_down_bf16, bf16, false, 8)
EXPERTS_HUNDREDS_MASKED(experts_hundreds_masked_down_f16, __half, false, 8)
