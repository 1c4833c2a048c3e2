// The expert op for some dozen rows on Hopper (sm_90a): 4 to 64 a launch. Together they select nearly every expert, so
// that what counts is reading each weight once, at the memory's full rate, and waiting little around it.
//
// Two launches. `up` deals the selected neurons out to blocks (or, where x is wide, to clusters that cut its width up
// among their blocks), and writes masked hidden activations. `down` deals columns out to clusters, whose blocks cut the
// neurons up; each sends its sums to the one that adds them, in the blocks' order. `down` is launched programmatically
// behind `up`: its first weights come while `up` still runs, and it waits only for the activations.
//
// Weights pass through a ring of slots in shared memory, by 16-byte copies behind the threads' backs. Products are a
// warp's matrix instructions with 16 neurons (or columns) by 8 rows of x. Which terms of a sum a lane stands for is
// free as long as both operands agree: a lane reads 16 contiguous bytes of an up row, and pairs down rows in registers.
#include "experts-dozens.cuh"

#ifdef DOZENS_WARM
constexpr int DOZENS_FIRST_PASS = -1;  // one without turns
#else
constexpr int DOZENS_FIRST_PASS = 0;
#endif
#ifdef DOZENS_STAMPS
__device__ long long dozens_stamps[2][256][12];
#define DOZENS_STAMP(kernel, i) \
  if (threadIdx.x == 0) dozens_stamps[kernel][blockIdx.x][i] = dozens_now()
__device__ __forceinline__ long long dozens_now() {
  long long t;
  asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(t)::"memory");
  return t;
}
#else
#define DOZENS_STAMP(kernel, i)
#endif

// The exponent of a power of two.
__device__ __forceinline__ int dozens_log2(int power) { return __ffs(power) - 1; }

template <typename V> __device__ __forceinline__ V dozens_at(const char *p) { return *reinterpret_cast<const V *>(p); }

// The experts that any row selects, in order; returns how many. `counts` has room for the warps.
__device__ inline int dozens_union(const unsigned char *selection, int rows, int n, unsigned short *list, int *counts) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const bool words = n % 4 == 0 && reinterpret_cast<size_t>(selection) % 4 == 0;
  int total = 0;
  for (int first = 0; first < n; first += 4 * EXPERTS_DOZENS_THREADS) {
    const int e = first + 4 * threadIdx.x;
    unsigned any = 0;
    if (words && e < n) {
#pragma unroll 16
      for (int r = 0; r < rows; r++) any |= *reinterpret_cast<const unsigned *>(selection + (long long)r * n + e);
    } else if (e < n) {
#pragma unroll 4
      for (int r = 0; r < rows; r++)
        for (int i = 0; i < 4; i++)
          if (e + i < n) any |= (unsigned)selection[(long long)r * n + e + i] << 8 * i;
    }
    int count = 0;
#pragma unroll
    for (int i = 0; i < 4; i++) count += (any >> 8 * i & 0xff) != 0;
    const int upto = warp_sum_upto(count);
    __syncthreads();
    if (lane == 31) counts[warp] = upto;
    __syncthreads();
    int at = total + upto - count;
    for (int w = 0; w < EXPERTS_DOZENS_WARPS; w++) {
      if (w < warp) at += counts[w];
      total += counts[w];
    }
#pragma unroll
    for (int i = 0; i < 4; i++)
      if ((any >> 8 * i & 0xff) != 0) list[at++] = (unsigned short)(e + i);
  }
  __syncthreads();
  return total;
}

// The neurons at places lo … hi − 1 among the selected.
__device__ inline void dozens_neurons(const unsigned short *list, int size, int lo, int hi, int *neurons) {
  for (int i = threadIdx.x; i < hi - lo; i += EXPERTS_DOZENS_THREADS) neurons[i] = list[(lo + i) / size] * size + (lo + i) % size;
  __syncthreads();
}

// ---- Up ---------------------------------------------------------------------------------------------------------------

