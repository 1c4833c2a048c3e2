// The expert op for some hundred rows on Hopper (sm_90a), where what counts is how few steps follow one another: one
// launch does it all.
//
// A unit of 128 neurons is four blocks' work. First each takes 32 of its neurons: it looks up which rows run the unit,
// gathers them (16-byte copies into a ring of four slots, 64 deep) and multiplies; activations go to memory, 256 bytes a
// row. When the unit's four blocks are done, each takes a quarter of the output's columns: rows' activations times the
// unit's down rows, kept apart by unit, in 16 bits. Whoever completes a row's columns, by a counter for each row and
// quarter, adds up the row's units in their order: equal calls give equal bits. Weights do not depend on any of this:
// those of a block's first item are under way from the start.
//
// Blocks wait for each other, so all of them must be resident: no more than multiprocessors. Where blocks run one after
// the other, `stages` splits the launch in two.
#include "experts-units.cuh"
#include "hopper-activations.cuh"
#include "hopper-results.cuh"
#include "hopper.cuh"

constexpr int EXPERTS_HUNDREDS_THREADS = 256, EXPERTS_HUNDREDS_SLOTS = 4, EXPERTS_HUNDREDS_SLOT = 16384;
constexpr int EXPERTS_HUNDREDS_ROWS = 1024;  // most rows
constexpr int EXPERTS_HUNDREDS_SLICES = 4;   // of a unit's neurons, and of the output's columns
enum { EXPERTS_HUNDREDS_HIDDEN = 1, EXPERTS_HUNDREDS_OUT = 2 };

template <int PENDING> __device__ __forceinline__ void experts_wait_copies() {
#ifndef D2DMOE_EMULATED
  asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
#endif
}
__device__ __forceinline__ void experts_commit_copies() {
#ifndef D2DMOE_EMULATED
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}
// Until a counter that other blocks raise is there; what they wrote before is then visible.
__device__ __forceinline__ void experts_wait_counter(const int *counter, int target) {
#ifdef D2DMOE_EMULATED
  if (*counter < target) emulator::trap();
#else
  int now;
  do {
    asm volatile("ld.acquire.gpu.global.s32 %0, [%1];" : "=r"(now) : "l"(counter) : "memory");
  } while (now < target);
#endif
}

struct experts_hundreds_call {
  const hopper_map *up, *down;
  const void *x;
  const unsigned char *selection;  // [rows, experts]
  const float *up_bias, *down_bias;
  void *hidden;   // [units, rows, 128]
  void *partial;  // [units, rows, d_out]
  void *out;
  int *counters;  // zeros: of each unit, of each row and quarter
  int rows, d, pitch, d_out, quarter;  // quarter: columns, a multiple of 64
  experts_units units;
  int activation, out32, stages;

  __device__ __forceinline__ bool runs(int row, int unit) const {
    const unsigned char *s = selection + (long long)row * units.experts + units.first_expert(unit);
    const int count = min(units.per_unit, units.experts - units.first_expert(unit));
    bool any = false;
    for (int i = 0; i < count; i++) any |= s[i] != 0;
    return any;
  }
  __device__ __forceinline__ int units_of(int row) const {
    int count = 0;
    for (int unit = 0; unit < units.count(); unit++) count += runs(row, unit);
    return count;
  }
};

// bias + the row's units, for one lane's eight columns, in order.
template <typename T>
__device__ __forceinline__ void experts_hundreds_sum(const experts_hundreds_call &call, int row, int column0) {
  const int lane = threadIdx.x % 32, column = column0 + lane * 8, count = call.units.count();
  const bool mine = lane * 8 < call.quarter && column < call.d_out;
  float sums[8];
#pragma unroll
  for (int e = 0; e < 8; e++) sums[e] = mine && call.down_bias ? call.down_bias[column + e] : 0.0f;
  for (int first = 0; first < count; first += 32) {
    unsigned chosen = __ballot_sync(0xffffffffu, first + lane < count && call.runs(row, first + lane));
    while (chosen != 0) {
      uint4 parts[4];
      int n = 0;
#pragma unroll
      for (int i = 0; i < 4; i++) {
        if (chosen == 0) continue;
        const long long unit = first + __ffs(chosen) - 1;
        chosen &= chosen - 1;
        if (mine) parts[i] = *reinterpret_cast<const uint4 *>(static_cast<const T *>(call.partial) + (unit * call.rows + row) * call.d_out + column);
        n = i + 1;
      }
#pragma unroll
      for (int i = 0; i < 4; i++) {
        if (i >= n || !mine) continue;
        const T *v = reinterpret_cast<const T *>(&parts[i]);
#pragma unroll
        for (int e = 0; e < 8; e++) sums[e] += to_float(v[e]);
      }
    }
  }
  if (!mine) return;
  const long long at = (long long)row * call.d_out + column;
  if (call.out32) {
    float4 *to = reinterpret_cast<float4 *>(static_cast<float *>(call.out) + at);
    to[0] = make_float4(sums[0], sums[1], sums[2], sums[3]), to[1] = make_float4(sums[4], sums[5], sums[6], sums[7]);
  } else {
    uint4 v;
    v.x = hopper_pack<T>(sums[0], sums[1]), v.y = hopper_pack<T>(sums[2], sums[3]);
    v.z = hopper_pack<T>(sums[4], sums[5]), v.w = hopper_pack<T>(sums[6], sums[7]);
    *reinterpret_cast<uint4 *>(static_cast<T *>(call.out) + at) = v;
  }
}

