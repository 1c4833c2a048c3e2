// The expert op for up to 16 rows on Hopper (sm_90a) where weights are so many that nothing counts but to read each once
// without a pause: experts-stream.md has the reasons and the times.
//
// A cluster has a run of neurons and goes through it in steps. In each its blocks work out the hidden activations of some
// neurons each, up and gate side by side, and send them to one another; then each multiplies all of the step's by its
// share of the columns of down. Sums of the output stay in registers to the end, one set a cluster, and a small launch
// adds these up in the clusters' order: equal calls give equal bits.
//
// One thread has weights come through the copy engine, into a ring whose slots all hold 512 columns of 16 rows, by boxes
// of eight rows: of up and gate, a part of their width; of down, a block's share of columns. Down's are those of the step
// before, so that activations have time to arrive while the memory goes on. Eight warps multiply 64 of these columns each.
#include "experts-dozens.cuh"

constexpr int STREAM_THREADS = 32 * (EXPERTS_DOZENS_WARPS + 1), STREAM_ROWS = 16, STREAM_BUFFERS = 4, STREAM_SLOTS = 8;
constexpr int STREAM_COLUMNS = 512, STREAM_BOX = 8 * STREAM_COLUMNS * 2, STREAM_SLOT = 2 * STREAM_BOX;
constexpr int STREAM_SUMS_PITCH = 20, STREAM_SUMS = EXPERTS_DOZENS_WARPS * 16 * STREAM_SUMS_PITCH;  // in floats

