// The expert op for many rows on Hopper (sm_90a): rows gathered, both products, hidden activations kept in registers
// between them.
//
// Work is a table of tiles (experts-segments.sm90a.cu): up to 128 rows that all run the same one or two units of neurons. A
// block stays on its multiprocessor and takes the next tile as it comes to the end of one. Of its first warpgroup one
// thread takes tiles and copies weights by the bulk tensor copy engine into a ring of 32 KB slots; two warps gather 64 of
// the tile's rows of x each, by 16-byte copies into rings of 8 KB slots, swizzled as the engine would. Two more
// warpgroups have 64 rows each: they multiply the rows by the units' up rows, 64 deep a step. With biases added,
// activated, masked and rounded to 16 bits these are the left operand, in registers, of the product with the units' down
// rows, 128 output columns at a time. The products of the next columns are under way while results leave, 16 contiguous
// bytes a lane: four lanes exchange them, or down's columns come in an order that makes a lane's sums contiguous
// (INTERLEAVED; experts_segments_interleave).
#pragma once
#include "experts-units.cuh"
#include "hopper.cuh"
#include "hopper-activations.cuh"
#include "hopper-results.cuh"

// Bytes of a slot of gathered rows, for a step of 64, and of one of weights, which has as many steps of the first product as
// fit. Narrow units' rows are multiplied sooner, so that more of them are on their way.
constexpr int EXPERTS_MANY_A = 8192, EXPERTS_MANY_B = 32768, EXPERTS_MANY_COLUMNS = 128;
template <int WIDTH> struct experts_many_rings {
  static constexpr int SLOTS_A = WIDTH == 64 ? 8 : 4, SLOTS_B = WIDTH == 64 ? 3 : 5;
  static constexpr int BYTES = 2 * SLOTS_A * EXPERTS_MANY_A + SLOTS_B * EXPERTS_MANY_B;
  typedef hopper_ring<SLOTS_A> rows;
  typedef hopper_ring<SLOTS_B> weights;
};
// Steps of the first product in a slot of weights, of so many neurons.
__device__ __forceinline__ constexpr int experts_many_steps(int neurons) { return EXPERTS_MANY_B / (neurons * 128); }
typedef hopper_ring<1> experts_ring_facts;
typedef hopper_ring<2> experts_ring_tiles;
// Room for the barriers of most slots: of weights, of rows twice, of facts and of tiles.
constexpr int EXPERTS_MANY_BARRIERS = 16 * (experts_many_rings<64>::SLOTS_B + 2 * experts_many_rings<64>::SLOTS_A + 1 + 2);

// Where results go. ADD: into the token's row, which holds the bias at first; with the bias, as the row, in tiles of rows
// that have no other segment. STORE: a token's first segment becomes its row, others go to a list of rows of their own,
// [segments - 1, rows, d_out]; experts_segments_combine adds them up.
enum { EXPERTS_ADD, EXPERTS_STORE };

struct experts_many_call {
  const hopper_map *up, *gate, *down;
  const void *x;
  const int4 *tiles;
  const unsigned *list;
  int *header;  // of the table of tiles
  const unsigned *mask;
  const float *up_bias, *gate_bias;
  const void *bias;  // [d_out] in 16 bits
  void *out, *others;
  int rows, d, pitch, d_out, words;
  experts_units units;
  int activation, mode;
};

// What a tile's rows and units are, which one warp looks up ahead of time.
struct experts_many_facts {
  int4 tile;                 // without EXPERTS_ONLY; of no rows behind the last one
  float bias[256];           // of the tile's neurons; GATED: of up's, then of gate's
  unsigned place[128];       // rows in the list
  unsigned chosen[2][128];   // which experts of a unit a row runs
  int only;                  // EXPERTS_ONLY of the tile
};

