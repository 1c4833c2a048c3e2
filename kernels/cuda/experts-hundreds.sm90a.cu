// The expert op for some hundred rows on Hopper (sm_90a). What counts is how few steps follow one another:
// experts-hundreds.md has the reasons and the times.
//
// A unit (experts-units.cuh) of 128 neurons is a cluster of four blocks, which look up which rows run the unit. Two of
// them have its first 64 neurons, two the others; of each two, one has the first half of x's and up's columns. They
// multiply, exchange sums so that each has its own 32 neurons', and hand these activations on to all four, both through
// distributed shared memory; then each multiplies the rows' 128 activations by a quarter of the columns of down.
//
// Both products are transposed: weights are the 64 lines of a wgmma, the rows its columns, as many as there are. Weights
// come through the copy engine, rows of x by copies of 16 bytes, swizzled as they land.
//
// Results are added to the output, in float32 or 16 bits, which the first blocks have filled with the bias meanwhile, or
// kept apart by unit for experts_hundreds_combine, which adds a row's units in their order: equal calls then give equal
// bits. Where blocks run one after the other, `stages` splits the launch in two and activations go through memory.
#include "experts-hundreds.cuh"

enum { EXPERTS_HUNDREDS_HIDDEN = 1, EXPERTS_HUNDREDS_OUT = 2 };  // stages
enum { EXPERTS_HUNDREDS_ADDED, EXPERTS_HUNDREDS_ADDED16, EXPERTS_HUNDREDS_APART };

constexpr int EXPERTS_HUNDREDS_ROWS = 1024;   // most rows
constexpr int EXPERTS_HUNDREDS_LINE = 68;     // floats from one row to the next of the results that a warpgroup puts in order

