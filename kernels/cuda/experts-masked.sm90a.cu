// The expert op as a masked dense layer on Hopper (sm_90a), for many rows at high density or with experts too small to be
// worth a tile of their own: hidden = mask · act(x · upᵀ + bias), times the gated part where there is one, in 16 bits;
// then out = hidden · down + bias.
//
// Blocks as in products.sm90a.cu: a ring of stages of 64 deep filled by one thread through the bulk tensor copy engine,
// two warpgroups that multiply 64 x 256 each, tiles in bands that share their operands through the L2 cache. Bias,
// activation and mask are applied to the sums in registers; a tile's biases and masks are looked up ahead by a warp of
// their own: bits, of which a tile's experts of four neurons at least take three words, or where the experts of each tile
// are a multiple of sixteen the selection's own bytes.
#include "experts-units.cuh"
#include "hopper-activations.cuh"
#include "hopper.cuh"
#include "products.cuh"

constexpr int EXPERTS_MASKED_STAGES = 4, EXPERTS_MASKED_A = 16384, EXPERTS_MASKED_B = 32768;
constexpr int EXPERTS_MASKED_STAGE = EXPERTS_MASKED_A + EXPERTS_MASKED_B;
constexpr int EXPERTS_MASKED_BOX = 2048;  // 16 rows by 64 columns of results, of each of eight warps

// UP: hidden from x (b lies along the sum); GATED_UP: the same, 128 columns of up and of gate; DOWN: out from hidden (b
// lies across the sum).
enum { EXPERTS_UP, EXPERTS_GATED_UP, EXPERTS_DOWN };

struct experts_masked_facts {
  float bias[256];          // of the tile's columns; GATED_UP: of up's, then of gate's
  unsigned words[3][128];   // of the rows' masks, from that of the tile's first expert on; or from that expert on
};