// A warpgroup's part of one tile. UNITS: of the tile; WIDTH: neurons of a unit. GATED: one unit, up and gate. ONLY: of rows
// that have no other segment. INTERLEAVED: down's columns.
template <typename T, int WIDTH, int UNITS, bool GATED, bool ONLY, bool INTERLEAVED>
__device__ __forceinline__ void experts_many_tile(const experts_many_call &call, const experts_many_facts &facts,
                                                  unsigned facts_done, int first_row, unsigned a_base, unsigned b_base,
                                                  typename experts_many_rings<WIDTH>::rows &a_ring,
                                                  typename experts_many_rings<WIDTH>::weights &b_ring) {
  constexpr int HIDDEN = WIDTH * UNITS, WIDE = GATED ? 2 * HIDDEN : HIDDEN;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32 % 4, g = lane / 4, t = lane % 4;
  const experts_units &units = call.units;
  const bool masked = units.per_unit > 1 || units.size % WIDTH != 0;

  // Of this lane's two rows: where in the list they stand, whether they are in the tile at all.
  const int row = first_row + warp * 16 + g;
  const bool there[2] = {row < facts.tile.y, row + 8 < facts.tile.y};
  const unsigned place[2] = {facts.place[row], facts.place[row + 8]};

  unsigned hidden[HIDDEN / 4];
  {
    float sum[WIDE / 2];
    const int steps = (call.d + 63) / 64;
    // Zeros, not a first product that does not add: undefined sums would stay alive from tile to tile.
#pragma unroll
    for (int i = 0; i < WIDE / 2; i++) sum[i] = 0.0f;
    constexpr int PER_SLOT = experts_many_steps(WIDE);
    unsigned a_before = 0, b_before = 0;
    for (int step = 0; step < steps; step++) {
      const int in_slot = step % PER_SLOT;
      if (in_slot == 0) hopper_wait(b_ring.full(), b_ring.phase);
      hopper_wait(a_ring.full(), a_ring.phase);
      hopper_proxy_fence();
      const unsigned long long left = hopper_descriptor(a_base + a_ring.slot * EXPERTS_MANY_A, 0);
      const unsigned long long right = hopper_descriptor(b_base + b_ring.slot * EXPERTS_MANY_B + in_slot * (WIDE * 128), 0);
      hopper_wgmma_fence();
#pragma unroll
      for (int s = 0; s < 4; s++) hopper_wgmma<T, 0, 0>(sum, left + s * 2, right + s * 2, 1);
      hopper_wgmma_commit();
      hopper_wgmma_wait<1>();
      if (step > 0 && lane == 0) {
        hopper_arrive(a_before);
        if (in_slot == 0) hopper_arrive(b_before);
      }
      a_before = a_ring.empty(), b_before = b_ring.empty();
      a_ring.next();
      if (in_slot == PER_SLOT - 1 || step == steps - 1) b_ring.next();
    }
    hopper_wgmma_wait<0>();
    if (lane == 0) hopper_arrive(a_before), hopper_arrive(b_before);
    hopper_settled(sum);

    const experts_logistic logistic(call.activation);
    auto pack = [&](auto pair) {
#pragma unroll
      for (int j = 0; j < HIDDEN / 8; j++) {
        const float2 b = *reinterpret_cast<const float2 *>(facts.bias + 8 * j + 2 * t);
        float2 up[2] = {make_float2(sum[4 * j] + b.x, sum[4 * j + 1] + b.y), make_float2(sum[4 * j + 2] + b.x, sum[4 * j + 3] + b.y)};
        if constexpr (GATED) {
          const float2 c = *reinterpret_cast<const float2 *>(facts.bias + HIDDEN + 8 * j + 2 * t);
          const float *v = sum + HIDDEN / 2 + 4 * j;
          hidden[2 * j] = pair(v[0] + c.x, v[1] + c.y, up[0].x, up[0].y);
          hidden[2 * j + 1] = pair(v[2] + c.x, v[3] + c.y, up[1].x, up[1].y);
        } else {
          hidden[2 * j] = pair(up[0].x, up[0].y, 1.0f, 1.0f);
          hidden[2 * j + 1] = pair(up[1].x, up[1].y, 1.0f, 1.0f);
        }
      }
    };
    if (call.activation == 0 && GATED)
      pack([](float x, float y, float up_x, float up_y) { return hopper_pack<T>(fmaxf(x, 0.0f) * up_x, fmaxf(y, 0.0f) * up_y); });
    else if (call.activation == 0)
      pack([](float x, float y, float, float) { return hopper_pack_relu<T>(x, y); });
    else if (call.activation == 1)
      pack([](float x, float y, float up_x, float up_y) { return hopper_pack<T>(experts_gelu(x) * up_x, experts_gelu(y) * up_y); });
    else
      pack([&](float x, float y, float up_x, float up_y) { return hopper_pack<T>(logistic(x) * up_x, logistic(y) * up_y); });
    if (masked) {
#pragma unroll
      for (int u = 0; u < UNITS; u++) {
        // The neurons of one expert; in a part of an expert, those that it has. Bits past a unit's experts are zero.
        const int size = units.parts > 1 ? units.neurons(u ? facts.tile.w : facts.tile.z) : units.size;
        const unsigned chosen[2] = {facts.chosen[u][row], facts.chosen[u][row + 8]};
        if (size % 8 == 0) {
          // Eight neurons are of one expert.
#pragma unroll
          for (int j = 0; j < WIDTH / 8; j++) {
            const int expert = min(31, 8 * j / size);
#pragma unroll
            for (int half = 0; half < 2; half++) hidden[u * WIDTH / 4 + 2 * j + half] &= 0u - (chosen[half] >> expert & 1);
          }
          continue;
        }
        const unsigned per_size = size > 1 ? 0xffffffffu / size + 1 : 0xffffffffu;
        auto expert_of = [&](int neuron) { return min(31u, __umulhi(neuron, per_size)); };
#pragma unroll
        for (int j = 0; j < WIDTH / 8; j++) {
          const unsigned first = expert_of(8 * j + 2 * t), second = expert_of(8 * j + 2 * t + 1);
#pragma unroll
          for (int half = 0; half < 2; half++) {
            const unsigned low = chosen[half] >> first & 1, high = chosen[half] >> second & 1;
            hidden[u * WIDTH / 4 + 2 * j + half] &= (0u - low & 0xffffu) | (0u - high & 0xffff0000u);
          }
        }
      }
    }
    hopper_arrive(facts_done);
  }

  T *to[2];
#pragma unroll
  for (int half = 0; half < 2; half++) {
    const bool first = place[half] < (unsigned)call.rows;
    T *from = static_cast<T *>(first ? call.out : call.others);
    to[half] = from + (long long)(first ? place[half] : place[half] - (unsigned)call.rows) * call.d_out;
  }

  auto done = b_ring;
  auto release = [&] {
    if (lane == 0) hopper_arrive(done.empty());
    done.next();
  };
  // The products of 128 columns; BEFORE: the slots of the products before are given back one by one meanwhile. A slot has
  // 128 neurons: boxes of 64 neurons by 64 columns.
  constexpr int SLOTS = (HIDDEN + 127) / 128;
  auto multiply = [&](float(&sum)[64], auto BEFORE) {
#pragma unroll
    for (int k0 = 0; k0 < HIDDEN; k0 += 128) {
      hopper_wait(b_ring.full(), b_ring.phase);
      hopper_wgmma_fence();
#pragma unroll
      for (int k = k0; k < HIDDEN && k < k0 + 128; k += 16) {
        const unsigned box = b_base + b_ring.slot * EXPERTS_MANY_B + (k - k0) / 64 * 16384;
        hopper_wgmma<T, 1>(sum, hidden[k / 4], hidden[k / 4 + 1], hidden[k / 4 + 2], hidden[k / 4 + 3],
                           hopper_descriptor(box, 8192) + k % 64 / 16 * (2048 / 16), k > 0);
      }
      hopper_wgmma_commit();
      b_ring.next();
      if constexpr (decltype(BEFORE)::value) {
        hopper_wgmma_wait<SLOTS>();
        release();
      }
    }
  };
  // Reads the sums only: nothing but products may write to registers that products use while others are under way.
  auto put = [&](const float(&sum)[64], int column0) {
    unsigned bias[4][4];
    if constexpr (ONLY) {
      // All before the first result: what is read behind results waits for them.
#pragma unroll
      for (int j = 0; j < 4; j++) hopper_load16(bias[j], static_cast<const T *>(call.bias) + min(column0 + j * 32 + 8 * t, call.d_out - 8));
    }
#pragma unroll
    for (int j = 0; j < 16; j += 4) {
      const int column = column0 + j * 8 + 8 * t;
#pragma unroll
      for (int half = 0; half < 2; half++) {
        unsigned w[4];
#pragma unroll
        for (int i = 0; i < 4; i++) w[i] = hopper_pack<T>(sum[4 * (j + i) + 2 * half], sum[4 * (j + i) + 2 * half + 1]);
        if (!INTERLEAVED) hopper_exchange(w, t);
        if (ONLY) {
#pragma unroll
          for (int i = 0; i < 4; i++) w[i] = hopper_sum<T>(w[i], bias[j / 4][i]);
        }
        if (!there[half] || column >= call.d_out) continue;
        if (!ONLY && call.mode == EXPERTS_ADD)
          hopper_add16<T>(to[half] + column, w);
        else
          *reinterpret_cast<uint4 *>(to[half] + column) = make_uint4(w[0], w[1], w[2], w[3]);
      }
    }
  };
  constexpr int STEP = EXPERTS_MANY_COLUMNS;
  float even[64], odd[64];
#pragma unroll
  for (int i = 0; i < 64; i++) even[i] = odd[i] = 0.0f;
  // PAIRS times 256 columns in one go: the compiler keeps products under way only where nothing branches between them.
  auto run = [&](auto pairs, int column0) {
    multiply(even, std::false_type());
#pragma unroll
    for (int i = 0; i < decltype(pairs)::value; i++, column0 += 2 * STEP) {
      multiply(odd, std::true_type());
      put(even, column0);
      if (i + 1 < decltype(pairs)::value) {
        multiply(even, std::true_type());
      } else {
        hopper_wgmma_wait<0>();
#pragma unroll
        for (int k = 0; k < HIDDEN; k += 128) release();
      }
      put(odd, column0 + STEP);
    }
  };
  int column0 = 0;
  for (; call.d_out - column0 > 4 * STEP; column0 += 6 * STEP) run(std::integral_constant<int, 3>(), column0);
  for (; call.d_out - column0 > 0; column0 += 2 * STEP) run(std::integral_constant<int, 1>(), column0);
}