// a.splits: clusters. Shared memory: the ring, x, sums of two steps, activations of four, barriers.
// Maps: boxes of 64 columns by 8 rows by 8 times 64 columns on.
template <int STORAGE, bool GATED>
__device__ __forceinline__ void experts_stream(const hopper_map *up, const hopper_map *gate, const hopper_map *down, const experts_dozens_args &a) {
  typedef typename experts_storage<STORAGE>::type T;
  constexpr int OWN = GATED ? 8 : 16;  // neurons of a block in a step
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  const int rank = dozens_rank(), ranks = dozens_ranks(), cluster = blockIdx.x / ranks;
  const int rows = a.rows, n = a.experts, size = a.expert_size, neurons = n * size;
  const int columns = a.d_out / ranks, chunks = (a.d + STREAM_COLUMNS - 1) / STREAM_COLUMNS, together = OWN * ranks;
  const int tiles = (together + 15) / 16;  // a step's slots of down
  const int all_steps = (neurons + together - 1) / together, step0 = (int)((long long)all_steps * cluster / a.splits);
  const int steps = (int)((long long)all_steps * (cluster + 1) / a.splits) - step0, neuron0 = step0 * together;
  const int hidden_pitch = tiles * 32 + 16, x_row = chunks * STREAM_COLUMNS * 2;

  DYNAMIC_SHARED(char, shared);
  char *xs = shared + STREAM_SLOTS * STREAM_SLOT;
  float *sums = reinterpret_cast<float *>(xs + STREAM_ROWS * x_row);
  char *activations = reinterpret_cast<char *>(sums + 2 * STREAM_SUMS);
  // The slots are at a multiple of 1024 bytes, nothing else being in shared memory.
  const unsigned slots = hopper_address(shared), hidden = hopper_address(activations);
  const unsigned barriers = hidden + STREAM_BUFFERS * STREAM_ROWS * hidden_pitch;
  hopper_ring<STREAM_SLOTS> ring = {barriers};
  // Two: who does not finish activations may arrive for the next step before others have for this one.
  auto summed = [&](int step) { return barriers + (2 * STREAM_SLOTS + step % 2) * 8; };
  const unsigned x_there = barriers + (2 * STREAM_SLOTS + 2) * 8;
  auto sent = [&](int step) { return x_there + 8 + step % STREAM_BUFFERS * 8; };

  if (threadIdx.x == 0) {
    ring.init(1, EXPERTS_DOZENS_WARPS);
    for (int i = 0; i < 2; i++) hopper_init(summed(i), EXPERTS_DOZENS_THREADS);
    hopper_init(x_there, 2 * EXPERTS_DOZENS_THREADS);
    for (int i = 0; i < STREAM_BUFFERS; i++) hopper_init(sent(i), 1);
    hopper_init_done();
  }
  // What no neuron writes multiplies weights too.
  for (int i = threadIdx.x; i < STREAM_BUFFERS * STREAM_ROWS * hidden_pitch / 4; i += STREAM_THREADS) reinterpret_cast<unsigned *>(activations)[i] = 0;
  __syncthreads();
  hopper_cluster_arrive();
  hopper_launch_next();

  if (warp == EXPERTS_DOZENS_WARPS) {
    // Rows and columns behind the last come as zeros.
    auto fetch = [&](const hopper_map *first, int row0, const hopper_map *second, int row1, int column) {
      hopper_wait(ring.empty(), ring.phase ^ 1);
      hopper_expect(ring.full(), STREAM_SLOT);
      hopper_copy_box(slots + ring.slot * STREAM_SLOT, first, ring.full(), 0, row0, column / 64);
      hopper_copy_box(slots + ring.slot * STREAM_SLOT + STREAM_BOX, second, ring.full(), 0, row1, column / 64);
      ring.next();
    };
    for (int step = 0; lane == 0 && step <= steps; step++) {
      if (step < steps) {
        const int neuron = neuron0 + step * together + rank * OWN;
        for (int chunk = 0; chunk < chunks; chunk++) fetch(up, neuron, GATED ? gate : up, GATED ? neuron : neuron + 8, chunk * STREAM_COLUMNS);
      }
      for (int tile = 0; step > 0 && tile < tiles; tile++) {
        const int neuron = neuron0 + (step - 1) * together + tile * 16;
        fetch(down, neuron, down, neuron + 8, rank * columns);
      }
    }
    __syncwarp();
    hopper_cluster_wait();
    return;
  }

  hopper_wait_launch();
  for (int i = threadIdx.x; i < STREAM_ROWS * x_row / 16; i += EXPERTS_DOZENS_THREADS)
    if (i / (x_row / 16) >= rows) reinterpret_cast<uint4 *>(xs)[i] = make_uint4(0, 0, 0, 0);
  dozens_read_x<STORAGE>(a, xs, 0, x_row / 2);
  hopper_arrive_copied(x_there);
  hopper_arrive(x_there);  // for what was not copied behind the thread's back
  hopper_cluster_wait();  // the others have begun
  hopper_wait(x_there, 0);

  // The activation that this thread finishes of each step.
  const int own = threadIdx.x % OWN, own_row = threadIdx.x / OWN;
  const bool finishes = threadIdx.x < STREAM_ROWS * OWN;
  const float per_size = 1.0f / (float)size;
  float out[4][2][4] = {};
#pragma unroll 1
  for (int step = 0; step <= steps; step++) {
    if (step < steps) {
      const int neuron = neuron0 + step * together + rank * OWN + own;
      float up_bias = 0, gate_bias = 0;
      bool runs = false;
      if (finishes && neuron < neurons && own_row < rows) {
        runs = a.selection[(long long)own_row * n + (int)(((float)neuron + 0.5f) * per_size)] != 0;
        if (a.up_bias) up_bias = a.up_bias[neuron];
        if (GATED && a.gate_bias) gate_bias = a.gate_bias[neuron];
      }
      float sum[2][4] = {};
#pragma unroll 1
      for (int chunk = 0; chunk < chunks; chunk++) {
        hopper_wait(ring.full(), ring.phase);
        // This warp's 64 columns: lines of 128 bytes of eight rows, pieces of 16 bytes exchanged as the engine does.
        const unsigned w_line = slots + ring.slot * STREAM_SLOT + lane / 8 % 2 * STREAM_BOX + (warp * 8 + lane % 8) * 128;
        auto w_at = [&](int piece) { return dozens_matrices(w_line + ((piece + lane / 16) ^ lane % 8) * 16); };
#pragma unroll
        for (int piece = 0; piece < 8; piece += 4) {
          const uint4 w[2] = {w_at(piece), w_at(piece + 2)};
#pragma unroll
          for (int j = 0; j < 2; j++) {
            const int row = j * 8 + lane % 8;
            const uint4 x = dozens_matrices(hopper_address(xs) + row * x_row + dozens_exchanged_x<STORAGE>(row, chunk * (STREAM_COLUMNS / 8) + warp * 8 + piece + lane / 8) * 16);
            experts_mma<STORAGE>(sum[j], w[0].x, w[0].y, w[0].z, w[0].w, x.x, x.y);
            experts_mma<STORAGE>(sum[j], w[1].x, w[1].y, w[1].z, w[1].w, x.z, x.w);
          }
        }
        __syncwarp();
        if (lane == 0) hopper_arrive(ring.empty());
        ring.next();
      }
      // Two steps' sums: those of the step before last have been read, or its activations would not have been there.
      float *of_step = sums + step % 2 * STREAM_SUMS;
#pragma unroll
      for (int j = 0; j < 2; j++) {
        float *to = of_step + (warp * 16 + g) * STREAM_SUMS_PITCH + j * 8 + 2 * t;
        *reinterpret_cast<float2 *>(to) = make_float2(sum[j][0], sum[j][1]);
        *reinterpret_cast<float2 *>(to + 8 * STREAM_SUMS_PITCH) = make_float2(sum[j][2], sum[j][3]);
      }
      hopper_arrive(summed(step));
      if (threadIdx.x == 0) hopper_expect(sent(step), STREAM_ROWS * together * 2);
      if (finishes) {
        hopper_wait(summed(step), step / 2 & 1);
        float u = up_bias, v = gate_bias;
#pragma unroll
        for (int w = 0; w < EXPERTS_DOZENS_WARPS; w++) {
          const float *from = of_step + (w * 16 + own) * STREAM_SUMS_PITCH + own_row;
          u += from[0];
          if (GATED) v += from[8 * STREAM_SUMS_PITCH];
        }
        float h = experts_activate(GATED ? v : u, a.activation);
        if (GATED) h *= u;
        if (!runs) h = 0.0f;
        // Eight lanes have a row's eight neurons; each gets all of them.
        const float beside = __shfl_xor_sync(~0u, h, 1);
        const bool odd = lane & 1;
        const unsigned pair = hopper_pack<T>(odd ? beside : h, odd ? h : beside);
        unsigned w[4];
#pragma unroll
        for (int i = 0; i < 4; i++) w[i] = __shfl_sync(~0u, pair, (lane & ~7) + 2 * i);
        const int block = lane % 8;
        if (block < ranks)
          hopper_cluster_send(hidden + (step % STREAM_BUFFERS * STREAM_ROWS + own_row) * hidden_pitch + (rank * OWN + own / 8 * 8) * 2, sent(step), block, w);
      }
    }
    if (step == 0) continue;
    const int before = step - 1;
    hopper_cluster_wait_sent(sent(before), before / STREAM_BUFFERS & 1);
#pragma unroll 1
    for (int tile = 0; tile < tiles; tile++) {
      const char *from = activations + (before % STREAM_BUFFERS * STREAM_ROWS + g) * hidden_pitch + tile * 32 + t * 4;
      unsigned h[2][2];
#pragma unroll
      for (int j = 0; j < 2; j++)
#pragma unroll
        for (int half = 0; half < 2; half++) h[j][half] = *reinterpret_cast<const unsigned *>(from + j * 8 * hidden_pitch + half * 16);
      hopper_wait(ring.full(), ring.phase);
      const unsigned w_line = slots + ring.slot * STREAM_SLOT + lane / 16 * STREAM_BOX + (warp * 8 + lane % 8) * 128;
#pragma unroll
      for (int m = 0; m < 4; m++) {
        const uint4 w = dozens_transposed(w_line + ((m * 2 + lane / 8 % 2) ^ lane % 8) * 16);
#pragma unroll
        for (int j = 0; j < 2; j++) experts_mma<STORAGE>(out[m][j], w.x, w.y, w.z, w.w, h[j][0], h[j][1]);
      }
      __syncwarp();
      if (lane == 0) hopper_arrive(ring.empty());
      ring.next();
    }
  }
  // [clusters, rows, d_out]
  float *to = a.partials + (long long)cluster * rows * a.d_out + rank * columns;
#pragma unroll
  for (int m = 0; m < 4; m++)
#pragma unroll
    for (int j = 0; j < 2; j++)
#pragma unroll
      for (int i = 0; i < 4; i++) {
        const int column = warp * 64 + m * 16 + i / 2 * 8 + g, row = j * 8 + 2 * t + i % 2;
        if (row < rows && column < columns) to[(long long)row * a.d_out + column] = out[m][j][i];
      }
}