// Shared memory: the ring, x, the warps' sums, what ranks send (twice), the neurons' biases and scales, their numbers,
// the rows that select them.
template <int STORAGE, bool GATED, int TILES> __device__ __forceinline__ void experts_dozens_up(const experts_dozens_args &a) {
  typedef typename experts_storage<STORAGE>::type T;
  constexpr int ELEMENTS = experts_storage<STORAGE>::ELEMENTS, MATRICES = GATED ? 2 : 1, VECTORS = 5;
  constexpr bool IS_8_BIT = STORAGE == INT8;
  constexpr int PITCH = 20;  // of 16 neurons' sums
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  const int rank = dozens_rank(), ranks = dozens_ranks(), cluster = blockIdx.x / ranks, clusters = gridDim.x / ranks;
  const int rows = a.rows, n = a.experts, size = a.expert_size;
  const int along = EXPERTS_DOZENS_WARPS / (a.across * a.row_groups);
  const int own_rows = warp % a.row_groups, own_tile = warp / a.row_groups % a.across, own_part = warp / (a.row_groups * a.across);
  const int tile = 16 * a.across, pieces = along * a.steps * 4;  // of 16 bytes, of a row, in a slot
  const int row_pieces = (a.d + ELEMENTS - 1) / ELEMENTS, turns = (row_pieces + pieces - 1) / pieces;
  const int turn0 = turns * rank / ranks, own_turns = turns * (rank + 1) / ranks - turn0, most_turns = (turns + ranks - 1) / ranks;
  const long long row_bytes = row_pieces * 16ll, neurons_in_all = (long long)n * size, hidden_pitch = (neurons_in_all + 15) / 16 * 16;
  const int width = own_turns * pieces * ELEMENTS, matrix_bytes = tile * pieces * 16, slot_bytes = MATRICES * matrix_bytes;
  const int padded_rows = TILES * 8 * a.row_groups, share = tile / ranks;

  DYNAMIC_SHARED(char, shared);
  char *ring = shared, *xs = ring + a.slots * slot_bytes;
  float *sums = reinterpret_cast<float *>(xs + padded_rows * most_turns * pieces * ELEMENTS * (int)sizeof(T));
  float *received = sums + EXPERTS_DOZENS_WARPS * MATRICES * TILES * 8 * PITCH;
  float *vectors = received + (ranks > 1 ? 2 * MATRICES * tile * padded_rows : 0);
  int *neurons = reinterpret_cast<int *>(vectors + VECTORS * a.capacity);
  unsigned short *wanted = reinterpret_cast<unsigned short *>(neurons + a.capacity);  // [capacity, 4], 16 rows each
  int *counts = reinterpret_cast<int *>(wanted + 4 * a.capacity);
  const unsigned landed = hopper_address(counts + EXPERTS_DOZENS_WARPS);  // a barrier for each slot, and for x

  DOZENS_STAMP(0, 0);
  if (threadIdx.x == 0) {
    for (int i = 0; i <= a.slots; i++) hopper_init(landed + i * 8, EXPERTS_DOZENS_THREADS);
    hopper_init_done();
  }
  __syncthreads();
  hopper_launch_next();
  if (ranks > 1) hopper_cluster_arrive_relaxed();
  hopper_prefetch(a.selection, (long long)rows * n);
  hopper_prefetch(a.x, (long long)rows * a.d * (a.x_type == 0 ? 4 : 2));
  if (a.up_bias) hopper_prefetch(a.up_bias, neurons_in_all * 4);
  int selected = (int)neurons_in_all;
  if (a.skip) {
    hopper_wait_launch();
    selected = dozens_union(a.selection, rows, n, reinterpret_cast<unsigned short *>(ring), counts) * size;
  }
  const int run = (selected + clusters - 1) / clusters, lo = min(cluster * run, selected), hi = min(lo + run, selected);
  if (a.skip) dozens_neurons(reinterpret_cast<unsigned short *>(ring), size, lo, hi, neurons);
  auto neuron_at = [&](int place) { return a.skip ? neurons[place - lo] : place; };

  // ---- The ring ----
  const int passes = (hi - lo + tile - 1) / tile, all = passes * own_turns, tile_shift = dozens_log2(tile);
  // A warp's lanes across a row; a row's pieces, or 32 of them, at once.
  const int row_lanes = min(pieces, 32), first_piece = lane & (row_lanes - 1), first_row = threadIdx.x >> dozens_log2(row_lanes), row_step = EXPERTS_DOZENS_THREADS >> dozens_log2(row_lanes);
  int next_place = lo, next_turn = 0, next_slot = 0;
  auto fetch = [&]() {
    const int rows_here = min(tile, hi - next_place), piece0 = (turn0 + next_turn) * pieces;
    const unsigned slot = hopper_address(ring) + next_slot * slot_bytes;
#pragma unroll 2
    for (int row = first_row; row < rows_here; row += row_step) {
      const long long from = neuron_at(next_place + row) * row_bytes;
#pragma unroll 1
      for (int piece = first_piece; piece < pieces; piece += row_lanes) {
        const bool there = piece0 + piece < row_pieces;
        const long long at = from + (there ? (piece0 + piece) * 16 : 0);
        const unsigned to = slot + (row * pieces + dozens_exchanged<STORAGE>(row, piece)) * 16;
        hopper_copy16(to, static_cast<const char *>(a.up) + at, there ? 16 : 0);
        if (GATED) hopper_copy16(to + matrix_bytes, static_cast<const char *>(a.gate) + at, there ? 16 : 0);
      }
    }
    hopper_arrive_copied(landed + next_slot * 8);
    if (++next_slot == a.slots) next_slot = 0;
    if (++next_turn == own_turns) next_turn = 0, next_place += tile;
  };
  // All at once where there is room.
  const int ahead = all <= a.slots ? all : a.slots - 1;
#pragma unroll 1
  for (int stage = 0; stage < ahead; stage++) fetch();
  DOZENS_STAMP(0, 1);

  // ---- x, and what hidden activations are finished with ----
  const float per_size = 1.0f / (float)size;  // a division takes long, and what comes after the wait is a chain
  if (!a.skip) hopper_wait_launch();
  dozens_read_x<STORAGE>(a, xs, turn0 * pieces * ELEMENTS, width);
  hopper_arrive_copied(landed + a.slots * 8);
  const int groups = (rows + 15) / 16, own = hi - lo, all_own = own * groups;
  for (int i = threadIdx.x, group = 0, place = threadIdx.x; i < all_own; i += EXPERTS_DOZENS_THREADS, place += EXPERTS_DOZENS_THREADS) {
    for (; place >= own; place -= own) group++;
    const int neuron = neuron_at(lo + place);
    const unsigned char *from = a.selection + (long long)group * 16 * n + (int)(((float)neuron + 0.5f) * per_size);
    unsigned bits = 0;
#pragma unroll
    for (int r = 0; r < 16; r++)
      if (group * 16 + r < rows) bits |= (unsigned)(from[(long long)r * n] != 0) << r;
    wanted[place * 4 + group] = (unsigned short)bits;
    if (group != 0) continue;
    float *v = vectors + place * VECTORS;
    v[0] = a.up_bias ? a.up_bias[neuron] : 0.0f;
    if (GATED) v[1] = a.gate_bias ? a.gate_bias[neuron] : 0.0f;
    if (IS_8_BIT) {
      v[2] = a.scales[neuron], v[4] = a.scales[2 * neurons_in_all + neuron];
      if (GATED) v[3] = a.scales[neurons_in_all + neuron];
    }
  }
  DOZENS_STAMP(0, 2);
  if (a.splits > 1 && blockIdx.x == 0)
    for (int i = threadIdx.x; i < a.groups; i += EXPERTS_DOZENS_THREADS) a.counters[i] = 0;
  // `down` reads whole 16 neurons.
  if (blockIdx.x == 0)
    for (int i = threadIdx.x; i < rows * 16; i += EXPERTS_DOZENS_THREADS)
      if (selected + i % 16 < (selected + 15) / 16 * 16) static_cast<T *>(a.hidden)[i / 16 * hidden_pitch + selected + i % 16] = experts_round<T>(0.0f);

  if (ranks > 1) hopper_cluster_wait();
  hopper_wait(landed + a.slots * 8, 0);
  const int x_row = width * (int)sizeof(T);
  // What a lane reads: of matrices of 8 neurons by 16 bytes, rows of two; of x, pieces of four.
  const int w_row = own_tile * 16 + lane % 16, w_piece = lane / 16, x_local = own_rows * TILES * 8 + lane % 8, x_piece = lane / 8;
  const unsigned w_base = hopper_address(ring) + w_row * pieces * 16, x_base = hopper_address(xs) + x_local * x_row;
  const char *row8 = xs + (own_rows * TILES * 8 + g) * x_row;
  int slot_number = 0, left = all - ahead;
  unsigned phase = 0;
#pragma unroll 1
  for (int pass = DOZENS_FIRST_PASS; pass < passes; pass++) {
    float acc[MATRICES][TILES][4] = {};
#pragma unroll 1
    for (int turn = pass < 0 ? own_turns : 0; turn < own_turns; turn++) {
      hopper_wait(landed + slot_number * 8, phase);
      __syncthreads();
      if (pass == 0 && turn == 0) { DOZENS_STAMP(0, 3); }
      if (pass == 0 && turn == 1) { DOZENS_STAMP(0, 4); }
      if (pass == 0 && turn == 2) { DOZENS_STAMP(0, 5); }
      if (left > 0) left--, fetch();
      const int slot = slot_number * slot_bytes;
      if (++slot_number == a.slots) slot_number = 0, phase ^= 1;
      if constexpr (DOZENS_IS_8_BIT<STORAGE>) {
        const char *at0 = ring + slot + (own_tile * 16 + g) * pieces * 16;
#pragma unroll 1
        for (int s = 0; s < a.steps; s++) {
          const int piece = (own_part * a.steps + s) * 4 + t, at = (piece ^ (g & 1) << 2) * 16, x_at = turn * pieces + piece;
          uint4 w[2][2][MATRICES];  // half, upper or lower
#pragma unroll
          for (int m = 0; m < MATRICES; m++) {
            const uint4 upper = dozens_at<uint4>(at0 + m * matrix_bytes + at), lower = dozens_at<uint4>(at0 + m * matrix_bytes + at + 8 * pieces * 16);
            const unsigned u[4] = {upper.x, upper.y, upper.z, upper.w}, l[4] = {lower.x, lower.y, lower.z, lower.w};
#pragma unroll
            for (int half = 0; half < 2; half++) {
              const uint2 p = experts_widen(u[2 * half]), q = experts_widen(u[2 * half + 1]);
              const uint2 r = experts_widen(l[2 * half]), v = experts_widen(l[2 * half + 1]);
              w[half][0][m] = make_uint4(p.x, p.y, q.x, q.y), w[half][1][m] = make_uint4(r.x, r.y, v.x, v.y);
            }
          }
#pragma unroll
          for (int i = 0; i < TILES; i++)
#pragma unroll
            for (int half = 0; half < 2; half++) {
              const uint4 b = dozens_at<uint4>(row8 + i * 8 * x_row + ((2 * x_at + half) ^ (g & 1)) * 16);
#pragma unroll
              for (int m = 0; m < MATRICES; m++) experts_multiply<STORAGE>(acc[m][i], w[half][0][m], w[half][1][m], b);
            }
        }
      } else {
        // Four pieces a step: 32 values of 16 bits, or 16 of 32.
#pragma unroll 2
        for (int s = 0; s < a.steps; s++) {
          const int piece = (own_part * a.steps + s) * 4;
          uint4 w[MATRICES][2];
#pragma unroll
          for (int m = 0; m < MATRICES; m++)
#pragma unroll
            for (int half = 0; half < 2; half++)
              w[m][half] = dozens_matrices(w_base + slot + m * matrix_bytes + dozens_exchanged<STORAGE>(w_row, piece + 2 * half + w_piece) * 16);
          uint4 b[TILES];
#pragma unroll
          for (int i = 0; i < TILES; i++)
            b[i] = dozens_matrices(x_base + i * 8 * x_row + dozens_exchanged_x<STORAGE>(x_local, turn * pieces + piece + x_piece) * 16);
#pragma unroll
          for (int half = 0; half < 2; half++)
#pragma unroll
            for (int i = 0; i < TILES; i++)
#pragma unroll
              for (int m = 0; m < MATRICES; m++)
                experts_mma<STORAGE>(acc[m][i], w[m][half].x, w[m][half].y, w[m][half].z, w[m][half].w, half ? b[i].z : b[i].x, half ? b[i].w : b[i].y);
        }
      }
    }

    // ---- A pass's sums: over warps, over ranks ----
    DOZENS_STAMP(0, pass <= 0 ? 6 : 8);
    if (own_turns == 0) __syncthreads();
    float *own = sums + warp * MATRICES * TILES * 8 * PITCH;
#pragma unroll
    for (int m = 0; m < MATRICES; m++)
#pragma unroll
      for (int i = 0; i < TILES; i++) {
        float *to = own + (m * TILES + i) * 8 * PITCH;
        to[2 * t * PITCH + g] = acc[m][i][0], to[(2 * t + 1) * PITCH + g] = acc[m][i][1];
        to[2 * t * PITCH + g + 8] = acc[m][i][2], to[(2 * t + 1) * PITCH + g + 8] = acc[m][i][3];
      }
    __syncthreads();
    auto sum_at = [&](int m, int row, int neuron) {
      const float *from = sums + (((neuron / 16 * a.row_groups + row / (TILES * 8)) * MATRICES + m) * TILES * 8 + row % (TILES * 8)) * PITCH + neuron % 16;
      const int stride = a.across * a.row_groups * MATRICES * TILES * 8 * PITCH;
      float sum = 0;
#pragma unroll 4
      for (int p = 0; p < along; p++) sum += from[p * stride];
      return sum;
    };
    // [rank that sends, matrix, row, share of the neurons]
    float *buffer = received + (pass & 1) * MATRICES * tile * padded_rows;
    if (ranks > 1 && pass >= 0) {
      for (int i = threadIdx.x; i < MATRICES * rows * tile / 4; i += EXPERTS_DOZENS_THREADS) {
        const int neuron = i * 4 % tile, row = i * 4 / tile % rows, m = i * 4 / tile / rows;
        const float4 four = make_float4(sum_at(m, row, neuron), sum_at(m, row, neuron + 1), sum_at(m, row, neuron + 2), sum_at(m, row, neuron + 3));
        hopper_cluster_store(hopper_address(buffer + ((rank * MATRICES + m) * padded_rows + row) * share + neuron % share), neuron / share, four);
      }
      hopper_cluster_arrive();
      hopper_cluster_wait();
    }
    const int place0 = lo + pass * tile + rank * share, share_shift = dozens_log2(share);
#pragma unroll 1
    for (int i = threadIdx.x; i < rows << share_shift; i += EXPERTS_DOZENS_THREADS) {
      const int row = i >> share_shift, neuron = i & (share - 1), place = place0 + neuron;
      const int local = min(max(place - lo, 0), max(hi - lo - 1, 0));
      float u = 0, v = 0;
      if (ranks == 1) {
        u = sum_at(0, row, neuron);
        if (GATED) v = sum_at(MATRICES - 1, row, neuron);
      } else {
        const float *from = buffer + row * share + neuron;
        for (int r = 0; r < ranks; r++) {
          u += from[r * MATRICES * padded_rows * share];
          if (GATED) v += from[(r * MATRICES + 1) * padded_rows * share];
        }
      }
      const float *vector = vectors + local * VECTORS;
      u = u * (IS_8_BIT ? vector[2] : 1.0f) + vector[0];
      float h = experts_activate(GATED ? v * (IS_8_BIT ? vector[3] : 1.0f) + vector[1] : u, a.activation);
      if (GATED) h *= u;
      // 8-bit down rows: the row's greatest weight here, the steps of 1/127 of it at the end.
      if (IS_8_BIT) h *= vector[4] * 127.0f;
      const bool runs = wanted[local * 4 + row / 16] >> row % 16 & 1;
      if (place >= lo && place < hi) static_cast<T *>(a.hidden)[row * hidden_pitch + place] = experts_round<T>(runs ? h : 0.0f);
    }
    DOZENS_STAMP(0, pass <= 0 ? 7 : 9);
  }
}