template <typename T, int WIDTH, bool GATED, bool INTERLEAVED> __device__ __forceinline__ void experts_many(const experts_many_call &call) {
  DYNAMIC_SHARED(unsigned char, shared);
  const unsigned a_base = hopper_address(shared);  // of 1024 bytes' alignment, nothing else being in shared memory
  typedef experts_many_rings<WIDTH> rings;
  constexpr int SLOTS_A = rings::SLOTS_A, SLOTS_B = rings::SLOTS_B;
  const unsigned b_base = a_base + 2 * SLOTS_A * EXPERTS_MANY_A, barriers = a_base + rings::BYTES;
  const int warpgroup = threadIdx.x / 128, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  typename rings::weights b_ring{barriers};
  auto a_ring_of = [&](int consumer) { return typename rings::rows{barriers + (SLOTS_B + consumer * SLOTS_A) * 16}; };
  experts_ring_facts facts_ring{barriers + (SLOTS_B + 2 * SLOTS_A) * 16};
  experts_ring_tiles tiles_ring{barriers + (SLOTS_B + 2 * SLOTS_A + 1) * 16};
  int4 *taken = reinterpret_cast<int4 *>(shared + (barriers - a_base) + EXPERTS_MANY_BARRIERS);
  experts_many_facts &facts = *reinterpret_cast<experts_many_facts *>(taken + 2);

  if (threadIdx.x == 0) {
    b_ring.init(1, 8);
    for (int consumer = 0; consumer < 2; consumer++) a_ring_of(consumer).init(32, 4);  // a warp gathers, four multiply
    facts_ring.init(32, 256);  // who has read the facts, or the tile, says so for itself
    tiles_ring.init(1, 3 * 32);
    hopper_init_done();
  }
  __syncthreads();
  hopper_launch_next();
  hopper_wait_launch();

  const int tiles = call.header[EXPERTS_TILES], steps = (call.d + 63) / 64;
  // The tile that the first thread has taken next, for a warp of those that look things up.
  auto next_tile = [&] {
    hopper_wait(tiles_ring.full(), tiles_ring.phase);
    const int4 tile = taken[tiles_ring.slot];
    hopper_arrive(tiles_ring.empty());
    tiles_ring.next();
    return tile;
  };
  if (warpgroup == 0) {
    hopper_registers_fewer<40>();
    if (threadIdx.x == 0) {
      auto tile_at = [&](int index) { return index < tiles ? call.tiles[index] : make_int4(0, 0, 0, 0); };
      auto put = [&](const int4 &tile) {
        hopper_wait(tiles_ring.empty(), tiles_ring.phase ^ 1);
        taken[tiles_ring.slot] = tile;
        hopper_arrive(tiles_ring.full());
        tiles_ring.next();
      };
      const int columns = (call.d_out + 255) / 256 * 256;
      int4 tile = tile_at(blockIdx.x);
      put(tile);
      while (tile.y != 0) {
        const int units = tile.w < 0 ? 1 : 2;
        const int first[2] = {call.units.first_neuron(tile.z), tile.w < 0 ? 0 : call.units.first_neuron(tile.w)};
        const int wide = (GATED ? 2 : units) * WIDTH;
        for (int step = 0; step < steps;) {
          const int in_slot = min(experts_many_steps(wide), steps - step);
          unsigned to = b_base + b_ring.slot * EXPERTS_MANY_B;
          hopper_wait(b_ring.empty(), b_ring.phase ^ 1);
          hopper_expect(b_ring.full(), in_slot * wide * 128);
          for (const int end = step + in_slot; step < end; step++, to += wide * 128) {
            hopper_copy_box(to, call.up, b_ring.full(), step * 64, first[0]);
            if constexpr (GATED)
              hopper_copy_box(to + WIDTH * 128, call.gate, b_ring.full(), step * 64, first[0]);
            else if (units == 2)
              hopper_copy_box(to + WIDTH * 128, call.up, b_ring.full(), step * 64, first[1]);
          }
          b_ring.next();
        }
        // The next tile is taken late, so that no block has one left when others have none; memory has its time to answer.
        int next = 0;
        for (int column = 0; column < columns; column += EXPERTS_MANY_COLUMNS) {
          if (column == 0) next = gridDim.x + atomicAdd(call.header + EXPERTS_TAKEN, 1);
          if (column == EXPERTS_MANY_COLUMNS) tile = tile_at(next);
          for (int k0 = 0; k0 < units * WIDTH; k0 += 128) {
            const unsigned to = b_base + b_ring.slot * EXPERTS_MANY_B;
            const int boxes = min(2, (units * WIDTH - k0) / 64);
            hopper_wait(b_ring.empty(), b_ring.phase ^ 1);
            hopper_expect(b_ring.full(), boxes * 16384);
            for (int box = 0; box < boxes; box++) {
              const int k = k0 + box * 64, neuron = k < WIDTH ? first[0] + k : first[1] + k - WIDTH;
              hopper_copy_box(to + box * 16384, call.down, b_ring.full(), column, neuron);
              hopper_copy_box(to + box * 16384 + 8192, call.down, b_ring.full(), column + 64, neuron);
            }
            b_ring.next();
          }
          if (column == EXPERTS_MANY_COLUMNS) put(tile);
        }
      }
    } else if (warp == 1) {
      // Everything is read before anything is written: reads that wait for one another would take longer than a tile.
      for (int4 tile = next_tile();; tile = next_tile()) {
        experts_many_facts &f = facts;
        hopper_wait(facts_ring.empty(), facts_ring.phase ^ 1);
        if (lane == 0) f.only = tile.y & EXPERTS_ONLY, f.tile = make_int4(tile.x, tile.y % EXPERTS_ONLY, tile.z, tile.w);
        if (tile.y == 0) {
          hopper_arrive(facts_ring.full());
          break;
        }
        unsigned place[4];
#pragma unroll
        for (int i = 0; i < 4; i++) place[i] = call.list[tile.x + max(0, min(tile.y % EXPERTS_ONLY - 1, lane + 32 * i))];
        {
          float bias[2 * WIDTH / 32];
#pragma unroll
          for (int i = 0; i < 2 * WIDTH; i += 32) {
            const int neuron = call.units.first_neuron(GATED || i < WIDTH ? tile.z : max(0, tile.w)) + (i + lane) % WIDTH;
            const float *from = GATED && i >= WIDTH ? call.gate_bias : call.up_bias;
            bias[i / 32] = from && neuron < call.units.experts * call.units.size ? from[neuron] : 0.0f;
          }
#pragma unroll
          for (int i = 0; i < 2 * WIDTH; i += 32) f.bias[i + lane] = bias[i / 32];
        }
#pragma unroll
        for (int i = 0; i < 4; i++) f.place[lane + 32 * i] = place[i];
        if (call.units.per_unit > 1) {
#pragma unroll
          for (int u = 0; u < 2; u++) {
            unsigned chosen[4];
#pragma unroll
            for (int i = 0; i < 4; i++)
              chosen[i] = call.units.chosen(call.mask + (long long)(place[i] % (unsigned)call.rows) * call.words, call.words, max(0, u ? tile.w : tile.z));
#pragma unroll
            for (int i = 0; i < 4; i++) f.chosen[u][lane + 32 * i] = chosen[i];
          }
        } else {
#pragma unroll
          for (int i = 0; i < 4; i++) f.chosen[0][lane + 32 * i] = f.chosen[1][lane + 32 * i] = 1;
        }
        hopper_arrive(facts_ring.full());
        facts_ring.next();
      }
    } else if (warp >= 2) {
      // Eight lanes copy 128 bytes of a row.
      const int consumer = warp - 2, first_row = consumer * 64, piece = lane % 8;
      auto a_ring = a_ring_of(consumer);
      const unsigned to0 = a_base + consumer * SLOTS_A * EXPERTS_MANY_A + lane / 8 * 128;
      for (int4 tile = next_tile(); tile.y != 0; tile = next_tile()) {
        const int tile_rows = tile.y % EXPERTS_ONLY;
        if (first_row >= tile_rows) continue;
        // Where the rows begin that this lane copies of, in 16 bytes: a step has no time to look them up.
        unsigned rows[16];
#pragma unroll
        for (int i = 0; i < 16; i++) {
          const unsigned row = call.list[tile.x + min(tile_rows - 1, first_row + i * 4 + lane / 8)] % (unsigned)call.rows;
          rows[i] = row * (unsigned)(call.pitch / 8);
        }
        for (int step = 0; step < steps; step++) {
          hopper_wait(a_ring.empty(), a_ring.phase ^ 1);
          const int column = step * 64 + piece * 8, bytes = min(16, max(0, (call.d - column) * 2));
          const uint4 *from = static_cast<const uint4 *>(call.x) + (bytes > 0 ? column / 8 : 0);
          const unsigned to = to0 + a_ring.slot * EXPERTS_MANY_A;
          auto place = [&](int i) { return to + i * 512 + ((piece ^ ((i * 4 + lane / 8) & 7)) * 16); };
          // A row is read by a few tiles that are near in time, and then no more. Whole copies are two instructions each, one
          // of them for the address, where it is not taken apart: slots wait for all sixteen.
          hopper_kept(from);
          if (step * 64 + 64 <= call.d) {
#pragma unroll
            for (int i = 0; i < 16; i++) hopper_copy16_passing(place(i), from + rows[i]);
          } else {
#pragma unroll
            for (int i = 0; i < 16; i++) hopper_copy16_passing(place(i), from + rows[i], bytes);
          }
          hopper_arrive_copied(a_ring.full());
          a_ring.next();
        }
      }
    }
  } else {
    hopper_registers_more<232>();
    const int consumer = warpgroup - 1, first_row = consumer * 64;
    auto a_ring = a_ring_of(consumer);
    const unsigned a_slots = a_base + consumer * SLOTS_A * EXPERTS_MANY_A;
    for (;;) {
      const experts_many_facts &f = facts;
      hopper_wait(facts_ring.full(), facts_ring.phase);
      if (f.tile.y == 0) break;
      const int units = f.tile.w < 0 ? 1 : 2;
      if (first_row >= f.tile.y) {
        // Nothing to do here but to give the slots back.
        hopper_arrive(facts_ring.empty());
        const int per_slot = experts_many_steps((GATED ? 2 : units) * WIDTH);
        const int turns = (steps + per_slot - 1) / per_slot + (call.d_out + 255) / 256 * 2 * ((units * WIDTH + 127) / 128);
        for (int turn = 0; turn < turns; turn++) {
          hopper_wait(b_ring.full(), b_ring.phase);
          if (lane == 0) hopper_arrive(b_ring.empty());
          b_ring.next();
        }
      } else {
        auto run = [&](auto units, auto only) {
          experts_many_tile<T, WIDTH, decltype(units)::value, GATED, decltype(only)::value, INTERLEAVED>(call, f, facts_ring.empty(), first_row, a_slots, b_base, a_ring, b_ring);
        };
        // Narrow units are for many segments a row.
        auto run_units = [&](auto units) {
          if constexpr (WIDTH == 128) {
            if (f.only) return run(units, std::true_type());
          }
          run(units, std::false_type());
        };
        if (GATED || units == 1)
          run_units(std::integral_constant<int, 1>());
        else if constexpr (!GATED)
          run_units(std::integral_constant<int, 2>());
      }
      facts_ring.next();
    }
  }
}
static_assert(experts_many_rings<64>::BYTES == experts_many_rings<128>::BYTES, "one amount of shared memory");
[[maybe_unused]] constexpr int EXPERTS_MANY_SHARED = experts_many_rings<128>::BYTES + EXPERTS_MANY_BARRIERS + 2 * (int)sizeof(int4) + (int)sizeof(experts_many_facts);