template <typename T, int KIND>
__device__ __forceinline__ void experts_masked(const hopper_map *map_a, const hopper_map *map_b, const hopper_map *map_gate,
                                               const hopper_map *map_out, const float *__restrict__ bias,
                                               const float *__restrict__ gate_bias, const unsigned char *__restrict__ selection,
                                               const unsigned *__restrict__ mask, int rows, int columns, int k, int size, int words, int activation) {
  constexpr int WIDE = KIND == EXPERTS_GATED_UP ? 128 : 256;  // columns of a tile
  DYNAMIC_SHARED(unsigned char, shared);
  const unsigned base = (hopper_address(shared) + 1023) / 1024 * 1024;
  const unsigned boxes = base + EXPERTS_MASKED_STAGES * EXPERTS_MASKED_STAGE, barriers = boxes + 8 * EXPERTS_MASKED_BOX;
  hopper_ring<EXPERTS_MASKED_STAGES> ring{barriers};
  hopper_ring<2> facts_ring{barriers + EXPERTS_MASKED_STAGES * 16};
  // Behind the barriers, which take 96 bytes.
  experts_masked_facts *facts = reinterpret_cast<experts_masked_facts *>(shared + (barriers - hopper_address(shared)) + 128);
  const int warpgroup = threadIdx.x / 128, warp = threadIdx.x / 32 % 4, lane = threadIdx.x % 32;
  if (threadIdx.x == 0) {
    ring.init(1, 8);
    facts_ring.init(32, 256);  // who has read the facts says so for itself
    hopper_init_done();
  }
  __syncthreads();
  hopper_launch_next();
  hopper_wait_launch();

  const int tile_rows = (rows + 127) / 128, tile_columns = (columns + WIDE - 1) / WIDE, tiles = tile_rows * tile_columns;
  const int steps = (k + 63) / 64;
  // Which expert a column belongs to, for less than 2^16 neurons.
  const unsigned per_size = KIND == EXPERTS_DOWN ? 0 : 0xffffffffu / size + 1;
  auto expert_of = [&](int column) { return (int)__umulhi(column, per_size); };
  // Of a tile's columns, an even number to an expert: the bits of the pairs that a thread has of its two rows.
  auto look_up = [&](const experts_masked_facts &f, int row, int column0, unsigned(&keep)[2]) {
    const int first = expert_of(column0), shift = selection ? 0 : first % 32, t = lane % 4;
    unsigned bits[2][2];  // 64 experts from the tile's first on
#pragma unroll
    for (int half = 0; half < 2; half++) {
#pragma unroll
      for (int w = 0; w < 2; w++) bits[half][w] = __funnelshift_r(f.words[w][row + 8 * half], f.words[w + 1][row + 8 * half], shift);
    }
#pragma unroll
    for (int j = 0; j < WIDE / 8; j++) {
      const unsigned expert = expert_of(column0 + 8 * j + 2 * t) - first;
#pragma unroll
      for (int half = 0; half < 2; half++) keep[half] |= ((expert < 32 ? bits[half][0] : bits[half][1]) >> expert % 32 & 1) << j;
    }
  };
  if (warpgroup == 0) {
    hopper_registers_fewer<40>();
    if (threadIdx.x == 0) {
      for (int index = blockIdx.x; index < tiles; index += gridDim.x) {
        int row, column;
        products_tile_at<16>(index, tile_rows, tile_columns, row, column);
        for (int step = 0; step < steps; step++) {
          const unsigned a = base + ring.slot * EXPERTS_MASKED_STAGE, b = a + EXPERTS_MASKED_A;
          hopper_wait(ring.empty(), ring.phase ^ 1);
          hopper_expect(ring.full(), EXPERTS_MASKED_STAGE);
          hopper_copy_box(a, map_a, ring.full(), step * 64, row * 128);
          if constexpr (KIND == EXPERTS_UP) {
            hopper_copy_box(b, map_b, ring.full(), step * 64, column * WIDE);
          } else if constexpr (KIND == EXPERTS_GATED_UP) {
            hopper_copy_box(b, map_b, ring.full(), step * 64, column * WIDE);
            hopper_copy_box(b + 16384, map_gate, ring.full(), step * 64, column * WIDE);
          } else {
#pragma unroll
            for (int box = 0; box < 4; box++) hopper_copy_box(b + box * 8192, map_b, ring.full(), column * WIDE + box * 64, step * 64);
          }
          ring.next();
        }
      }
    } else if (warp == 1) {
      for (int index = blockIdx.x; index < tiles; index += gridDim.x) {
        int tile_row, tile_column;
        products_tile_at<16>(index, tile_rows, tile_columns, tile_row, tile_column);
        experts_masked_facts &f = facts[facts_ring.slot];
        hopper_wait(facts_ring.empty(), facts_ring.phase ^ 1);
        // Everything is read before anything is written: reads that wait for one another take longer than a tile.
        float biases[8];
#pragma unroll
        for (int i = 0; i < 8; i++) {
          const int column = tile_column * WIDE + (i * 32 + lane) % WIDE;
          const float *from = i * 32 < WIDE ? bias : gate_bias;
          biases[i] = from && column < columns ? from[column] : 0.0f;
        }
#pragma unroll
        for (int i = 0; i < 8; i++) f.bias[i * 32 + lane] = biases[i];
        if (KIND != EXPERTS_DOWN && selection) {
          // A multiple of sixteen experts, 64 at most.
          const int first = expert_of(tile_column * WIDE), count = min(WIDE, columns - tile_column * WIDE) / size;
#pragma unroll 1
          for (int i = lane; i < 128; i += 32) {
            const unsigned char *from = selection + (long long)min(rows - 1, tile_row * 128 + i) * (columns / size) + first;
            uint4 bytes[4];
#pragma unroll
            for (int s = 0; s < 4; s++) bytes[s] = s * 16 < count ? *reinterpret_cast<const uint4 *>(from + s * 16) : make_uint4(0, 0, 0, 0);
#pragma unroll
            for (int w = 0; w < 2; w++) f.words[w][i] = experts_sixteen_bits(bytes[2 * w]) | experts_sixteen_bits(bytes[2 * w + 1]) << 16;
          }
        } else if constexpr (KIND != EXPERTS_DOWN) {
          const int word0 = expert_of(tile_column * WIDE) / 32;
          unsigned read[12];
#pragma unroll
          for (int i = 0; i < 12; i++) {
            const int row = min(rows - 1, tile_row * 128 + i % 4 * 32 + lane), word = word0 + i / 4;
            read[i] = word < words ? mask[(long long)row * words + word] : 0;
          }
#pragma unroll
          for (int i = 0; i < 12; i++) f.words[i / 4][i % 4 * 32 + lane] = read[i];
        }
        hopper_arrive(facts_ring.full());
        facts_ring.next();
      }
    }
  } else {
    hopper_registers_more<232>();
    const int first_row = (warpgroup - 1) * 64, g = lane / 4, t = lane % 4;
    for (int index = blockIdx.x; index < tiles; index += gridDim.x) {
      int tile_row, tile_column;
      products_tile_at<16>(index, tile_rows, tile_columns, tile_row, tile_column);
      const int in_tile = first_row + warp * 16 + g, column0 = tile_column * WIDE;
      const experts_masked_facts &f = facts[facts_ring.slot];
      // Bit j: whether row `half` runs the expert of columns 8j + 2t and the next, where these are one's.
      unsigned keep[2] = {0, 0};
      float sum[128];
#pragma unroll
      for (int i = 0; i < 128; i++) sum[i] = 0.0f;
      hopper_products(ring, steps, [&](int step) {
        const unsigned a = base + ring.slot * EXPERTS_MASKED_STAGE;
        const unsigned long long left = hopper_descriptor(a + first_row * 128, 0), right = hopper_descriptor(a + EXPERTS_MASKED_A, 8192);
#pragma unroll
        for (int s = 0; s < 4; s++) {
          if constexpr (KIND == EXPERTS_DOWN)
            hopper_wgmma<T, 0, 1>(sum, left + s * 2, right + s * 128, 1);
          else
            hopper_wgmma<T, 0, 0>(sum, left + s * 2, right + s * 2, 1);
        }
        hopper_wgmma_commit();
        if (step == 0) {
          // The tensor cores have something to do meanwhile.
          hopper_wait(facts_ring.full(), facts_ring.phase);
          if constexpr (KIND != EXPERTS_DOWN) {
            if (size % 2 == 0) look_up(f, in_tile, column0, keep);
          }
        }
      });
      hopper_settled(sum);

      unsigned words3[2][3];
      const int word0 = expert_of(column0) / 32;  // of an odd number of neurons to an expert
#pragma unroll
      for (int half = 0; half < 2; half++) {
#pragma unroll
        for (int w = 0; w < 3; w++) words3[half][w] = KIND == EXPERTS_DOWN ? 0 : f.words[w][in_tile + 8 * half];
      }
      // Ones where row `half` runs that expert.
      auto runs = [&](int half, int expert) {
        const int w = expert / 32 - word0;
        const unsigned word = w == 0 ? words3[half][0] : w == 1 ? words3[half][1] : words3[half][2];
        return 0u - (word >> expert % 32 & 1);
      };
      // `pair` rounds two values, with up's of a gated layer. `even`: two neighbouring columns are of one expert.
      auto finish_with = [&](auto pair, auto even) {
        constexpr bool EVEN = decltype(even)::value;
#pragma unroll
        for (int j0 = 0; j0 < WIDE / 8; j0 += 8) {
          unsigned w[2][8];
#pragma unroll
          for (int i = 0; i < 8; i++) {
            const int j = j0 + i, local = j * 8 + 2 * t;
            const float2 b = *reinterpret_cast<const float2 *>(f.bias + local);
            [[maybe_unused]] unsigned both[2] = {0, 0};
            if constexpr (KIND != EXPERTS_DOWN && !EVEN) {
              const int first = expert_of(column0 + local), second = expert_of(column0 + local + 1);
#pragma unroll
              for (int half = 0; half < 2; half++) both[half] = runs(half, first) & 0xffffu | runs(half, second) << 16;
            }
            auto masked = [&](int half, unsigned values) { return EVEN ? (keep[half] >> j & 1 ? values : 0u) : values & both[half]; };
#pragma unroll
            for (int half = 0; half < 2; half++) {
              const float x = sum[4 * j + 2 * half] + b.x, y = sum[4 * j + 2 * half + 1] + b.y;
              if constexpr (KIND == EXPERTS_GATED_UP) {
                const float2 c = *reinterpret_cast<const float2 *>(f.bias + WIDE + local);
                w[half][i] = masked(half, pair(sum[64 + 4 * j + 2 * half] + c.x, sum[64 + 4 * j + 2 * half + 1] + c.y, x, y));
              } else if constexpr (KIND == EXPERTS_UP) {
                w[half][i] = masked(half, pair(x, y, 1.0f, 1.0f));
              } else {
                w[half][i] = pair(x, y, 1.0f, 1.0f);
              }
            }
          }
          // Through shared memory, whence the copy engine takes them while the next tile is multiplied.
          const unsigned box = boxes + ((warpgroup - 1) * 4 + warp) * EXPERTS_MASKED_BOX;
          if (lane == 0) hopper_stores_read();
          __syncwarp();
#pragma unroll
          for (int half = 0; half < 2; half++) {
#pragma unroll
            for (int i = 0; i < 8; i++) hopper_shared_store(box + (8 * half + g) * 128 + (i ^ g) * 16 + t * 4, w[half][i]);
          }
          hopper_proxy_fence();
          __syncwarp();
          if (lane == 0 && column0 + j0 * 8 < columns) {
            hopper_store_box(map_out, box, column0 + j0 * 8, tile_row * 128 + first_row + warp * 16);
            hopper_stores_commit();
          }
        }
      };
      auto finish = [&](auto pair) {
        if (KIND == EXPERTS_DOWN || size % 2 == 0)
          finish_with(pair, std::true_type());
        else
          finish_with(pair, std::false_type());
      };
      const experts_logistic logistic(activation);
      if constexpr (KIND == EXPERTS_DOWN)
        finish([](float x, float y, float, float) { return hopper_pack<T>(x, y); });
      else if (activation == 0 && KIND == EXPERTS_GATED_UP)
        finish([](float x, float y, float up_x, float up_y) { return hopper_pack<T>(fmaxf(x, 0.0f) * up_x, fmaxf(y, 0.0f) * up_y); });
      else if (activation == 0)
        finish([](float x, float y, float, float) { return hopper_pack_relu<T>(x, y); });
      else if (activation == 1)
        finish([](float x, float y, float up_x, float up_y) { return hopper_pack<T>(experts_gelu(x) * up_x, experts_gelu(y) * up_y); });
      else
        finish([&](float x, float y, float up_x, float up_y) { return hopper_pack<T>(logistic(x) * up_x, logistic(y) * up_y); });
      hopper_arrive(facts_ring.empty());
      facts_ring.next();
    }
    if (lane == 0) hopper_stores_written();
  }
}
[[maybe_unused]] constexpr int EXPERTS_MASKED_SHARED = 1024 + EXPERTS_MASKED_STAGES * EXPERTS_MASKED_STAGE + 8 * EXPERTS_MASKED_BOX + 128 + 2 * (int)sizeof(experts_masked_facts);

