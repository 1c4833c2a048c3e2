// The expert op for many rows of a narrow layer on Hopper (sm_90a), up to 256 columns in and out: a row's whole result
// stays in registers until all of its experts are added up, so that it is written once and nothing else is.
//
// A tile is 128 rows, in the order that experts-narrow-rows.sm90a.cu has put them in, or in their own. It runs the units of
// 128 neurons that any of its rows runs; within a unit, what a row does not run is masked. A block stays on its
// multiprocessor and goes from tile to tile. Of its first warpgroup one thread copies weights by the bulk tensor copy engine
// into a ring of slots, one warp looks up what a tile's rows run, and two gather 64 rows of x each by 16-byte copies,
// swizzled as the engine would. Two more warpgroups have 64 rows each: they multiply the rows by a unit's up rows; with
// biases added, activated, masked and rounded to 16 bits the sums are the left operand, in registers, of the product with
// the unit's down rows.
#include "experts-narrow.cuh"
#include "hopper-activations.cuh"
#include "hopper-results.cuh"
#include "hopper.cuh"

// 64 rows of x by 64 columns.
constexpr int EXPERTS_NARROW_X = 8192, EXPERTS_NARROW_STEPS = 4;
// D: output columns. A slot holds 64 neurons' down rows, or as many steps of 64 columns of 128 neurons' up rows as fit.
template <int D> struct experts_narrow_shared {
  static constexpr int SLOT = D * 128, UPS = SLOT / 16384, SLOTS = D == 256 ? 4 : 6;
  typedef hopper_ring<SLOTS> weights;
};
typedef hopper_ring<EXPERTS_NARROW_STEPS> experts_narrow_x;
typedef hopper_ring<2> experts_narrow_tiles;
// Room for the barriers of most slots: of weights, of x twice, of tiles, of biases.
constexpr int EXPERTS_NARROW_BARRIERS = 16 * (experts_narrow_shared<192>::SLOTS + 2 * EXPERTS_NARROW_STEPS + 2 + 1);

struct experts_narrow_call {
  const hopper_map *up, *down;
  const void *x;          // [rows, pitch]
  const unsigned *bits;   // [rows]: the experts that a row runs
  const int *list;        // [rows]: the rows in their order, or null
  const float *up_bias, *down_bias;
  void *out;              // [rows, d_out]
  int rows, pitch, d_out;
  experts_narrow_units units;
  int activation;
};

// What is known of a tile.
struct __align__(16) experts_narrow_tile {
  int row[128];
  unsigned bits[128];  // of rows that there are not: none
  unsigned units[2];   // that any of a warpgroup's 64 rows runs
  int rows;            // 0 behind the last tile
};