// ---- Down -------------------------------------------------------------------------------------------------------------

// Shared memory: the ring of weights, whose room the warps' sums take afterwards, the ring of hidden activations, what
// ranks send, the neurons' numbers.
template <int STORAGE, int TILES> __device__ __forceinline__ void experts_dozens_down(const experts_dozens_args &a) {
  typedef typename experts_storage<STORAGE>::type T;
  constexpr int ELEMENTS = experts_storage<STORAGE>::ELEMENTS;
  constexpr bool IS_8_BIT = STORAGE == INT8;
  constexpr int Q = sizeof(T) == 4 ? 4 : 8, UNIT = 8 * Q, UNIT_PIECES = UNIT / ELEMENTS;  // columns: a lane's, a warp's
  constexpr int PITCH = UNIT + 4, PER = 16 / sizeof(T), HIDDEN_PAD = DOZENS_IS_8_BIT<STORAGE> ? 32 : sizeof(T) == 4 ? 64 : 16;
  constexpr bool IS_TRANSPOSED = STORAGE == HALF || STORAGE == BFLOAT16;  // by the matrix loads
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  // Either a cluster's blocks share the neurons, or a.splits blocks.
  const int ranks = a.splits > 1 ? a.splits : dozens_ranks(), rank = a.splits > 1 ? blockIdx.x % a.splits : dozens_rank(), group = blockIdx.x / ranks;
  const int rows = a.rows, n = a.experts, size = a.expert_size;
  const int along = EXPERTS_DOZENS_WARPS / (a.across * a.row_groups);
  const int own_rows = warp % a.row_groups, own_unit = warp / a.row_groups % a.across, own_part = warp / (a.row_groups * a.across);
  const int pieces = a.across * UNIT_PIECES, depth = 16 * along * a.steps;  // of a row; neurons of a slot
  const int row_pieces = (a.d_out + ELEMENTS - 1) / ELEMENTS, piece0 = group * pieces;
  const long long row_bytes = row_pieces * 16ll, neurons_in_all = (long long)n * size, hidden_pitch = (neurons_in_all + 15) / 16 * 16;
  const int line = pieces * 16, slot_bytes = depth * line, h_pitch = depth * (int)sizeof(T) + HIDDEN_PAD;
  const int padded_rows = TILES * 8 * a.row_groups, h_bytes = padded_rows * h_pitch;
  const int columns = a.across * UNIT, fours = columns / 4, items = rows * fours, share = (items + ranks - 1) / ranks;

  DYNAMIC_SHARED(char, shared);
  char *ring = shared;
  float *sums = reinterpret_cast<float *>(shared);
  char *hs = ring + max(a.slots * slot_bytes, EXPERTS_DOZENS_WARPS * TILES * 8 * PITCH * 4);
  float4 *received = reinterpret_cast<float4 *>(hs + a.slots * h_bytes);
  int *neurons = reinterpret_cast<int *>(received + (ranks > 1 && a.splits <= 1 ? ranks * share : 0));
  int *counts = neurons + (a.skip ? a.capacity : 0);
  const unsigned landed = hopper_address(counts + EXPERTS_DOZENS_WARPS);  // a barrier for each slot

  DOZENS_STAMP(1, 0);
  if (threadIdx.x == 0) {
    for (int i = 0; i < a.slots; i++) hopper_init(landed + i * 8, EXPERTS_DOZENS_THREADS);
    hopper_init_done();
  }
  __syncthreads();
  hopper_launch_next();
  if (ranks > 1 && a.splits <= 1) hopper_cluster_arrive_relaxed();
  int selected = (int)neurons_in_all;
  // The selection was there before `up` began.
  if (a.skip) selected = dozens_union(a.selection, rows, n, reinterpret_cast<unsigned short *>(ring), counts) * size;
  const int run = ((selected + ranks - 1) / ranks + 15) / 16 * 16, lo = min(rank * run, selected), hi = min(lo + run, selected);
  if (a.skip) dozens_neurons(reinterpret_cast<unsigned short *>(ring), size, lo, hi, neurons);

  const int stages = (hi - lo + depth - 1) / depth;
  // Where matrix loads do not transpose, neuron 4t + i of 16 lies at 4i + t, and pieces are exchanged by t.
  const int row_lanes = min(pieces, 32), first_piece = lane & (row_lanes - 1), first_row = threadIdx.x >> dozens_log2(row_lanes), row_step = EXPERTS_DOZENS_THREADS >> dozens_log2(row_lanes);
  auto fetch = [&](int stage, int slot) {
    const unsigned base = hopper_address(ring) + slot * slot_bytes;
#pragma unroll 2
    for (int row = first_row; row < depth; row += row_step) {
      const int place = lo + stage * depth + row, own_t = row / 4 % 4;
      const long long from = place < hi ? (a.skip ? neurons[place - lo] : place) * row_bytes : 0;
      const int line = (IS_TRANSPOSED ? row : (row & ~15) + row % 4 * 4 + own_t) * pieces;
#pragma unroll 1
      for (int piece = first_piece; piece < pieces; piece += row_lanes) {
        const bool there = place < hi && piece0 + piece < row_pieces;
        const unsigned to = base + (line + (IS_TRANSPOSED ? piece ^ (row & 7) : piece ^ own_t << 1)) * 16;
        hopper_copy16(to, static_cast<const char *>(a.down) + (there ? from + (piece0 + piece) * 16 : 0), there ? 16 : 0);
      }
    }
  };
  auto fetch_hidden = [&](int stage, int slot) {
#pragma unroll 1
    for (int row = warp; row < rows; row += EXPERTS_DOZENS_WARPS)
#pragma unroll 1
      for (int at = lane * PER; at < depth; at += 32 * PER) {
        const int place = lo + stage * depth + at;
        hopper_copy16(hopper_address(hs) + slot * h_bytes + row * h_pitch + at * (int)sizeof(T), static_cast<const T *>(a.hidden) + (place < hi ? row * hidden_pitch + place : 0), place < hi ? 16 : 0);
      }
    hopper_arrive_copied(landed + slot * 8);
  };
  // All at once where there is room.
  const int ahead = stages <= a.slots ? stages : a.slots - 1;
#pragma unroll 1
  for (int stage = 0; stage < ahead; stage++) fetch(stage, stage);
  DOZENS_STAMP(1, 1);
  float4 bias = make_float4(0, 0, 0, 0);
  const int item = (ranks > 1 && a.splits <= 1 ? rank * share : 0) + threadIdx.x, column = group * columns + item % fours * 4;
  auto bias_at = [&](int c) { return a.down_bias && c < a.d_out ? a.down_bias[c] : 0.0f; };
  if (item < items) bias = make_float4(bias_at(column), bias_at(column + 1), bias_at(column + 2), bias_at(column + 3));

  hopper_wait_launch();
  DOZENS_STAMP(1, 2);
#pragma unroll 1
  for (int stage = 0; stage < ahead; stage++) fetch_hidden(stage, stage);

  float acc[UNIT / 16][TILES][4] = {};
  // What a lane reads: rows of 16 neurons by two pieces, pieces of four of x's rows.
  const int w_row = lane % 8 + lane / 16 * 8, w_piece = lane / 8 % 2;
  const unsigned h_base = hopper_address(hs) + (own_rows * TILES * 8 + lane / 16 * 8 + lane % 8) * h_pitch + lane / 8 % 2 * 16;
  int slot_number = 0, next = ahead;
  unsigned phase = 0;
#pragma unroll 1
  for (int stage = 0; stage < stages; stage++) {
    hopper_wait(landed + slot_number * 8, phase);
    __syncthreads();
    if (stage == 0) { DOZENS_STAMP(1, 3); }
    if (stage == 1) { DOZENS_STAMP(1, 4); }
    if (stage == 2) { DOZENS_STAMP(1, 5); }
    if (next < stages) {
      const int before = slot_number == 0 ? a.slots - 1 : slot_number - 1;
      fetch(next, before), fetch_hidden(next, before), next++;
    }
    const char *slot = ring + slot_number * slot_bytes, *hidden = hs + slot_number * h_bytes + (own_rows * TILES * 8 + g) * h_pitch;
    const unsigned slot_address = hopper_address(slot), h_slot = h_base + slot_number * h_bytes;
    if (++slot_number == a.slots) slot_number = 0, phase ^= 1;
    if constexpr (IS_TRANSPOSED) {
#pragma unroll 2
      for (int s = 0; s < a.steps; s++) {
        const int sixteen = own_part * a.steps + s;
        uint4 b[TILES / 2], w[UNIT / 16];
#pragma unroll
        for (int i = 0; i < TILES / 2; i++) b[i] = dozens_matrices(h_slot + i * 16 * h_pitch + sixteen * 32);
#pragma unroll
        for (int c = 0; c < UNIT / 16; c++) w[c] = dozens_transposed(slot_address + ((sixteen * 16 + w_row) * pieces + ((own_unit * 8 + 2 * c + w_piece) ^ (w_row & 7))) * 16);
#pragma unroll
        for (int c = 0; c < UNIT / 16; c++)
#pragma unroll
          for (int i = 0; i < TILES; i++)
            experts_mma<STORAGE>(acc[c][i], w[c].x, w[c].y, w[c].z, w[c].w, i % 2 ? b[i / 2].z : b[i / 2].x, i % 2 ? b[i / 2].w : b[i / 2].y);
      }
    } else {
#pragma unroll 1
    for (int s = 0; s < a.steps; s++) {
      const int sixteen = own_part * a.steps + s;
      uint4 w[4];
#pragma unroll
      for (int i = 0; i < 4; i++) {
        const char *row = slot + (sixteen * 16 + i * 4 + t) * pieces * 16;
        if (IS_8_BIT) {
          const uint2 v = dozens_at<uint2>(row + ((own_unit * 4 + g / 2) ^ t << 1) * 16 + g % 2 * 8);
          const uint2 p = experts_widen(v.x), q = experts_widen(v.y);
          w[i] = make_uint4(p.x, p.y, q.x, q.y);
        } else {
          w[i] = dozens_at<uint4>(row + ((own_unit * 8 + g) ^ t << 1) * 16);
        }
      }
      const unsigned w0[4] = {w[0].x, w[0].y, w[0].z, w[0].w}, w1[4] = {w[1].x, w[1].y, w[1].z, w[1].w};
      const unsigned w2[4] = {w[2].x, w[2].y, w[2].z, w[2].w}, w3[4] = {w[3].x, w[3].y, w[3].z, w[3].w};
      const char *h = hidden + (sixteen * 16 + 4 * t) * (int)sizeof(T);
      if (sizeof(T) == 4) {
#pragma unroll
        for (int i = 0; i < TILES; i++) {
          const uint4 b = dozens_at<uint4>(h + i * 8 * h_pitch);
#pragma unroll
          for (int c = 0; c < UNIT / 16; c++) {
            experts_mma<STORAGE>(acc[c][i], w0[2 * c], w0[2 * c + 1], w1[2 * c], w1[2 * c + 1], b.x, b.y);
            experts_mma<STORAGE>(acc[c][i], w2[2 * c], w2[2 * c + 1], w3[2 * c], w3[2 * c + 1], b.z, b.w);
          }
        }
      } else {
        uint2 b[TILES];
#pragma unroll
        for (int i = 0; i < TILES; i++) b[i] = dozens_at<uint2>(h + i * 8 * h_pitch);
#pragma unroll
        for (int c = 0; c < UNIT / 16; c++) {
          const unsigned a0 = (w0[c] & 0xffffu) | w1[c] << 16, a1 = w0[c] >> 16 | (w1[c] & 0xffff0000u);
          const unsigned a2 = (w2[c] & 0xffffu) | w3[c] << 16, a3 = w2[c] >> 16 | (w3[c] & 0xffff0000u);
#pragma unroll
          for (int i = 0; i < TILES; i++) experts_mma<STORAGE>(acc[c][i], a0, a1, a2, a3, b[i].x, b[i].y);
        }
      }
    }
    }
  }

  // ---- Sums: over warps, over ranks ----
  DOZENS_STAMP(1, 6);
  __syncthreads();
  // Lane (g, t) has rows 2t and 2t + 1 of columns g and g + 8 of each 16, or of columns Q · g ….
#pragma unroll
  for (int i = 0; i < TILES; i++)
#pragma unroll
    for (int r = 0; r < 2; r++)
#pragma unroll
      for (int c = 0; c < UNIT / 16; c += 2)
        if (IS_TRANSPOSED) {
          float *to = sums + ((warp * TILES + i) * 8 + 2 * t + r) * PITCH + 16 * c + g;
          to[0] = acc[c][i][r], to[8] = acc[c][i][2 + r], to[16] = acc[c + 1][i][r], to[24] = acc[c + 1][i][2 + r];
        } else
        *reinterpret_cast<float4 *>(sums + ((warp * TILES + i) * 8 + 2 * t + r) * PITCH + g * Q + 2 * c) =
            make_float4(acc[c][i][r], acc[c][i][2 + r], acc[c + 1][i][r], acc[c + 1][i][2 + r]);
  __syncthreads();
  auto sum_at = [&](int i) {
    const int row = i / fours, c = i % fours * 4, first = c / UNIT * a.row_groups + row / (TILES * 8);
    float4 sum = make_float4(0, 0, 0, 0);
    for (int p = 0; p < along; p++) {
      const float4 v = *reinterpret_cast<const float4 *>(sums + ((first + p * a.across * a.row_groups) * TILES * 8 + row % (TILES * 8)) * PITCH + c % UNIT);
      sum.x += v.x, sum.y += v.y, sum.z += v.z, sum.w += v.w;
    }
    return sum;
  };
  auto write = [&](int i, float4 sum) {
    const float unit_scale = STORAGE == INT8 ? 1.0f / 127.0f : 1.0f;
    const int row = i / fours, c0 = group * columns + i % fours * 4;
    if (i != item) bias = make_float4(bias_at(c0), bias_at(c0 + 1), bias_at(c0 + 2), bias_at(c0 + 3));
    const float four[4] = {sum.x * unit_scale + bias.x, sum.y * unit_scale + bias.y, sum.z * unit_scale + bias.z, sum.w * unit_scale + bias.w};
#pragma unroll
    for (int k = 0; k < 4; k++)
      if (c0 + k < a.d_out) experts_write(a.out, (long long)row * a.d_out + c0 + k, a.out_type, four[k]);
  };
  if (ranks == 1) {
    for (int i = threadIdx.x; i < items; i += EXPERTS_DOZENS_THREADS) write(i, sum_at(i));
    return;
  }
  if (a.splits > 1) {
    // The last of a group's blocks adds all of them up, in their order.
    float4 *parts = reinterpret_cast<float4 *>(a.partials) + (long long)group * ranks * items;
    for (int i = threadIdx.x; i < items; i += EXPERTS_DOZENS_THREADS) parts[rank * items + i] = sum_at(i);
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) counts[0] = atomicAdd(a.counters + group, 1);
    __syncthreads();
    DOZENS_STAMP(1, 7);
    if (counts[0] != ranks - 1) return;
    __threadfence();
    for (int i = threadIdx.x; i < items; i += EXPERTS_DOZENS_THREADS) {
      float4 sum = make_float4(0, 0, 0, 0);
      for (int r0 = 0; r0 < ranks; r0 += 8) {
        float4 v[8];
#pragma unroll
        for (int r = 0; r < 8; r++) v[r] = r0 + r < ranks ? __ldcg(parts + (r0 + r) * items + i) : make_float4(0, 0, 0, 0);
#pragma unroll
        for (int r = 0; r < 8; r++) sum.x += v[r].x, sum.y += v[r].y, sum.z += v[r].z, sum.w += v[r].w;
      }
      write(i, sum);
    }
    DOZENS_STAMP(1, 8);
    return;
  }
  hopper_cluster_wait();
  for (int i = threadIdx.x; i < items; i += EXPERTS_DOZENS_THREADS) hopper_cluster_store(hopper_address(received + rank * share + i % share), i / share, sum_at(i));
  hopper_cluster_arrive();
  hopper_cluster_wait();
  DOZENS_STAMP(1, 7);
  for (int i = item; i < min(items, (rank + 1) * share); i += EXPERTS_DOZENS_THREADS) {
    float4 sum = make_float4(0, 0, 0, 0);
    for (int r = 0; r < ranks; r++) {
      const float4 v = received[r * share + i - rank * share];
      sum.x += v.x, sum.y += v.y, sum.z += v.z, sum.w += v.w;
    }
    write(i, sum);
  }
}