struct experts_hundreds_call {
  const hopper_map *up, *down;  // in boxes of 64 and 128 neurons
  const void *x;
  const unsigned char *selection;  // [rows, experts]
  const float *up_bias, *down_bias;
  void *hidden;              // [units, rows, 128], where `stages` are apart
  void *out;                 // [rows, d_out], or apart: [units, rows, d_out]
  unsigned *counters;        // two that only count up: blocks that began, and that have filled their part of `out`
  int rows, pitch, d_out;    // pitch: from one row of x to the next
  experts_units units;
  int activation, stages;
  int early;                 // units whose blocks most likely begin long before the last launch is over
  int fillers;               // blocks that fill the output, a power of two: the card has to have room for them together
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


// By the 64-column boxes of a quarter of a row: rows between two exchanges, floats from one neuron's sums to the next.
template <int BOXES> __host__ __device__ constexpr int experts_hundreds_chunk() { return BOXES == 3 ? 112 : 64; }
template <int BOXES> __host__ __device__ constexpr int experts_hundreds_pitch() { return experts_hundreds_chunk<BOXES>() + 8; }
template <int BOXES> __host__ __device__ constexpr int experts_hundreds_shared() {
  return 1024 + BOXES * (2 * 16384 + experts_hundreds_chunk<BOXES>() * 256) + 2 * 32 * experts_hundreds_pitch<BOXES>() * 4 + EXPERTS_HUNDREDS_ROWS * 6 + 256;
}

// sums [64 neurons, a warpgroup's rows] = up's times x's, over half of the columns; x comes two boxes at a time.
template <typename T, int BOXES, int SUMS>
__device__ __forceinline__ void experts_hundreds_up(float (&sum)[SUMS], unsigned up, unsigned x, unsigned x_there, unsigned phase) {
#pragma unroll
  for (int i = 0; i < SUMS; i++) sum[i] = 0.0f;
#pragma unroll
  for (int pair = 0; pair < BOXES; pair++) {
    hopper_wait(x_there + pair * 8, phase);
    hopper_proxy_fence();
    hopper_wgmma_fence();
#pragma unroll
    for (int box = 2 * pair; box < 2 * pair + 2; box++) {
      const unsigned long long left = hopper_descriptor(up + box * 8192, 0), right = hopper_descriptor(x + box * experts_hundreds_chunk<BOXES>() * 128, 0);
#pragma unroll
      for (int s = 0; s < 4; s++) hopper_wgmma<T, 0, 0>(sum, left + s * 2, right + s * 2, 1);
    }
    hopper_wgmma_commit();
  }
  hopper_wgmma_wait<0>();
  hopper_settled(sum);
}
// sums [64 columns, rows] = down's columns times the activations, those of this block's own neurons first.
template <typename T, int SUMS>
__device__ __forceinline__ void experts_hundreds_down(float (&sum)[SUMS], unsigned down, unsigned hidden, unsigned hidden_there, int slice, unsigned phase) {
#pragma unroll
  for (int i = 0; i < SUMS; i++) sum[i] = 0.0f;
  const unsigned long long left = hopper_descriptor(down, 0), right = hopper_descriptor(hidden, 16384);
#pragma unroll
  for (int i = 0; i < 4; i++) {
    const int from = (slice + i) % 4;
    if (!EXPERTS_EMULATED) hopper_cluster_wait_sent(hidden_there + from * 8, phase);
    hopper_proxy_fence();
    hopper_wgmma_fence();
#pragma unroll
    for (int s = 0; s < 2; s++) hopper_wgmma<T, 1, 1>(sum, left + (2 * from + s) * 128, right + (2 * from + s) * 128, 1);
    hopper_wgmma_commit();
  }
  hopper_wgmma_wait<0>();
  hopper_settled(sum);
}

template <typename T, int BOXES, int RESULT> __device__ __forceinline__ void experts_hundreds(const experts_hundreds_call &call) {
  DYNAMIC_SHARED(unsigned char, shared);
  constexpr int THREADS = 128 * BOXES, WARPS = 4 * BOXES, CHUNK = experts_hundreds_chunk<BOXES>();
  constexpr int DEPTH = 128 * BOXES, COLUMNS = 64 * BOXES;  // of the first sum, a half; of the output, a quarter
  constexpr int FILLING = THREADS - 256;  // threads that have no part in the first product, and fill the output meanwhile
  constexpr int PITCH = experts_hundreds_pitch<BOXES>(), LINE = EXPERTS_HUNDREDS_LINE;
  constexpr bool APART = RESULT == EXPERTS_HUNDREDS_APART, IS16 = RESULT != EXPERTS_HUNDREDS_ADDED;
  static_assert(BOXES * CHUNK * LINE * 4 <= BOXES * CHUNK * 256 + 2 * 32 * PITCH * 4, "results lie where x and the sums were");
  const int warpgroup = threadIdx.x / 128, warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  const int unit = blockIdx.x / 4, slice = blockIdx.x % 4, column0 = slice * COLUMNS;
  const experts_units &units = call.units;
  // Activations take up's place, once all four blocks have multiplied by it.
  const unsigned up = (hopper_address(shared) + 1023) / 1024 * 1024, hidden = up, down = up + BOXES * 16384, x = down + BOXES * 16384;
  unsigned char *base = shared + (up - hopper_address(shared));
  float *sums = reinterpret_cast<float *>(base + (x - up) + BOXES * CHUNK * 256);  // [halves][32 neurons][PITCH]
  float *lines = reinterpret_cast<float *>(base + (x - up)) + warpgroup * CHUNK * LINE;
  unsigned *bits = reinterpret_cast<unsigned *>(sums + 2 * 32 * PITCH);
  unsigned short *list = reinterpret_cast<unsigned short *>(bits + EXPERTS_HUNDREDS_ROWS);
  int *counts = reinterpret_cast<int *>(list + EXPERTS_HUNDREDS_ROWS);
  const unsigned barriers = hopper_address(counts + 32), up_there = barriers, down_there = barriers + 8, sums_there = barriers + 16, filled = barriers + 24, hidden_there = barriers + 32, x_there = barriers + 64;
  PROBE_BEGIN(call.selection);
  hopper_launch_next();
  const bool is_one = units.per_unit == 1;
  const int expert0 = units.first_expert(unit), has = units.neurons(unit), neuron0 = units.first_neuron(unit);
  auto fetch_up = [&](int half) {
    hopper_expect(up_there, BOXES * 16384);
    for (int box = 0; box < 2 * BOXES; box++) hopper_copy_box(up + box * 8192, call.up, up_there, half * DEPTH + box * 64, neuron0 + slice / 2 * 64);
  };
  auto fetch_down = [&] {
    hopper_expect(down_there, BOXES * 16384);
    for (int box = 0; box < BOXES; box++) hopper_copy_box(down + box * 16384, call.down, down_there, column0 + box * 64, neuron0);
  };
  const bool is_first = threadIdx.x == 256;  // of the threads that fill
  // Weights depend on nothing. Blocks that begin long before the last launch is over have all of their own come, and
  // those of the others into the L2 cache. The others' selection and rows would come behind their down, so that they ask
  // for it when they have asked for rows.
  const bool is_early = unit < call.early || EXPERTS_EMULATED;
  if (is_first) {
    hopper_init(up_there, 1), hopper_init(down_there, 1), hopper_init(sums_there, 1 + 256), hopper_init(filled, FILLING / 32);
    for (int i = 0; i < 4; i++) hopper_init(hidden_there + i * 8, i == slice ? THREADS : 1);
    for (int i = 0; i < BOXES; i++) hopper_init(x_there + i * 8, THREADS);
    hopper_init_done();
    if (!EXPERTS_EMULATED) fetch_up(slice % 2);
    if (is_early) fetch_down();
  }
  __syncwarp();
  hopper_cluster_arrive_relaxed();  // begun: its shared memory may be written
  if (warp == 9) {
    const int count = units.count(), step = is_early ? call.early : count;
    for (int u = is_early ? unit + step : unit; step > 0 && u < count; u += step) {
      const int neuron = units.first_neuron(u);
      if (lane < BOXES) hopper_prefetch_box(call.down, column0 + lane * 64, neuron);
      else if (lane < 3 * BOXES && is_early) hopper_prefetch_box(call.up, slice % 2 * DEPTH + (lane - BOXES) * 64, neuron + slice / 2 * 64);
    }
  }
  hopper_prefetch(call.selection, (long long)call.rows * units.experts);
  hopper_prefetch(call.x, (long long)call.rows * call.pitch * 2);
  // Bias of the neuron whose activations this thread works out, and of columns that it fills.
  const int local = slice * 32 + threadIdx.x / 2 % 32;
  const float bias = call.up_bias && local < has ? call.up_bias[neuron0 + local] : 0.0f;
  const int local_expert = local / units.size;
  constexpr int FILLS = (64 * BOXES + FILLING - 1) / FILLING;
  float4 initial[FILLS];
#pragma unroll
  for (int i = 0; i < FILLS; i++) {
    const int at = (int)threadIdx.x - 256 + i * FILLING;
    initial[i] = make_float4(0, 0, 0, 0);
    if (!APART && call.down_bias && at >= 0 && at < call.d_out / 4) initial[i] = __ldg(reinterpret_cast<const float4 *>(call.down_bias) + at);
  }
  hopper_wait_launch();
  PROBE(1);

  // The rows that run the unit, in order, by warps that have asked for no weights: who has is a microsecond late.
  constexpr int LISTING = 256, TURNS = EXPERTS_HUNDREDS_ROWS / LISTING;
  if (threadIdx.x < LISTING) {
    unsigned words[TURNS], ballots[TURNS];
#pragma unroll
    for (int i = 0; i < TURNS; i++) {
      const int row = i * LISTING + threadIdx.x;
      words[i] = 0;
      if (row < call.rows) words[i] = is_one ? call.selection[(long long)row * units.experts + expert0] : experts_hundreds_bits(call.selection, row, units, unit);
    }
#pragma unroll
    for (int i = 0; i < TURNS; i++) {
      ballots[i] = __ballot_sync(0xffffffffu, words[i] != 0);
      if (lane == 0) counts[i * (LISTING / 32) + warp] = __popc(ballots[i]);
    }
    hopper_sync(1, LISTING);
    const int count = counts[lane], before = warp_sum_upto(count) - count;
#pragma unroll
    for (int i = 0; i < TURNS; i++) {
      const int at = __shfl_sync(0xffffffffu, before, i * (LISTING / 32) + warp) + __popc(ballots[i] & ((1u << lane) - 1));
      if (words[i] != 0) list[at] = (unsigned short)(i * LISTING + threadIdx.x), bits[at] = words[i];
    }
  }
  __syncthreads();
  const int n_rows = warp_sum(counts[lane]);
  PROBE(2);

  // The first blocks fill the output. Counters go up by a power of two a launch, so that a launch's count follows from
  // any of its blocks'.
  const int span = 1 << (32 - __clz((int)gridDim.x - 1)), fillers = min(span / 2, call.fillers);
  const bool fills = !APART && (int)blockIdx.x < fillers && call.stages & EXPERTS_HUNDREDS_HIDDEN, counts_blocks = !APART && threadIdx.x == THREADS - 1;
  unsigned began = 0;
  if (counts_blocks) began = counter_add(call.counters, blockIdx.x == 0 ? span - (gridDim.x - 1) : 1);
  auto fill = [&] {
    if constexpr (!APART) {
      if (!fills || warpgroup < 2) return;
      for (int row = blockIdx.x; row < call.rows; row += fillers) {
        const long long from = (long long)row * call.d_out;
#pragma unroll
        for (int i = 0; i < FILLS; i++) {
          const int at = (int)threadIdx.x - 256 + i * FILLING;
          const float4 v = initial[i];
          if (at >= call.d_out / 4) continue;
          if (IS16) reinterpret_cast<uint2 *>(static_cast<T *>(call.out) + from)[at] = make_uint2(hopper_pack<T>(v.x, v.y), hopper_pack<T>(v.z, v.w));
          else reinterpret_cast<float4 *>(static_cast<float *>(call.out) + from)[at] = v;
        }
      }
      __syncwarp();
      if (lane == 0) hopper_arrive(filled);
      if (counts_blocks) {
        hopper_wait(filled, 0);
        counter_release(call.counters + 1, span / fillers);
      }
    }
  };
  if (n_rows == 0) {
    fill();
    hopper_cluster_wait();
    // Nothing may be on its way to a block that is gone.
    if (!EXPERTS_EMULATED) hopper_wait(up_there, 0);
    if (is_early) hopper_wait(down_there, 0);
  }
  unsigned phase = 0, up_phase = 0;
  for (int first = 0; first < n_rows; first += CHUNK, phase ^= 1) {
    const int rows = min(CHUNK, n_rows - first), octets = (rows + 7) / 8;
    const bool is_idle = (int)threadIdx.x / 64 >= octets;  // while activations are worked out
    if (call.stages & EXPERTS_HUNDREDS_HIDDEN) {
#ifdef D2DMOE_EMULATED
      for (int half = 0; half < 2; half++) {
        __syncthreads();
        if (is_first) fetch_up(half);
#else
      {
        const int half = slice % 2;
        if (is_first && first > 0) hopper_proxy_fence(), fetch_up(half);
#endif
        // 16 lanes a row, two boxes at a time.
#pragma unroll
        for (int pair = 0; pair < BOXES; pair++) {
          const int piece = pair * 16 + lane % 16, k = half * DEPTH + piece * 8;
          const bool there = k < call.pitch;
          for (int row = warp * 2 + lane / 16; row < rows; row += 2 * WARPS)
            hopper_copy16(x + (piece / 8 * CHUNK + row) * 128 + ((piece ^ row) & 7) * 16, static_cast<const T *>(call.x) + (there ? (long long)list[first + row] * call.pitch + k : 0), there ? 16 : 0);
          hopper_arrive_copied(x_there + pair * 8);
        }
        if (is_first && !EXPERTS_EMULATED) {
          if (first == 0 && !is_early) fetch_down();
          hopper_expect(sums_there, 32 * 4 * 8 * octets);
          for (int i = 0; i < 4; i++)
            if (i != slice) hopper_expect(hidden_there + i * 8, 32 * 2 * 8 * octets);
        }
        __syncwarp();
        if (first == 0) PROBE(3);
        hopper_cluster_wait();  // the four blocks have begun, or are done with their last rows
        // Who will have no activations need not be waited for: the thread that tells of a filled output is late.
        if (is_idle && !EXPERTS_EMULATED) hopper_arrive(hidden_there + slice * 8);
        if (warpgroup < 2) {
          hopper_wait(up_there, up_phase);
          if (first == 0) PROBE(4);
          // A warpgroup has half of the chunk's rows, or the first one all of them where they are few.
          auto multiply = [&](auto &sum, int octet0) {
            experts_hundreds_up<T, BOXES>(sum, up, x + octet0 * 1024, x_there, up_phase);
            hopper_cluster_arrive_relaxed();  // has no use for up any more
            constexpr int SUMS = sizeof sum / 4;
            const int block = slice / 2 * 2 + warp % 4 / 2;
#pragma unroll
            for (int j = 0; j < SUMS / 4; j++) {
              if (octet0 + j >= octets) break;
              // Four lanes have two rows each of two neurons; two of them have four rows of one then.
              const bool odd = t & 1;
              float v[4] = {sum[4 * j], sum[4 * j + 1], sum[4 * j + 2], sum[4 * j + 3]};
              const float a = __shfl_xor_sync(0xffffffffu, odd ? v[0] : v[2], 1), b = __shfl_xor_sync(0xffffffffu, odd ? v[1] : v[3], 1);
              const unsigned w[4] = {__float_as_uint(odd ? a : v[0]), __float_as_uint(odd ? b : v[1]), __float_as_uint(odd ? v[2] : a), __float_as_uint(odd ? v[3] : b)};
              float *to = sums + (half * 32 + warp % 2 * 16 + (odd ? 8 : 0) + g) * PITCH + 8 * (octet0 + j) + t / 2 * 4;
              if (block == slice) *reinterpret_cast<uint4 *>(to) = make_uint4(w[0], w[1], w[2], w[3]);
              else if (!EXPERTS_EMULATED) hopper_cluster_send(hopper_address(to), sums_there, block, w);
            }
          };
          if (octets <= 4 && warpgroup == 0) {
            float sum[16];
            multiply(sum, 0);
          } else if (BOXES == 3 && octets > 4 && octets <= 10) {
            float sum[20];
            multiply(sum, warpgroup * 5);
          } else if (octets > 4) {
            float sum[CHUNK / 4];
            multiply(sum, warpgroup * (CHUNK / 16));
          } else {
            hopper_cluster_arrive_relaxed();
          }
          if (!EXPERTS_EMULATED) hopper_arrive(sums_there);
        } else {
          hopper_cluster_arrive_relaxed();
          if (first == 0 && (half == 0 || !EXPERTS_EMULATED)) fill();
        }
        if (EXPERTS_EMULATED) up_phase ^= 1;
      }
      if (!EXPERTS_EMULATED) up_phase ^= 1;
      if (first == 0) PROBE(5);
      if (!is_one || EXPERTS_EMULATED) __syncthreads();
      if (!EXPERTS_EMULATED) hopper_cluster_wait_sent(sums_there, phase);
      hopper_cluster_wait();  // the four blocks have no use for up any more
      PROBE(6);
      {
        const experts_logistic logistic(call.activation);
        auto activate = [&](float v) { return call.activation == 0 ? fmaxf(v, 0.0f) : call.activation == 1 ? experts_gelu(v) : logistic(v); };
        // Four rows of a neuron a thread.
#pragma unroll
        for (int i = 0; i < (CHUNK * 8 + THREADS - 1) / THREADS; i++) {
          const int octet = (i * THREADS + (int)threadIdx.x) / 64;
          if (octet >= octets) continue;
          const int half = threadIdx.x % 2, row = octet * 8 + half * 4;
          float4 v = make_float4(bias, bias, bias, bias);
#pragma unroll
          for (int from = 0; from < 2; from++) {
            const float4 part = *reinterpret_cast<const float4 *>(sums + (from * 32 + local % 32) * PITCH + row);
            v.x += part.x, v.y += part.y, v.z += part.z, v.w += part.w;
          }
          float a[4] = {activate(v.x), activate(v.y), activate(v.z), activate(v.w)};
          if (local >= has) a[0] = a[1] = a[2] = a[3] = 0.0f;
          if (!is_one) {
#pragma unroll
            for (int e = 0; e < 4; e++)
              if (!(bits[min(first + row + e, n_rows - 1)] >> local_expert & 1)) a[e] = 0.0f;
          }
          unsigned own[2] = {hopper_pack<T>(a[0], a[1]), hopper_pack<T>(a[2], a[3])};
          const unsigned low = __shfl_xor_sync(0xffffffffu, own[0], 1), high = __shfl_xor_sync(0xffffffffu, own[1], 1);
          const unsigned w[4] = {half ? low : own[0], half ? high : own[1], half ? own[0] : low, half ? own[1] : high};
#ifdef D2DMOE_EMULATED
          if (half == 0) {
            for (int e = 0; e < 8; e++)
              if (octet * 8 + e < rows) static_cast<T *>(call.hidden)[((long long)unit * call.rows + first + octet * 8 + e) * 128 + local] = reinterpret_cast<const T *>(w)[e];
          }
#else
          const unsigned to = hidden + octet / 8 * 16384 + local * 128 + ((octet ^ local) & 7) * 16;
#pragma unroll
          for (int block = 2 * half; block < 2 * half + 2; block++) {
            if (block == slice) *reinterpret_cast<uint4 *>(base + (to - up)) = make_uint4(w[0], w[1], w[2], w[3]);
            else if (!EXPERTS_EMULATED) hopper_cluster_send(to, hidden_there + slice * 8, block, w);
          }
#endif
        }
        if (!is_idle && !EXPERTS_EMULATED) hopper_arrive(hidden_there + slice * 8);
      }
      PROBE(7);
    }
    if (!(call.stages & EXPERTS_HUNDREDS_OUT)) continue;
#ifdef D2DMOE_EMULATED
    for (int i = threadIdx.x; i < rows * 128; i += THREADS) {
      const int row = i / 128, neuron = i % 128;
      hopper_at<T>(hidden + row / 64 * 16384 + neuron * 128 + ((row / 8 ^ neuron) & 7) * 16 + row % 8 * 2) = static_cast<const T *>(call.hidden)[((long long)unit * call.rows + first + row) * 128 + neuron];
    }
#endif
    if (first == 0) {
      hopper_wait(down_there, 0);
      // Nothing times zero must be zero, so rows of down that the unit lacks are.
      if (has < 128) {
        for (int i = threadIdx.x; i < (128 - has) * BOXES * 8; i += THREADS)
          *reinterpret_cast<uint4 *>(base + (down - up) + i % BOXES * 16384 + has * 128 + i / BOXES * 16) = make_uint4(0, 0, 0, 0);
        hopper_proxy_fence();
      }
      // The output has been filled.
      if (counts_blocks) counter_wait(call.counters + 1, (began | (span - 1)) + 1);
    }
    if (has < 128 || EXPERTS_EMULATED) __syncthreads();
    PROBE(8);
    auto multiply = [&](auto &sum) {
      experts_hundreds_down<T>(sum, down + warpgroup * 16384, hidden, hidden_there, slice, phase);
      constexpr int SUMS = sizeof sum / 4;
#pragma unroll
      for (int j = 0; j < SUMS / 4; j++) {
        if (j >= octets) break;
#pragma unroll
        for (int e = 0; e < 4; e++) lines[(8 * j + 2 * t + e % 2) * LINE + warp % 4 * 16 + e / 2 * 8 + g] = sum[4 * j + e];
      }
    };
    if (octets <= 4) {
      float sum[16];
      multiply(sum);
    } else if (BOXES == 3 && octets <= 10) {
      float sum[40];
      multiply(sum);
    } else {
      float sum[CHUNK / 2];
      multiply(sum);
    }
    __syncthreads();
    PROBE(9);
    // Whole lines: a row's 64 columns are 256 bytes, or 128.
    constexpr int WIDE = IS16 ? 8 : 4, AT_ONCE = 128 / (64 / WIDE);
    const int column = column0 + warpgroup * 64 + threadIdx.x % (64 / WIDE) * WIDE;
    if (column < call.d_out) {
      for (int at = threadIdx.x % 128 / (64 / WIDE); at < rows; at += AT_ONCE) {
        const float *from = lines + at * LINE + threadIdx.x % (64 / WIDE) * WIDE;
        const long long row = list[first + at];
        const float4 v = *reinterpret_cast<const float4 *>(from);
        if constexpr (IS16) {
          const float4 more = *reinterpret_cast<const float4 *>(from + 4);
          const unsigned w[4] = {hopper_pack<T>(v.x, v.y), hopper_pack<T>(v.z, v.w), hopper_pack<T>(more.x, more.y), hopper_pack<T>(more.z, more.w)};
          if (APART) *reinterpret_cast<uint4 *>(static_cast<T *>(call.out) + (unit * (long long)call.rows + row) * call.d_out + column) = make_uint4(w[0], w[1], w[2], w[3]);
          else hopper_add16<T>(static_cast<T *>(call.out) + row * call.d_out + column, w);
        } else {
          experts_add(static_cast<float *>(call.out) + row * call.d_out + column, v);
        }
      }
    }
    PROBE(10);
    if (first + CHUNK < n_rows) {
      __syncwarp();
      hopper_cluster_arrive_relaxed();
      __syncthreads();
    }
  }
  PROBE(11);
}

// out = bias + the row's units in order, eight columns a thread.
template <typename T>
__device__ __forceinline__ void experts_hundreds_combine(const unsigned char *selection, const T *parts, const float *bias, void *out, int rows, int d_out, const experts_units &units, int out32) {
  const int row = blockIdx.x, column = threadIdx.x * 8, lane = threadIdx.x % 32, count = units.count();
  const bool mine = column < d_out;
  hopper_launch_next();
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

// Eight sums a thread in 16 bits.
template <typename T> __device__ __forceinline__ void experts_hundreds_round(const float *sums, void *out, int count) {
  hopper_launch_next();
  hopper_wait_launch();
  const int at = (blockIdx.x * blockDim.x + threadIdx.x) * 8;
  if (at >= count) return;
  const float4 a = *reinterpret_cast<const float4 *>(sums + at), b = *reinterpret_cast<const float4 *>(sums + at + 4);
  *reinterpret_cast<uint4 *>(static_cast<T *>(out) + at) = make_uint4(hopper_pack<T>(a.x, a.y), hopper_pack<T>(a.z, a.w), hopper_pack<T>(b.x, b.y), hopper_pack<T>(b.z, b.w));
}

#define EXPERTS_HUNDREDS(NAME, T, BOXES, RESULT)                                                                          \
  extern "C" __global__ void __cluster_dims__(4, 1, 1) __launch_bounds__(128 * BOXES, 1)                                  \
      NAME(const __grid_constant__ hopper_map up, const __grid_constant__ hopper_map down, const void *x,                 \
           const unsigned char *selection, const float *up_bias, const float *down_bias, void *hidden, void *out,         \
           unsigned *counters, int rows, int pitch, int d_out, int experts, int size, int per_unit, int unit_parts,       \
           int activation, int stages, int early, int fillers) {                                                          \
    experts_hundreds<T, BOXES, EXPERTS_HUNDREDS_##RESULT>({&up, &down, x, selection, up_bias, down_bias, hidden, out,     \
                                                           counters, rows, pitch, d_out,                                  \
                                                           {experts, size, per_unit, unit_parts, 128}, activation,        \
                                                           stages, early, fillers});                                      \
  }
#define EXPERTS_HUNDREDS_TYPE(NAME, T)                                                                                    \
  EXPERTS_HUNDREDS(experts_hundreds_added_##NAME##_3, T, 3, ADDED)                                                        \
  EXPERTS_HUNDREDS(experts_hundreds_added_##NAME##_4, T, 4, ADDED)                                                        \
  EXPERTS_HUNDREDS(experts_hundreds_added16_##NAME##_3, T, 3, ADDED16)                                                    \
  EXPERTS_HUNDREDS(experts_hundreds_added16_##NAME##_4, T, 4, ADDED16)                                                    \
  EXPERTS_HUNDREDS(experts_hundreds_apart_##NAME##_3, T, 3, APART)                                                        \
  EXPERTS_HUNDREDS(experts_hundreds_apart_##NAME##_4, T, 4, APART)                                                        \
  extern "C" __global__ void __launch_bounds__(128)                                                                       \
      experts_hundreds_combine_##NAME(const unsigned char *selection, const void *parts, const float *bias, void *out,    \
                                      int rows, int d_out, int experts, int size, int per_unit, int unit_parts,           \
                                      int out32) {                                                                        \
    experts_hundreds_combine<T>(selection, static_cast<const T *>(parts), bias, out, rows, d_out,                         \
                                {experts, size, per_unit, unit_parts, 128}, out32);                                       \
  }                                                                                                                       \
  extern "C" __global__ void __launch_bounds__(128)                                                                       \
      experts_hundreds_round_##NAME(const float *sums, void *out, int count) {                                            \
    experts_hundreds_round<T>(sums, out, count);                                                                          \
  }
EXPERTS_HUNDREDS_TYPE(bf16, bf16)
EXPERTS_HUNDREDS_TYPE(f16, __half)
