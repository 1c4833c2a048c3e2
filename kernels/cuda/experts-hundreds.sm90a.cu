// The expert op for some hundred rows on Hopper (sm_90a). What counts is how few steps follow one another:
// experts-hundreds.md has the reasons and the times.
//
// A unit (experts-units.cuh) of 128 neurons is a cluster of four blocks. Each looks up which rows run the unit and
// multiplies a quarter of their columns by that of all the unit's neurons; sums go to the block that has their 32
// neurons, which adds up the quarters in order and hands the activations to all four, both through distributed shared
// memory; then each multiplies the rows' 128 activations by a quarter of the columns of down. No weight waits for
// anything: up is asked for straight into the registers that multiply it.
//
// First product: a warp has 32 neurons, for every other tile of 16 rows. Which of a sum's terms a lane stands for is free
// as long as both operands agree, so a lane takes 16 contiguous bytes of a row of up, and of x in shared memory.
// Second product: a warp has 8 · TILES columns of a block's quarter.
//
// Results are added to the output as float32, which the first blocks have filled with the bias meanwhile, or kept apart
// by unit (APART) for experts_hundreds_combine, which adds a row's units in their order: equal calls then give equal
// bits. Where blocks run one after the other, `stages` splits the launch in two and activations go through memory.
#include "experts-hundreds.cuh"

constexpr int EXPERTS_HUNDREDS_CHUNK = 96;  // rows between two exchanges

struct experts_hundreds_call {
  const void *up, *down, *x;
  const unsigned char *selection;  // [rows, experts]
  const float *up_bias, *down_bias;
  void *hidden, *parts;  // [units, rows, 128], where `stages` are apart; [units, rows, d_out]
  float *out;
  unsigned *counters;            // two that only count up: blocks that began, and that have filled their part of `out`
  int rows, pitch, d_out;        // pitch: from one row of up, and of x, to the next
  experts_units units;
  int activation, stages;
};

// Which of a unit's experts a row runs; of a single one, whether.
__device__ __forceinline__ unsigned experts_hundreds_bits(const unsigned char *selection, int row, const experts_units &units, int unit) {
  const int first = units.first_expert(unit), count = min(units.per_unit, units.experts - first);
  const unsigned char *s = selection + (long long)row * units.experts + first;
  if (count == 1) return *s;
  unsigned bits = 0;
  if (units.experts % 4 == 0 && units.per_unit % 4 == 0) {
    for (int i = 0; i < count; i += 4) {
      const unsigned four = *reinterpret_cast<const unsigned *>(s + i);
#pragma unroll
      for (int e = 0; e < 4; e++) bits |= (four >> 8 * e & 0xff) != 0 ? 1u << (i + e) : 0;
    }
  } else {
    for (int i = 0; i < count; i++) bits |= s[i] != 0 ? 1u << i : 0;
  }
  return bits;
}

// Floats from one row to the next of the results that a warp puts in order.
template <int TILES> __host__ __device__ constexpr int experts_hundreds_line() { return 8 * TILES + 4; }
template <int TILES> __host__ __device__ constexpr int experts_hundreds_shared() {
  return 128 * (128 * TILES + 16) + EXPERTS_HUNDREDS_CHUNK * (272 + 4 * 128 + 128 * TILES + 64) + EXPERTS_HUNDREDS_ROWS * 6 + 64;
}