// The clusters' sums and the bias, two columns a thread. a.splits: clusters.
KERNEL __launch_bounds__(128) experts_stream_sum(const experts_dozens_args a) {
  const int pairs = a.d_out / 2, i = blockIdx.x * blockDim.x + threadIdx.x, column = i % pairs * 2;
  hopper_launch_next();
  const bool mine = i < a.rows * pairs;
  float2 sum = make_float2(0, 0);
  if (mine && a.down_bias) sum = make_float2(a.down_bias[column], a.down_bias[column + 1]);
  hopper_wait_launch();
  if (!mine) return;
  const float2 *from = reinterpret_cast<const float2 *>(a.partials) + i;
  for (int c0 = 0; c0 < a.splits; c0 += 16) {
    float2 v[16];
#pragma unroll
    for (int c = 0; c < 16; c++) v[c] = c0 + c < a.splits ? __ldcg(from + (long long)(c0 + c) * a.rows * pairs) : make_float2(0, 0);
#pragma unroll
    for (int c = 0; c < 16; c++) sum.x += v[c].x, sum.y += v[c].y;
  }
  experts_write(a.out, 2ll * i, a.out_type, sum.x);
  experts_write(a.out, 2ll * i + 1, a.out_type, sum.y);
}

#define EXPERTS_STREAM(name, STORAGE)                                                                                    \
  KERNEL __launch_bounds__(STREAM_THREADS, 1)                                                                            \
      experts_stream_plain_##name(const __grid_constant__ hopper_map up, const __grid_constant__ hopper_map gate,        \
                                  const __grid_constant__ hopper_map down, const experts_dozens_args a) {                \
    experts_stream<STORAGE, false>(&up, &gate, &down, a);                                                                \
  }                                                                                                                      \
  KERNEL __launch_bounds__(STREAM_THREADS, 1)                                                                            \
      experts_stream_gated_##name(const __grid_constant__ hopper_map up, const __grid_constant__ hopper_map gate,        \
                                  const __grid_constant__ hopper_map down, const experts_dozens_args a) {                \
    experts_stream<STORAGE, true>(&up, &gate, &down, a);                                                                 \
  }
EXPERTS_STREAM(f16, HALF)
EXPERTS_STREAM(bf16, BFLOAT16)