// In groups of 16 rows, or 32.
#define EXPERTS_DOZENS_ROWS(name, STORAGE, ROWS)                                                                     \
  KERNEL __launch_bounds__(256, 2) experts_dozens_up_plain_##name##_##ROWS(const experts_dozens_args a) {            \
    experts_dozens_up<STORAGE, false, ROWS / 8>(a);                                                                  \
  }                                                                                                                  \
  KERNEL __launch_bounds__(256, 2) experts_dozens_up_gated_##name##_##ROWS(const experts_dozens_args a) {            \
    experts_dozens_up<STORAGE, true, ROWS / 8>(a);                                                                   \
  }                                                                                                                  \
  KERNEL __launch_bounds__(256, 2) experts_dozens_down_##name##_##ROWS(const experts_dozens_args a) {                \
    experts_dozens_down<STORAGE, ROWS / 8>(a);                                                                       \
  }
#define EXPERTS_DOZENS(name, STORAGE) EXPERTS_DOZENS_ROWS(name, STORAGE, 16) EXPERTS_DOZENS_ROWS(name, STORAGE, 32)

EXPERTS_DOZENS(f16, HALF)
#ifndef DOZENS_F16  // to compile sooner while trying things
EXPERTS_DOZENS(bf16, BFLOAT16)
EXPERTS_DOZENS(tf32, TF32)
EXPERTS_DOZENS(f32, FLOAT32)
EXPERTS_DOZENS(int8, INT8)
#endif