// A warpgroup's 64 rows of a tile.
template <typename T, int D>
__device__ __forceinline__ void experts_narrow_rows(const experts_narrow_call &call, const experts_narrow_tile &tile, unsigned tile_done, int consumer,
                                                    unsigned x_base, unsigned w_base, const float *bias, experts_narrow_x &x_ring,
                                                    typename experts_narrow_shared<D>::weights &w_ring) {
  typedef experts_narrow_shared<D> shared;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32 % 4, g = lane / 4, t = lane % 4;
  const int row = consumer * 64 + warp * 16 + g, steps = (call.pitch + 63) / 64, size = call.units.size;
  const bool there[2] = {row < tile.rows, row + 8 < tile.rows};
  const unsigned bits[2] = {tile.bits[row], tile.bits[row + 8]};
  T *const to[2] = {static_cast<T *>(call.out) + (long long)tile.row[row] * call.d_out, static_cast<T *>(call.out) + (long long)tile.row[row + 8] * call.d_out};
  const unsigned all = tile.units[0] | tile.units[1], own = tile.units[consumer];
  __syncwarp();
  if (lane == 0) hopper_arrive(tile_done);

  // Slots go back once products asked for later are all that is under way.
  auto done = w_ring;
  int held = 0;
  auto give_back = [&](int keep) {
    for (; held > keep; held--, done.next())
      if (lane == 0) hopper_arrive(done.empty());
  };
  auto multiplied = [&] {
    hopper_wgmma_commit();
    w_ring.next(), held++;
    hopper_wgmma_wait<1>();
    give_back(1);
  };
  // Steps of x are one turn of its ring, whatever their number.
  auto x_wait = [&](int step) { hopper_wait(x_ring.barriers + step * 8, x_ring.phase); };
  auto x_done = [&] {
    if (lane == 0)
      for (int step = 0; step < steps; step++) hopper_arrive(x_ring.barriers + (EXPERTS_NARROW_STEPS + step) * 8);
  };
  if (own == 0) {
    for (int step = 0; step < steps; step++) x_wait(step);
    x_done();
  }

  float out[D / 2];
#pragma unroll
  for (int i = 0; i < D / 2; i++) out[i] = 0.0f;
  const experts_logistic logistic(call.activation);
  bool is_first = true, is_pending = false;
  unsigned hidden[32];
  // The products with a unit's down rows, asked for together with those with the next one's up rows.
  auto finish = [&] {
#pragma unroll
    for (int k0 = 0; k0 < EXPERTS_NARROW_WIDTH; k0 += 64) {
      hopper_wait(w_ring.full(), w_ring.phase);
      hopper_wgmma_fence();
      const unsigned long long down = hopper_descriptor(w_base + w_ring.slot * shared::SLOT, 8192);
#pragma unroll
      for (int k = 0; k < 64; k += 16)
        hopper_wgmma<T, 1>(out, hidden[(k0 + k) / 4], hidden[(k0 + k) / 4 + 1], hidden[(k0 + k) / 4 + 2], hidden[(k0 + k) / 4 + 3], down + k * (128 / 16), 1);
      multiplied();
    }
  };
#pragma unroll 1
  for (unsigned left = all; left != 0; left &= left - 1) {
    const int unit = __ffs(left) - 1;
    if (is_pending) finish();
    if (!(own >> unit & 1)) {
      // For the other warpgroup's rows.
      is_pending = false;
      hopper_wgmma_wait<0>();
      give_back(0);
      for (int slot = (steps + shared::UPS - 1) / shared::UPS + 2; slot > 0; slot--) {
        hopper_wait(w_ring.full(), w_ring.phase);
        w_ring.next(), held++;
        give_back(0);
      }
      continue;
    }
    if constexpr (D == 256) {
      // Registers are too few for the sums of both products and the operand between them.
      hopper_wgmma_wait<0>();
      give_back(0);
    }
    float sum[64];
    if constexpr (D == 256) {
#pragma unroll
      for (int i = 0; i < 64; i++) sum[i] = 0.0f;
    }
#pragma unroll 1
    for (int step = 0; step < steps; step += shared::UPS) {
      hopper_wait(w_ring.full(), w_ring.phase);
      if (is_first) {
        for (int i = step; i < steps && i < step + shared::UPS; i++) x_wait(i);
        hopper_proxy_fence();
      }
      hopper_wgmma_fence();
#pragma unroll
      for (int i = 0; i < shared::UPS; i++) {
        if (i > 0 && step + i >= steps) break;
        const unsigned long long x = hopper_descriptor(x_base + (step + i) * EXPERTS_NARROW_X, 0), up = hopper_descriptor(w_base + w_ring.slot * shared::SLOT + i * 16384, 0);
#pragma unroll
        for (int s = 0; s < 4; s++) hopper_wgmma<T, 0, 0>(sum, x + s * 2, up + s * 2, D == 256 || step + i + s > 0);
      }
      multiplied();
    }
    is_first = false, is_pending = true;
    hopper_wgmma_wait<0>();
    give_back(0);
    if (own >> unit == 1) x_done();
    hopper_settled(sum);

    auto pack = [&](auto pair) {
#pragma unroll
      for (int j = 0; j < 16; j++) {
        const float2 b = *reinterpret_cast<const float2 *>(bias + unit * EXPERTS_NARROW_WIDTH + 8 * j + 2 * t);
        hidden[2 * j] = pair(sum[4 * j] + b.x, sum[4 * j + 1] + b.y);
        hidden[2 * j + 1] = pair(sum[4 * j + 2] + b.x, sum[4 * j + 3] + b.y);
      }
    };
    if (call.activation == 0)
      pack([](float x, float y) { return hopper_pack_relu<T>(x, y); });
    else if (call.activation == 1)
      pack([](float x, float y) { return hopper_pack<T>(experts_gelu(x), experts_gelu(y)); });
    else
      pack([&](float x, float y) { return hopper_pack<T>(logistic(x), logistic(y)); });
    if (size % EXPERTS_NARROW_WIDTH == 0) {
      const int expert = unit * EXPERTS_NARROW_WIDTH / size;
#pragma unroll
      for (int half = 0; half < 2; half++) {
        const unsigned keep = 0u - (bits[half] >> expert & 1);
#pragma unroll
        for (int j = 0; j < 16; j++) hidden[2 * j + half] &= keep;
      }
    } else {
      // Eight neurons are of one expert; behind the last one lie zeros.
      const unsigned per_size = 0xffffffffu / size + 1;
#pragma unroll
      for (int j = 0; j < 16; j++) {
        const unsigned expert = min(31u, __umulhi(unit * EXPERTS_NARROW_WIDTH + 8 * j, per_size));
#pragma unroll
        for (int half = 0; half < 2; half++) hidden[2 * j + half] &= 0u - (bits[half] >> expert & 1);
      }
    }
  }
  if (is_pending) finish();
  hopper_wgmma_wait<0>();
  give_back(0);
  hopper_settled(out);
  x_ring.phase ^= 1;

  const float *down_bias = bias + call.units.count() * EXPERTS_NARROW_WIDTH;
#pragma unroll
  for (int j = 0; j < D / 8; j += 4) {
#pragma unroll
    for (int half = 0; half < 2; half++) {
      unsigned w[4];
#pragma unroll
      for (int i = 0; i < 4; i++) {
        const float2 b = *reinterpret_cast<const float2 *>(down_bias + 8 * (j + i) + 2 * t);
        w[i] = hopper_pack<T>(out[4 * (j + i) + 2 * half] + b.x, out[4 * (j + i) + 2 * half + 1] + b.y);
      }
      hopper_exchange(w, t);
      const int column = 8 * j + 8 * t;
      if (there[half] && column < call.d_out) *reinterpret_cast<uint4 *>(to[half] + column) = make_uint4(w[0], w[1], w[2], w[3]);
    }
  }
}