// Shared memory: up (32 neurons, 4 KB for 64 deep), down (128 neurons by a quarter of the columns, boxes of 64 by 64 in
// 8 KB), the ring, then barriers, the list of the unit's rows, rows to add up, counts.
template <typename T> __device__ __forceinline__ void experts_hundreds(const experts_hundreds_call &call) {
  DYNAMIC_SHARED(unsigned char, shared);
  const int steps = (call.d + 63) / 64, boxes = call.quarter / 64;
  const unsigned up_base = (hopper_address(shared) + 1023) / 1024 * 1024, down_base = up_base + steps * 4096;
  const unsigned ring = down_base + boxes * 16384, up_barrier = ring + EXPERTS_HUNDREDS_SLOTS * EXPERTS_HUNDREDS_SLOT, down_barrier = up_barrier + 8;
  unsigned short *list = reinterpret_cast<unsigned short *>(shared + (up_barrier - hopper_address(shared)) + 16), *complete = list + EXPERTS_HUNDREDS_ROWS;
  int *counts = reinterpret_cast<int *>(complete + EXPERTS_HUNDREDS_ROWS);  // by warp; [8]: rows to add up
  const int warpgroup = threadIdx.x / 128, warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  const experts_units &units = call.units;
  const int items = units.count() * EXPERTS_HUNDREDS_SLICES;
  int *unit_counters = call.counters, *row_counters = call.counters + units.count();

  if (threadIdx.x == 0) {
    hopper_init(up_barrier, 1), hopper_init(down_barrier, 1);
    hopper_init_done();
  }
  __syncthreads();
  auto fetch_up = [&](int item) {
    hopper_expect(up_barrier, steps * 4096);
    const int neuron = units.first_neuron(item / EXPERTS_HUNDREDS_SLICES) + item % EXPERTS_HUNDREDS_SLICES * 32;
    for (int step = 0; step < steps; step++) hopper_copy_box(up_base + step * 4096, call.up, up_barrier, step * 64, neuron);
  };
  auto fetch_down = [&](int item) {
    hopper_expect(down_barrier, boxes * 16384);
    const int neuron = units.first_neuron(item / EXPERTS_HUNDREDS_SLICES), column = item % EXPERTS_HUNDREDS_SLICES * call.quarter;
    for (int box = 0; box < boxes; box++) {
      hopper_copy_box(down_base + box * 16384, call.down, down_barrier, column + box * 64, neuron);
      hopper_copy_box(down_base + box * 16384 + 8192, call.down, down_barrier, column + box * 64, neuron + 64);
    }
  };
  if (threadIdx.x == 0 && (int)blockIdx.x < items) {
    if (call.stages & EXPERTS_HUNDREDS_HIDDEN) fetch_up(blockIdx.x);
    if (call.stages & EXPERTS_HUNDREDS_OUT) fetch_down(blockIdx.x);
  }

  // The rows that run a unit, in order.
  int listed = -1, listed_rows = 0;
  auto look_up = [&](int unit) {
    if (listed == unit) return;
    listed = unit, listed_rows = 0;
    for (int first = 0; first < call.rows; first += EXPERTS_HUNDREDS_THREADS) {
      const int row = first + threadIdx.x;
      const bool runs = row < call.rows && call.runs(row, unit);
      const unsigned ballot = __ballot_sync(0xffffffffu, runs);
      __syncthreads();
      if (lane == 0) counts[warp] = __popc(ballot);
      __syncthreads();
      int before = listed_rows;
      for (int w = 0; w < EXPERTS_HUNDREDS_THREADS / 32; w++) {
        if (w < warp) before += counts[w];
        listed_rows += counts[w];
      }
      if (runs) list[before + __popc(ballot & ((1u << lane) - 1))] = (unsigned short)row;
    }
    __syncthreads();
  };

  if (call.stages & EXPERTS_HUNDREDS_HIDDEN) {
    unsigned phase = 0;
    for (int item = blockIdx.x; item < items; item += gridDim.x, phase ^= 1) {
      const int unit = item / EXPERTS_HUNDREDS_SLICES, neuron0 = item % EXPERTS_HUNDREDS_SLICES * 32;
      if (item != (int)blockIdx.x && threadIdx.x == 0) fetch_up(item);
      look_up(unit);
      hopper_wait(up_barrier, phase);
      for (int first = 0; first < listed_rows; first += 128) {
        const int rows = min(128, listed_rows - first), piece = threadIdx.x % 8;
        unsigned token[4];
#pragma unroll
        for (int i = 0; i < 4; i++) token[i] = list[first + min(rows - 1, (int)threadIdx.x / 8 + 32 * i)];
        auto gather = [&](int step) {
          if (step < steps) {
            const unsigned slot = ring + step % EXPERTS_HUNDREDS_SLOTS * EXPERTS_HUNDREDS_SLOT;
            const int column = step * 64 + piece * 8, bytes = min(16, max(0, (call.d - column) * 2));
            const T *from = static_cast<const T *>(call.x) + (bytes > 0 ? column : 0);
#pragma unroll
            for (int i = 0; i < 4; i++) {
              const int row = threadIdx.x / 8 + 32 * i;
              if (row < rows) hopper_copy16(slot + row * 128 + ((piece ^ (row & 7)) * 16), from + (long long)token[i] * call.pitch, bytes);
            }
          }
          experts_commit_copies();
        };
        gather(0), gather(1);
        float sum[16];
#pragma unroll
        for (int i = 0; i < 16; i++) sum[i] = 0.0f;
        for (int step = 0; step < steps; step++) {
          experts_wait_copies<1>();
          hopper_proxy_fence();
          __syncthreads();
          // The slot of two steps ago: its products are over, for a wait followed those of the last.
          gather(step + 2);
          const unsigned long long left = hopper_descriptor(ring + step % EXPERTS_HUNDREDS_SLOTS * EXPERTS_HUNDREDS_SLOT + warpgroup * 8192, 0);
          const unsigned long long right = hopper_descriptor(up_base + step * 4096, 0);
          hopper_wgmma_fence();
#pragma unroll
          for (int s = 0; s < 4; s++) hopper_wgmma<T, 0, 0>(sum, left + s * 2, right + s * 2, 1);
          hopper_wgmma_commit();
          hopper_wgmma_wait<1>();
        }
        hopper_wgmma_wait<0>();
        hopper_settled(sum);
        experts_wait_copies<0>();

        const int at0 = first + warpgroup * 64 + warp % 4 * 16 + g;
        const experts_logistic logistic(call.activation);
        auto activate = [&](float v) { return call.activation == 0 ? fmaxf(v, 0.0f) : call.activation == 1 ? experts_gelu(v) : logistic(v); };
        const int size = units.parts > 1 ? units.neurons(unit) : units.size, has = units.neurons(unit);
#pragma unroll
        for (int half = 0; half < 2; half++) {
          const bool there = at0 + 8 * half < listed_rows;
          const unsigned char *selection = call.selection + (long long)list[min(listed_rows - 1, at0 + 8 * half)] * units.experts + units.first_expert(unit);
          unsigned w[4];
#pragma unroll
          for (int j = 0; j < 4; j++) {
            float v[2];
#pragma unroll
            for (int e = 0; e < 2; e++) {
              const int local = neuron0 + 8 * j + 2 * t + e;
              const float bias = call.up_bias && local < has ? call.up_bias[units.first_neuron(unit) + local] : 0.0f;
              v[e] = activate(sum[4 * j + 2 * half + e] + bias);
              if (local >= has || !selection[units.parts > 1 ? 0 : local / size]) v[e] = 0.0f;
            }
            w[j] = hopper_pack<T>(v[0], v[1]);
          }
          hopper_exchange(w, t);
          T *to = static_cast<T *>(call.hidden) + ((long long)unit * call.rows + at0 + 8 * half) * 128 + neuron0 + 8 * t;
          if (there) *reinterpret_cast<uint4 *>(to) = make_uint4(w[0], w[1], w[2], w[3]);
        }
        __syncthreads();
      }
      __threadfence();
      __syncthreads();
      if (threadIdx.x == 0) atomicAdd(unit_counters + unit, 1);
    }
  }

  if (call.stages & EXPERTS_HUNDREDS_OUT) {
    unsigned phase = 0;
    for (int item = blockIdx.x; item < items; item += gridDim.x, phase ^= 1) {
      const int unit = item / EXPERTS_HUNDREDS_SLICES, slice = item % EXPERTS_HUNDREDS_SLICES, column0 = slice * call.quarter;
      if (item != (int)blockIdx.x && threadIdx.x == 0) fetch_down(item);
      look_up(unit);
      if (threadIdx.x == 0) experts_wait_counter(unit_counters + unit, EXPERTS_HUNDREDS_SLICES), counts[8] = 0;
      __syncthreads();
      for (int first = 0; first < listed_rows; first += 128) {
        const int rows = min(128, listed_rows - first);
        // Two boxes of 64 deep.
        for (int i = threadIdx.x; i < rows * 16; i += EXPERTS_HUNDREDS_THREADS) {
          const int row = i / 16, piece = i % 8, box = i / 8 % 2;
          hopper_copy16(ring + box * 16384 + row * 128 + ((piece ^ (row & 7)) * 16),
                        static_cast<const T *>(call.hidden) + ((long long)unit * call.rows + first + row) * 128 + box * 64 + piece * 8, 16);
        }
        experts_commit_copies();
        experts_wait_copies<0>();
        hopper_proxy_fence();
        __syncthreads();
        if (first == 0) hopper_wait(down_barrier, phase);
        const int at0 = first + warpgroup * 64 + warp % 4 * 16 + g;
        for (int box = 0; box < boxes; box++) {
          float sum[32];
#pragma unroll
          for (int i = 0; i < 32; i++) sum[i] = 0.0f;
          hopper_wgmma_fence();
#pragma unroll
          for (int s = 0; s < 8; s++)
            hopper_wgmma<T, 0, 1>(sum, hopper_descriptor(ring + s / 4 * 16384 + warpgroup * 8192, 0) + s % 4 * 2,
                                  hopper_descriptor(down_base + box * 16384 + s / 4 * 8192, 8192) + s % 4 * 128, 1);
          hopper_wgmma_commit();
          hopper_wgmma_wait<0>();
          hopper_settled(sum);
#pragma unroll
          for (int j = 0; j < 8; j += 4) {
            const int column = column0 + box * 64 + j * 8 + 8 * t;
#pragma unroll
            for (int half = 0; half < 2; half++) {
              unsigned w[4];
#pragma unroll
              for (int i = 0; i < 4; i++) w[i] = hopper_pack<T>(sum[4 * (j + i) + 2 * half], sum[4 * (j + i) + 2 * half + 1]);
              hopper_exchange(w, t);
              const int at = at0 + 8 * half;
              if (at >= listed_rows || column >= call.d_out) continue;
              T *to = static_cast<T *>(call.partial) + ((long long)unit * call.rows + list[at]) * call.d_out + column;
              *reinterpret_cast<uint4 *>(to) = make_uint4(w[0], w[1], w[2], w[3]);
            }
          }
        }
        __syncthreads();
      }
      if (listed_rows == 0) hopper_wait(down_barrier, phase);
      __threadfence();
      __syncthreads();
      for (int i = threadIdx.x; i < listed_rows; i += EXPERTS_HUNDREDS_THREADS) {
        const int row = list[i];
        if (atomicAdd(row_counters + row * EXPERTS_HUNDREDS_SLICES + slice, 1) == call.units_of(row) - 1) complete[atomicAdd(counts + 8, 1)] = (unsigned short)row;
      }
      // Rows that run nothing are the first unit's to write.
      for (int row = threadIdx.x; unit == 0 && row < call.rows; row += EXPERTS_HUNDREDS_THREADS)
        if (call.units_of(row) == 0) complete[atomicAdd(counts + 8, 1)] = (unsigned short)row;
      __threadfence();
      __syncthreads();
      for (int i = warp; i < counts[8]; i += EXPERTS_HUNDREDS_THREADS / 32) experts_hundreds_sum<T>(call, complete[i], column0);
      __syncthreads();
    }
  }
}
[[maybe_unused]] constexpr int EXPERTS_HUNDREDS_REST = 1024 + EXPERTS_HUNDREDS_SLOTS * EXPERTS_HUNDREDS_SLOT + 16 + 4 * EXPERTS_HUNDREDS_ROWS + 64;

#define EXPERTS_HUNDREDS(NAME, T)                                                                                        \
  extern "C" __global__ void __launch_bounds__(256, 1)                                                                   \
      NAME(const __grid_constant__ hopper_map up, const __grid_constant__ hopper_map down, const void *x,                \
           const unsigned char *selection, const float *up_bias, const float *down_bias, void *hidden, void *partial,    \
           void *out, int *counters, int rows, int d, int pitch, int d_out, int quarter, int experts, int size,          \
           int per_unit, int parts, int activation, int out32, int stages) {                                             \
    experts_hundreds<T>({&up, &down, x, selection, up_bias, down_bias, hidden, partial, out, counters, rows, d, pitch,   \
                         d_out, quarter, {experts, size, per_unit, parts, 128}, activation, out32, stages});             \
  }
EXPERTS_HUNDREDS(experts_hundreds_bf16, bf16)
EXPERTS_HUNDREDS(experts_hundreds_f16, __half)