template <typename T, int STEPS, int TILES, bool APART> __device__ __forceinline__ void experts_hundreds(const experts_hundreds_call &call) {
  DYNAMIC_SHARED(unsigned char, shared);
  constexpr int THREADS = EXPERTS_HUNDREDS_THREADS, WARPS = EXPERTS_HUNDREDS_WARPS, CHUNK = EXPERTS_HUNDREDS_CHUNK;
  constexpr int DEPTH = 32 * STEPS, X_PITCH = DEPTH * 2 + 64;  // of the sum, in a quarter
  constexpr int COLUMNS = 64 * TILES, DOWN_PITCH = COLUMNS * 2 + 16, HIDDEN_PITCH = 272, LINE = experts_hundreds_line<TILES>();
  static_assert(X_PITCH % 128 == 64, "eight lanes' 16 bytes lie in different banks");
  static_assert(WARPS * 32 * LINE <= 4 * CHUNK * 32, "results lie where the sums were");
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  const int unit = blockIdx.x / 4, slice = blockIdx.x % 4, column0 = slice * COLUMNS;
  const experts_units &units = call.units;
  unsigned char *down = shared, *hidden = down + 128 * DOWN_PITCH;
  unsigned *bits = reinterpret_cast<unsigned *>(hidden + CHUNK * HIDDEN_PITCH);
  unsigned short *list = reinterpret_cast<unsigned short *>(bits + EXPERTS_HUNDREDS_ROWS);
  int *counts = reinterpret_cast<int *>(list + EXPERTS_HUNDREDS_ROWS);
  unsigned char *x = reinterpret_cast<unsigned char *>(counts + 16);
  float *sums = reinterpret_cast<float *>(x + CHUNK * X_PITCH);  // [quarters][CHUNK][32], columns exchanged by the row
  PROBE(0);
  hopper_launch_next();
  experts_cluster_arrive();  // begun: its shared memory may be written

  // The selection first, all warps' before any weights: everything waits for it. Where this launch may begin before the
  // last one is over, the weights first.
  const bool is_one = units.per_unit == 1, is_early = call.stages & EXPERTS_HUNDREDS_EARLY;
  const int expert0 = units.first_expert(unit);
  unsigned word[EXPERTS_HUNDREDS_ROWS / THREADS];
  auto ask = [&] {
#pragma unroll
    for (int i = 0; i < EXPERTS_HUNDREDS_ROWS / THREADS; i++) {
      const int row = i * THREADS + threadIdx.x;
      word[i] = 0;
      if (row >= call.rows) continue;
      const unsigned char *s = call.selection + (long long)row * units.experts + expert0;
      if (is_one) word[i] = *s;
      else hopper_prefetch_line(s);
    }
  };
  if (is_early) {
    hopper_prefetch(call.selection, (long long)call.rows * units.experts);
    hopper_prefetch(call.x, (long long)call.rows * call.pitch * 2);
  } else {
    ask();
    __syncthreads();
  }
  const int has = units.neurons(unit), neuron0 = units.first_neuron(unit);
  // A quarter of the sum for all neurons, 32 a warp; the other four warps have the same for other tiles of rows.
  const int group = warp % 4;
  uint4 up[4][STEPS];
  auto fetch_up = [&](int quarter) {
#pragma unroll
    for (int s = 0; s < STEPS; s++) {
#pragma unroll
      for (int j = 0; j < 4; j++) {
        const int k = quarter * DEPTH + 32 * s + 8 * t, n = group * 32 + 8 * j + g;
        up[j][s] = make_uint4(0, 0, 0, 0);
        if (k < call.pitch && n < has) up[j][s] = __ldg(reinterpret_cast<const uint4 *>(static_cast<const T *>(call.up) + (long long)(neuron0 + n) * call.pitch + k));
      }
    }
  };
  fetch_up(slice);
  float4 initial = make_float4(0, 0, 0, 0);
  if (!APART && call.down_bias && (int)threadIdx.x < call.d_out / 4) initial = __ldg(reinterpret_cast<const float4 *>(call.down_bias) + threadIdx.x);
  // Bias of the four neurons whose activations this thread works out.
  const int local = slice * 32 + threadIdx.x % 8 * 4;
  float bias[4];
#pragma unroll
  for (int e = 0; e < 4; e++) bias[e] = call.up_bias && local + e < has ? call.up_bias[neuron0 + local + e] : 0.0f;
  // Down behind the threads' backs; nothing times zero must be zero, so rows that the unit lacks are.
  auto fetch_down = [&] {
    const int width = max(0, min(COLUMNS, call.d_out - column0)) * 2;
#pragma unroll
    for (int i = threadIdx.x; i < 128 * (COLUMNS / 8); i += THREADS) {
      const int n = i / (COLUMNS / 8), piece = i % (COLUMNS / 8);
      const bool there = n < has && piece * 16 < width;
      hopper_copy16(hopper_address(down + n * DOWN_PITCH + piece * 16), static_cast<const T *>(call.down) + (there ? (long long)(neuron0 + n) * call.d_out + column0 + piece * 8 : 0), there ? 16 : 0);
    }
  };
  if (is_early) {
    fetch_down();
    experts_copies_commit();
    hopper_wait_launch();
    ask();
  }

  // The rows that run the unit, in order.
  int n_rows = 0;
#pragma unroll
  for (int i = 0; i < EXPERTS_HUNDREDS_ROWS / THREADS; i++) {
    if (i * THREADS >= call.rows) break;
    if (!is_one && i * THREADS + (int)threadIdx.x < call.rows) word[i] = experts_hundreds_bits(call.selection, i * THREADS + threadIdx.x, units, unit);
    const unsigned ballot = __ballot_sync(0xffffffffu, word[i] != 0);
    if (lane == 0) counts[i % 2 * 8 + warp] = __popc(ballot);
    __syncthreads();
    int before = n_rows;
#pragma unroll
    for (int w = 0; w < WARPS; w++) {
      const int count = counts[i % 2 * 8 + w];
      if (w < warp) before += count;
      n_rows += count;
    }
    if (word[i] != 0) {
      const int at = before + __popc(ballot & ((1u << lane) - 1));
      list[at] = (unsigned short)(i * THREADS + threadIdx.x), bits[at] = word[i];
    }
  }
  __syncthreads();
  PROBE(1);

  // The first blocks fill the output. Counters go up by a power of two a launch, so that a launch's count follows from
  // any of its blocks'.
  const int span = 1 << (32 - __clz((int)gridDim.x - 1)), fillers = min(span / 2, EXPERTS_HUNDREDS_FILLERS);
  const bool fills = !APART && (int)blockIdx.x < fillers && call.stages & EXPERTS_HUNDREDS_HIDDEN, counts_blocks = !APART && threadIdx.x == THREADS - 1;
  auto fill = [&] {
    if ((int)threadIdx.x < call.d_out / 4)
      for (int row = blockIdx.x; row < call.rows; row += fillers) reinterpret_cast<float4 *>(call.out + (long long)row * call.d_out)[threadIdx.x] = initial;
  };
  unsigned began = 0;
  if (counts_blocks) began = experts_count(call.counters, blockIdx.x == 0 ? span - (gridDim.x - 1) : 1);
  if (n_rows == 0) {
    if (fills) fill();
    __syncthreads();
    if (fills && counts_blocks) experts_count_release(call.counters + 1, span / fillers);
    experts_cluster_wait();
  }
  for (int first = 0; first < n_rows; first += CHUNK) {
    const int rows = min(CHUNK, n_rows - first), row_tiles = (rows + 15) / 16;
    if (call.stages & EXPERTS_HUNDREDS_HIDDEN) {
#ifdef D2DMOE_EMULATED
      for (int quarter = 0; quarter < 4; quarter++) {
        fetch_up(quarter);
        __syncthreads();
#else
      {
        const int quarter = slice;
#endif
        for (int i = threadIdx.x; i < rows * (DEPTH / 8); i += THREADS) {
          const int row = i / (DEPTH / 8), piece = i % (DEPTH / 8), k = quarter * DEPTH + piece * 8;
          const bool there = k < call.pitch;
          hopper_copy16(hopper_address(x + row * X_PITCH + piece * 16), static_cast<const T *>(call.x) + (there ? (long long)list[first + row] * call.pitch + k : 0), there ? 16 : 0);
        }
        experts_copies_commit();
        if (!is_early && first == 0) fetch_down();
        if (fills && first == 0) fill();
        experts_copies_commit();
        experts_copies_landed<1>();
        __syncthreads();
        if (first == 0) PROBE(2);
        if (quarter == 0 || !EXPERTS_EMULATED) experts_cluster_wait();  // the four blocks have begun, or have multiplied their last activations
        for (int tile = warp / 4; tile < row_tiles; tile += 2) {
          float sum[4][4];
#pragma unroll
          for (int j = 0; j < 4; j++) sum[j][0] = sum[j][1] = sum[j][2] = sum[j][3] = 0.0f;
          const unsigned char *from = x + (tile * 16 + g) * X_PITCH + t * 16;
#pragma unroll
          for (int s = 0; s < STEPS; s++) {
            const uint4 a = *reinterpret_cast<const uint4 *>(from + s * 64), b = *reinterpret_cast<const uint4 *>(from + 8 * X_PITCH + s * 64);
#pragma unroll
            for (int j = 0; j < 4; j++) experts_mma<T>(sum[j], a.x, b.x, a.y, b.y, up[j][s].x, up[j][s].y);
#pragma unroll
            for (int j = 0; j < 4; j++) experts_mma<T>(sum[j], a.z, b.z, a.w, b.w, up[j][s].z, up[j][s].w);
          }
#pragma unroll
          for (int j = 0; j < 4; j++) {
#pragma unroll
            for (int half = 0; half < 2; half++) {
              const int row = tile * 16 + 8 * half + g;
              float *to = sums + (quarter * CHUNK + row) * 32 + ((8 * j + 2 * t) ^ (row % 4 * 8));
              const float2 v = make_float2(sum[j][2 * half], sum[j][2 * half + 1]);
#ifdef D2DMOE_EMULATED
              if (group == slice) *reinterpret_cast<float2 *>(to) = v;
#else
              experts_cluster_store(hopper_address(to), group, make_uint2(__float_as_uint(v.x), __float_as_uint(v.y)));
#endif
            }
          }
        }
      }
      __syncwarp();
      experts_cluster_arrive();
      if (fills && counts_blocks && first == 0) experts_count_release(call.counters + 1, span / fillers);
      __syncwarp();
      experts_cluster_wait();
#ifdef D2DMOE_EMULATED
      __syncthreads();
#endif
      PROBE(3);
      {
        const experts_logistic logistic(call.activation);
        auto activate = [&](float v) { return call.activation == 0 ? fmaxf(v, 0.0f) : call.activation == 1 ? experts_gelu(v) : logistic(v); };
#pragma unroll
        for (int i = 0; i < CHUNK / (THREADS / 8); i++) {
          const int row = i * (THREADS / 8) + threadIdx.x / 8;
          if (row >= rows) continue;
          float4 v = make_float4(bias[0], bias[1], bias[2], bias[3]);
#pragma unroll
          for (int w = 0; w < 4; w++) {
            const float4 part = *reinterpret_cast<const float4 *>(sums + (w * CHUNK + row) * 32 + ((int)threadIdx.x % 8 * 4 ^ (row % 4 * 8)));
            v.x += part.x, v.y += part.y, v.z += part.z, v.w += part.w;
          }
          float a[4] = {activate(v.x), activate(v.y), activate(v.z), activate(v.w)};
          const unsigned chosen = bits[first + row];
#pragma unroll
          for (int e = 0; e < 4; e++)
            if (local + e >= has || (!is_one && !(chosen >> (local + e) / units.size & 1))) a[e] = 0.0f;
          const uint2 packed = make_uint2(hopper_pack<T>(a[0], a[1]), hopper_pack<T>(a[2], a[3]));
#ifdef D2DMOE_EMULATED
          *reinterpret_cast<uint2 *>(static_cast<T *>(call.hidden) + ((long long)unit * call.rows + first + row) * 128 + local) = packed;
#else
          const unsigned to = hopper_address(hidden + row * HIDDEN_PITCH + local * 2);
#pragma unroll
          for (int block = 0; block < 4; block++) experts_cluster_store(to, block, packed);
#endif
        }
      }
      if (first == 0) experts_copies_landed<0>();
      __syncwarp();
      experts_cluster_arrive();
      PROBE(4);
    }
    if (!(call.stages & EXPERTS_HUNDREDS_OUT)) continue;
#ifdef D2DMOE_EMULATED
    if (!(call.stages & EXPERTS_HUNDREDS_HIDDEN) && first == 0) fetch_down();
    for (int i = threadIdx.x; i < rows * 16; i += THREADS)
      *reinterpret_cast<uint4 *>(hidden + i / 16 * HIDDEN_PITCH + i % 16 * 16) =
          reinterpret_cast<const uint4 *>(static_cast<const T *>(call.hidden) + ((long long)unit * call.rows + first) * 128)[i];
    __syncthreads();
#endif
    if (counts_blocks && first == 0) experts_wait_count(call.counters + 1, (began | (span - 1)) + 1);
    __syncwarp();
    experts_cluster_wait();
    PROBE(5);
    {
      unsigned w[TILES][4][4];
#pragma unroll
      for (int j = 0; j < TILES; j++) {
#pragma unroll
        for (int s = 0; s < 4; s++) experts_load_transposed(w[j][s], reinterpret_cast<const T *>(down + (32 * s + lane) * DOWN_PITCH) + (warp * TILES + j) * 8);
      }
      float *lines = sums + warp * 32 * LINE;
      for (int tile = 0; tile < row_tiles; tile += 2) {
        float sum[2][TILES][4];
#pragma unroll
        for (int i = 0; i < 2; i++) {
#pragma unroll
          for (int j = 0; j < TILES; j++) sum[i][j][0] = sum[i][j][1] = sum[i][j][2] = sum[i][j][3] = 0.0f;
        }
#pragma unroll
        for (int s = 0; s < 8; s++) {
#pragma unroll
          for (int i = 0; i < 2; i++) {
            unsigned a[4];
            experts_load(a, reinterpret_cast<const T *>(hidden + (min(tile + i, row_tiles - 1) * 16 + lane % 16) * HIDDEN_PITCH) + 16 * s + lane / 16 * 8);
#pragma unroll
            for (int j = 0; j < TILES; j++) experts_mma<T>(sum[i][j], a[0], a[1], a[2], a[3], w[j][s / 2][s % 2 * 2], w[j][s / 2][s % 2 * 2 + 1]);
          }
        }
#pragma unroll
        for (int i = 0; i < 2; i++) {
#pragma unroll
          for (int j = 0; j < TILES; j++) {
#pragma unroll
            for (int half = 0; half < 2; half++)
              *reinterpret_cast<float2 *>(lines + (16 * i + 8 * half + g) * LINE + 8 * j + 2 * t) = make_float2(sum[i][j][2 * half], sum[i][j][2 * half + 1]);
          }
        }
        __syncwarp();
        if (!APART && tile == 0 && first == 0) __syncthreads();  // the output is filled
        // Of a warp's columns, whole rows: four columns a lane.
#pragma unroll
        for (int i = 0; i < 2 * TILES; i++) {
          const int piece = i * 32 + lane, at = tile * 16 + piece / (2 * TILES), column = column0 + warp * TILES * 8 + piece % (2 * TILES) * 4;
          if (at >= rows || column >= call.d_out) continue;
          const float4 v = *reinterpret_cast<const float4 *>(lines + piece / (2 * TILES) * LINE + piece % (2 * TILES) * 4);
          const long long row = list[first + at];
          if (APART)
            *reinterpret_cast<uint2 *>(static_cast<T *>(call.parts) + (unit * (long long)call.rows + row) * call.d_out + column) = make_uint2(hopper_pack<T>(v.x, v.y), hopper_pack<T>(v.z, v.w));
          else
            experts_add(call.out + row * call.d_out + column, v);
        }
        __syncwarp();
      }
    }
    PROBE(6);
    if (first + CHUNK < n_rows) {
      __syncwarp();
      experts_cluster_arrive();
      __syncthreads();
    }
  }
}

// out = bias + the row's units in order, eight columns a thread.
template <typename T>
__device__ __forceinline__ void experts_hundreds_combine(const unsigned char *selection, const T *parts, const float *bias, void *out, int rows, int d_out, const experts_units &units, int out32) {
  const int row = blockIdx.x, column = threadIdx.x * 8, lane = threadIdx.x % 32, count = units.count();
  const bool mine = column < d_out;
  float sums[8];
#pragma unroll
  for (int e = 0; e < 8; e++) sums[e] = mine && bias ? bias[column + e] : 0.0f;
  for (int first = 0; first < count; first += 32) {
    unsigned chosen = __ballot_sync(0xffffffffu, first + lane < count && experts_hundreds_bits(selection, row, units, first + lane) != 0);
    if (first == 0) hopper_wait_launch();
    while (chosen != 0) {
      uint4 part[8];
      int n = 0;
#pragma unroll
      for (int i = 0; i < 8; i++) {
        if (chosen == 0) continue;
        const long long unit = first + __ffs(chosen) - 1;
        chosen &= chosen - 1;
        if (mine) part[i] = *reinterpret_cast<const uint4 *>(parts + (unit * rows + row) * d_out + column);
        n = i + 1;
      }
#pragma unroll
      for (int i = 0; i < 8; i++) {
        if (i >= n || !mine) continue;
        const T *v = reinterpret_cast<const T *>(&part[i]);
#pragma unroll
        for (int e = 0; e < 8; e++) sums[e] += to_float(v[e]);
      }
    }
  }
  if (!mine) return;
  const long long at = (long long)row * d_out + column;
  if (out32) {
    float4 *to = reinterpret_cast<float4 *>(static_cast<float *>(out) + at);
    to[0] = make_float4(sums[0], sums[1], sums[2], sums[3]), to[1] = make_float4(sums[4], sums[5], sums[6], sums[7]);
  } else {
    uint4 v;
    v.x = hopper_pack<T>(sums[0], sums[1]), v.y = hopper_pack<T>(sums[2], sums[3]), v.z = hopper_pack<T>(sums[4], sums[5]), v.w = hopper_pack<T>(sums[6], sums[7]);
    *reinterpret_cast<uint4 *>(static_cast<T *>(out) + at) = v;
  }
}

#define EXPERTS_HUNDREDS(NAME, T, STEPS, TILES, APART)                                                                    \
  extern "C" __global__ void __cluster_dims__(4, 1, 1) __launch_bounds__(EXPERTS_HUNDREDS_THREADS, 1)                     \
      NAME(const void *up, const void *down, const void *x, const unsigned char *selection, const float *up_bias,         \
           const float *down_bias, void *hidden, void *parts, float *out, unsigned *counters, int rows, int pitch,        \
           int d_out, int experts, int size, int per_unit, int unit_parts, int activation, int stages) {       \
    experts_hundreds<T, STEPS, TILES, APART>({up, down, x, selection, up_bias, down_bias, hidden, parts, out, counters,   \
                                              rows, pitch, d_out, {experts, size, per_unit, unit_parts, 128},             \
                                              activation, stages});                                                       \
  }
#define EXPERTS_HUNDREDS_COMBINE(NAME, T)                                                                                 \
  extern "C" __global__ void __launch_bounds__(128)                                                                       \
      NAME(const unsigned char *selection, const void *parts, const float *bias, void *out, int rows, int d_out,          \
           int experts, int size, int per_unit, int unit_parts, int out32) {                                              \
    experts_hundreds_combine<T>(selection, static_cast<const T *>(parts), bias, out, rows, d_out,                         \
                                {experts, size, per_unit, unit_parts, 128}, out32);                                       \
  }
EXPERTS_HUNDREDS(experts_hundreds_bf16_3, bf16, 6, 3, false)
EXPERTS_HUNDREDS(experts_hundreds_bf16_4, bf16, 8, 4, false)
EXPERTS_HUNDREDS(experts_hundreds_f16_3, __half, 6, 3, false)
EXPERTS_HUNDREDS(experts_hundreds_f16_4, __half, 8, 4, false)
EXPERTS_HUNDREDS(experts_hundreds_apart_bf16_3, bf16, 6, 3, true)
EXPERTS_HUNDREDS(experts_hundreds_apart_bf16_4, bf16, 8, 4, true)
EXPERTS_HUNDREDS(experts_hundreds_apart_f16_3, __half, 6, 3, true)
EXPERTS_HUNDREDS(experts_hundreds_apart_f16_4, __half, 8, 4, true)
EXPERTS_HUNDREDS_COMBINE(experts_hundreds_combine_bf16, bf16)
EXPERTS_HUNDREDS_COMBINE(experts_hundreds_combine_f16, __half)