template <typename T, int D> __device__ __forceinline__ void experts_narrow(const experts_narrow_call &call) {
  typedef experts_narrow_shared<D> shared;
  DYNAMIC_SHARED(unsigned char, memory);
  const unsigned x_base = hopper_address(memory);  // of 1024 bytes' alignment, nothing else being in shared memory
  const unsigned w_base = x_base + 2 * EXPERTS_NARROW_STEPS * EXPERTS_NARROW_X, barriers = w_base + shared::SLOTS * shared::SLOT;
  const int warpgroup = threadIdx.x / 128, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  typename shared::weights w_ring{barriers};
  auto x_ring_of = [&](int consumer) { return experts_narrow_x{barriers + (shared::SLOTS + consumer * EXPERTS_NARROW_STEPS) * 16}; };
  experts_narrow_tiles tile_ring{barriers + (shared::SLOTS + 2 * EXPERTS_NARROW_STEPS) * 16};
  experts_narrow_tile *tiles = reinterpret_cast<experts_narrow_tile *>(memory + (barriers - x_base) + EXPERTS_NARROW_BARRIERS);
  float *bias = reinterpret_cast<float *>(tiles + 2);  // of all units, then of the output
  const unsigned bias_there = barriers + EXPERTS_NARROW_BARRIERS - 8;
  const int count = call.units.count(), hidden = call.units.experts * call.units.size, steps = (call.pitch + 63) / 64;

  if (threadIdx.x == 0) {
    w_ring.init(1, 8);
    for (int consumer = 0; consumer < 2; consumer++) x_ring_of(consumer).init(32, 4);  // a warp gathers, four multiply
    tile_ring.init(32, 11);                                                            // a warp each, and the thread that copies
    hopper_init(bias_there, 1);
    hopper_init_done();
    hopper_expect(bias_there, (hidden + call.d_out) * 4);
    hopper_copy(hopper_address(bias), call.up_bias, hidden * 4, bias_there);
    hopper_copy(hopper_address(bias + count * EXPERTS_NARROW_WIDTH), call.down_bias, call.d_out * 4, bias_there);
  }
  __syncthreads();
  hopper_launch_next();
  hopper_wait_launch();

  if (warpgroup == 0) {
    hopper_registers_fewer<40>();
    if (threadIdx.x == 0) {
      for (;; tile_ring.next()) {
        const experts_narrow_tile &tile = tiles[tile_ring.slot];
        hopper_wait(tile_ring.full(), tile_ring.phase);
        if (tile.rows == 0) break;
        unsigned left = tile.units[0] | tile.units[1];
        hopper_arrive(tile_ring.empty());
        for (; left != 0; left &= left - 1) {
          const int unit = __ffs(left) - 1;
          for (int step = 0; step < steps; step += shared::UPS) {
            const int boxes = min(shared::UPS, steps - step);
            const unsigned to = w_base + w_ring.slot * shared::SLOT;
            hopper_wait(w_ring.empty(), w_ring.phase ^ 1);
            hopper_expect(w_ring.full(), boxes * 16384);
            for (int i = 0; i < boxes; i++) hopper_copy_box(to + i * 16384, call.up, w_ring.full(), (step + i) * 64, unit * EXPERTS_NARROW_WIDTH);
            w_ring.next();
          }
          for (int k = 0; k < EXPERTS_NARROW_WIDTH; k += 64) {
            const unsigned to = w_base + w_ring.slot * shared::SLOT;
            hopper_wait(w_ring.empty(), w_ring.phase ^ 1);
            hopper_expect(w_ring.full(), shared::SLOT);
#pragma unroll
            for (int i = 0; i < D / 64; i++) hopper_copy_box(to + i * 8192, call.down, w_ring.full(), i * 64, unit * EXPERTS_NARROW_WIDTH + k);
            w_ring.next();
          }
        }
      }
    } else if (warp == 1) {
      // Every second time the other way round: the first tiles have the most to do.
      const int blocks = gridDim.x, all = (call.rows + 127) / 128;
      const unsigned experts_of_lane = lane < count ? call.units.experts_of(lane) : 0;
      for (int turn = 0; turn * blocks < all; turn++) {
        const int index = turn % 2 == 0 ? turn * blocks + (int)blockIdx.x : (turn + 1) * blocks - 1 - (int)blockIdx.x;
        if (index >= all) continue;
        int row[4];
        unsigned bits[4], units[2] = {0, 0};
#pragma unroll
        for (int i = 0; i < 4; i++) {
          const int at = index * 128 + i * 32 + lane;
          row[i] = at < call.rows ? (call.list ? call.list[at] : at) : -1;
        }
#pragma unroll
        for (int i = 0; i < 4; i++) bits[i] = row[i] >= 0 ? call.bits[row[i]] : 0;
        for (int unit = 0; unit < count; unit++) {
          const unsigned experts = __shfl_sync(~0u, experts_of_lane, unit);
#pragma unroll
          for (int consumer = 0; consumer < 2; consumer++)
            if (__ballot_sync(~0u, ((bits[2 * consumer] | bits[2 * consumer + 1]) & experts) != 0) != 0) units[consumer] |= 1u << unit;
        }
        experts_narrow_tile &tile = tiles[tile_ring.slot];
        hopper_wait(tile_ring.empty(), tile_ring.phase ^ 1);
#pragma unroll
        for (int i = 0; i < 4; i++) tile.row[i * 32 + lane] = max(0, row[i]), tile.bits[i * 32 + lane] = bits[i];
        if (lane == 0) tile.units[0] = units[0], tile.units[1] = units[1], tile.rows = min(128, call.rows - index * 128);
        hopper_arrive(tile_ring.full());
        tile_ring.next();
      }
      hopper_wait(tile_ring.empty(), tile_ring.phase ^ 1);
      if (lane == 0) tiles[tile_ring.slot].rows = 0;
      hopper_arrive(tile_ring.full());
    } else if (warp >= 2) {
      // Eight lanes copy 128 bytes of a row.
      const int consumer = warp - 2, piece = lane % 8;
      auto x_ring = x_ring_of(consumer);
      const unsigned to0 = x_base + consumer * EXPERTS_NARROW_STEPS * EXPERTS_NARROW_X + lane / 8 * 128;
      for (;; tile_ring.next(), x_ring.phase ^= 1) {
        const experts_narrow_tile &tile = tiles[tile_ring.slot];
        hopper_wait(tile_ring.full(), tile_ring.phase);
        if (tile.rows == 0) break;
        unsigned rows[16];  // in 16 bytes
#pragma unroll
        for (int i = 0; i < 16; i++) rows[i] = (unsigned)tile.row[consumer * 64 + i * 4 + lane / 8] * (unsigned)(call.pitch / 8);
        __syncwarp();
        if (lane == 0) hopper_arrive(tile_ring.empty());
        for (int step = 0; step < steps; step++) {
          hopper_wait(x_ring.barriers + (EXPERTS_NARROW_STEPS + step) * 8, x_ring.phase ^ 1);
          const int column = step * 64 + piece * 8, bytes = min(16, max(0, (call.pitch - column) * 2));
          const uint4 *from = static_cast<const uint4 *>(call.x) + (bytes > 0 ? column / 8 : 0);
#pragma unroll
          for (int i = 0; i < 16; i++) hopper_copy16(to0 + step * EXPERTS_NARROW_X + i * 512 + ((piece ^ ((i * 4 + lane / 8) & 7)) * 16), from + rows[i], bytes);
          hopper_arrive_copied(x_ring.barriers + step * 8);
        }
      }
    }
  } else {
    hopper_registers_more<232>();
    const int consumer = warpgroup - 1;
    auto x_ring = x_ring_of(consumer);
    hopper_wait(bias_there, 0);
    for (;; tile_ring.next()) {
      const experts_narrow_tile &tile = tiles[tile_ring.slot];
      hopper_wait(tile_ring.full(), tile_ring.phase);
      if (tile.rows == 0) break;
      experts_narrow_rows<T, D>(call, tile, tile_ring.empty(), consumer, x_base + consumer * EXPERTS_NARROW_STEPS * EXPERTS_NARROW_X, w_base, bias, x_ring, w_ring);
    }
  }
  // The other block may still copy to this one's memory, or arrive at its barriers.
}

#define EXPERTS_NARROW(NAME, T, D)                                                                                      \
  extern "C" __global__ void __launch_bounds__(384, 1)                                                                  \
      NAME(const __grid_constant__ hopper_map up, const __grid_constant__ hopper_map down, const void *x,               \
           const unsigned *bits, const int *list, const float *up_bias, const float *down_bias, void *out,             \
           int rows, int pitch, int d_out, int experts, int size, int activation) {                          \
    experts_narrow<T, D>({&up, &down, x, bits, list, up_bias, down_bias, out, rows, pitch, d_out,                \
                          {experts, size}, activation});                                                                \
  }
EXPERTS_NARROW(experts_narrow_bf16_128, bf16, 128)
EXPERTS_NARROW(experts_narrow_f16_128, __half, 128)
EXPERTS_NARROW(experts_narrow_bf16_192, bf16, 192)
EXPERTS_NARROW(experts_narrow_f16_192, __half, 192)
EXPERTS_NARROW(experts_narrow_bf16_256, bf16, 256)
EXPERTS_NARROW(experts_narrow_f16_256, __half, 256)