#define EXPERTS_MASKED(NAME, T, KIND)                                                                                   \
  extern "C" __global__ void __launch_bounds__(384, 1)                                                                  \
      NAME(const __grid_constant__ hopper_map map_a, const __grid_constant__ hopper_map map_b,                          \
           const __grid_constant__ hopper_map map_gate, const __grid_constant__ hopper_map map_out,                     \
           const float *bias, const float *gate_bias,                                                                   \
           const unsigned char *selection, const unsigned *mask, int rows, int columns, int k, int size, int words,     \
           int activation) {                                                                                            \
    experts_masked<T, KIND>(&map_a, &map_b, &map_gate, &map_out, bias, gate_bias, selection, mask, rows, columns, k,    \
                            size, words, activation);                                                                   \
  }
EXPERTS_MASKED(experts_masked_up_bf16, bf16, EXPERTS_UP)
EXPERTS_MASKED(experts_masked_up_f16, __half, EXPERTS_UP)
EXPERTS_MASKED(experts_masked_gated_bf16, bf16, EXPERTS_GATED_UP)
EXPERTS_MASKED(experts_masked_gated_f16, __half, EXPERTS_GATED_UP)
EXPERTS_MASKED(experts_masked_down_bf16, bf16, EXPERTS_DOWN)
EXPERTS_MASKED(experts_masked_down_f16, __half, EXPERTS_DOWN)