#define EXPERTS_MANY(NAME, T, WIDTH, GATED, INTERLEAVED)                                                                 \
  extern "C" __global__ void __launch_bounds__(384, 1)                                                                   \
      NAME(const __grid_constant__ hopper_map up, const __grid_constant__ hopper_map gate,                               \
           const __grid_constant__ hopper_map down, const void *x, const int4 *tiles, const unsigned *list,              \
           int *header, const unsigned *mask, const float *up_bias, const float *gate_bias, const void *bias,            \
           void *out, void *others, int rows, int d, int pitch, int d_out, int words, int experts, int size,             \
           int per_unit, int parts, int activation, int mode) {                                                          \
    experts_many<T, WIDTH, GATED, INTERLEAVED>({&up, &gate, &down, x, tiles, list, header, mask, up_bias, gate_bias,     \
                                                bias, out, others, rows, d, pitch, d_out, words,                         \
                                                {experts, size, per_unit, parts, WIDTH}, activation, mode});             \
  }
// The kernels of one order of down's columns, whose names end in SUFFIX.
#define EXPERTS_MANY_KERNELS(SUFFIX, INTERLEAVED)                              \
  EXPERTS_MANY(experts_many_bf16_128##SUFFIX, bf16, 128, false, INTERLEAVED)   \
  EXPERTS_MANY(experts_many_f16_128##SUFFIX, __half, 128, false, INTERLEAVED)  \
  EXPERTS_MANY(experts_many_bf16_64##SUFFIX, bf16, 64, false, INTERLEAVED)     \
  EXPERTS_MANY(experts_many_f16_64##SUFFIX, __half, 64, false, INTERLEAVED)    \
  EXPERTS_MANY(experts_many_bf16_gated##SUFFIX, bf16, 128, true, INTERLEAVED)  \
  EXPERTS_MANY(experts_many_f16_gated##SUFFIX, __half, 128, true, INTERLEAVED)
