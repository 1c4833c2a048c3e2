// 16-bit products for Hopper (sm_90a): out = op(a) · op(b) + bias of bf16 or fp16 matrices, float32 sums, results in
// float32 or in the operands' type.
//
// Each block stays on its multiprocessor and goes through work items (a tile of 128 x BN results of one product of the
// batch, over one split of the sum). One warp of the first warpgroup copies the tiles of a and b, 64 deep, by the bulk
// tensor copy engine into a ring of stages; two more warpgroups multiply, 64 x BN each, with wgmma from shared memory,
// accumulators in registers. A stage's `full` barrier counts the bytes that arrived, its `empty` barrier the warps that
// are done with it. While the results of one item go out, the copies for the next are already under way.
#include "hopper.cuh"
#include "products.cuh"

constexpr int PRODUCTS_BM = 128, PRODUCTS_BK = 64, PRODUCTS_BOX = 64 * PRODUCTS_BK * 2, PRODUCTS_CONSUMERS = 2;

// What a block works on, from its number: `split` and `item` of the batch, the first row and column of the tile.
template <int BN> struct products_work {
  int rows, columns, tiles, batch, splits;
  __device__ __forceinline__ products_work(int m, int n, int batch, int splits)
      : rows((m + PRODUCTS_BM - 1) / PRODUCTS_BM), columns((n + BN - 1) / BN), tiles(rows * columns), batch(batch), splits(splits) {}
  __device__ __forceinline__ int count() const { return tiles * batch * splits; }
  __device__ __forceinline__ void at(int index, int &split, int &item, int &row0, int &column0) const {
    const int outer = index / tiles;
    int row, column;
    products_tile_at<16>(index - outer * tiles, rows, columns, row, column);
    split = outer / batch;
    item = outer - split * batch;
    row0 = row * PRODUCTS_BM;
    column0 = column * BN;
  }
};

// TA: a is [k, m]; TB: b is [n, k]. batch_a and batch_b are 0 where one matrix serves the whole batch, else 1.
// `per_split` counts steps of 64. Shared memory: STAGES · (16 KB + BN · 128 bytes), 16 KB for results, the barriers.
template <typename T, int BN, int STAGES, bool TA, bool TB>
__device__ __forceinline__ void products_hopper(const hopper_map &map_a, const hopper_map &map_b,
                                                void *__restrict__ out, const void *__restrict__ bias, int m, int n,
                                                int k, long long stride_out, int batch, int batch_a, int batch_b,
                                                int splits, int per_split, int out16) {
  constexpr int A_BYTES = PRODUCTS_BM * PRODUCTS_BK * 2, B_BYTES = BN * PRODUCTS_BK * 2, STAGE = A_BYTES + B_BYTES;
  DYNAMIC_SHARED(unsigned char, shared);
  const unsigned base = (hopper_address(shared) + 1023) / 1024 * 1024;
  const unsigned staging = base + STAGES * STAGE, barriers = staging + 16384;
  hopper_ring<STAGES> ring = {barriers};
  const int warpgroup = threadIdx.x / 128, warp = threadIdx.x / 32, lane = threadIdx.x % 32;

  if (threadIdx.x == 0) {
    ring.init(1, PRODUCTS_CONSUMERS * 4);
    hopper_init_done();
  }
  __syncthreads();

  const products_work<BN> work(m, n, batch, splits);
  const int all_steps = (k + PRODUCTS_BK - 1) / PRODUCTS_BK;

  if (warpgroup == 0) {
    hopper_registers_fewer<40>();
    if (threadIdx.x == 0) {
      for (int index = blockIdx.x; index < work.count(); index += gridDim.x) {
        int split, item, row0, column0;
        work.at(index, split, item, row0, column0);
        const int first = split * per_split, last = min(all_steps, first + per_split);
        for (int step = first; step < last; step++) {
          const int at = step * PRODUCTS_BK;
          const unsigned a = base + ring.slot * STAGE, b = a + A_BYTES;
          hopper_wait(ring.empty(), ring.phase ^ 1);
          hopper_expect(ring.full(), STAGE);
          if constexpr (TA) {
#pragma unroll
            for (int box = 0; box < PRODUCTS_BM / 64; box++)
              hopper_copy_box(a + box * PRODUCTS_BOX, &map_a, ring.full(), row0 + box * 64, at, item * batch_a);
          } else {
            hopper_copy_box(a, &map_a, ring.full(), at, row0, item * batch_a);
          }
          if constexpr (TB) {
            hopper_copy_box(b, &map_b, ring.full(), at, column0, item * batch_b);
          } else {
#pragma unroll
            for (int box = 0; box < BN / 64; box++)
              hopper_copy_box(b + box * PRODUCTS_BOX, &map_b, ring.full(), column0 + box * 64, at, item * batch_b);
          }
          ring.next();
        }
      }
    }
  } else {
    hopper_registers_more<232>();
    const int consumer = warpgroup - 1, warp_row = consumer * 64 + warp % 4 * 16, g = lane / 4, t = lane % 4;
    // 16 deep is 32 bytes along the sum, or 16 rows of 128 bytes across it.
    constexpr unsigned STEP_A = TA ? 2048 / 16 : 32 / 16, STEP_B = TB ? 32 / 16 : 2048 / 16;
    const unsigned mine = staging + (consumer * 4 + warp % 4) * 2048;

    for (int index = blockIdx.x; index < work.count(); index += gridDim.x) {
      int split, item, row0, column0;
      work.at(index, split, item, row0, column0);
      const int steps = min(all_steps, (split + 1) * per_split) - split * per_split;
      float sum[BN / 2];
      hopper_products(ring, steps, [&](int step) {
        const unsigned a = base + ring.slot * STAGE + consumer * PRODUCTS_BOX, b = base + ring.slot * STAGE + A_BYTES;
        const unsigned long long left = hopper_descriptor(a, PRODUCTS_BOX), right = hopper_descriptor(b, PRODUCTS_BOX);
#pragma unroll
        for (int s = 0; s < PRODUCTS_BK / 16; s++)
          hopper_wgmma<T, TA ? 1 : 0, TB ? 0 : 1>(sum, left + s * STEP_A, right + s * STEP_B, s > 0 || step > 0);
        hopper_wgmma_commit();
      });

      // A warp puts 16 rows of 128 bytes at a time into shared memory, pieces exchanged by row so that no two lanes meet
      // in a bank, and writes them from there in whole 128-byte lines.
      const long long begin = (split * (long long)batch + item) * stride_out;
      const bool whole = n % (out16 ? 8 : 4) == 0 && (begin % (out16 ? 8 : 4)) == 0 && reinterpret_cast<unsigned long long>(out) % 16 == 0;
      auto finish = [&](float x, int column) {
        if (bias && column < n)
          x += out16 ? to_float(static_cast<const T *>(bias)[column]) : static_cast<const float *>(bias)[column];
        return x;
      };
      auto write_lines = [&](int line_column) {
        __syncwarp();
        const int size = out16 ? 2 : 4, values = 16 / size;
#pragma unroll
        for (int i = 0; i < 4; i++) {
          const int r = i * 4 + lane / 8, piece = lane % 8, row = row0 + warp_row + r, column = line_column + piece * values;
          const uint4 v = hopper_shared_load16(mine + r * 128 + ((piece ^ (r & 7)) * 16));
          if (row >= m || column >= n) continue;
          unsigned char *to = static_cast<unsigned char *>(out) + (begin + row * (long long)n + column) * size;
          if (whole) {
            *reinterpret_cast<uint4 *>(to) = v;
          } else {
            const unsigned words[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
            for (int e = 0; e < 8; e++) {
              if (e >= values || column + e >= n) continue;
              if (out16)
                reinterpret_cast<unsigned short *>(to)[e] = (unsigned short)(words[e / 2] >> (e % 2 * 16));
              else
                reinterpret_cast<unsigned *>(to)[e] = words[e % 4];
            }
          }
        }
        __syncwarp();
      };
      if (out16) {
#pragma unroll
        for (int line = 0; line < BN / 64; line++) {
#pragma unroll
          for (int j = 0; j < 8; j++) {
            const int at = (line * 8 + j) * 4, column = column0 + line * 64 + j * 8 + 2 * t;
#pragma unroll
            for (int half = 0; half < 2; half++)
              hopper_shared_store(mine + (g + 8 * half) * 128 + ((j ^ g) * 16) + 4 * t,
                                  hopper_pack<T>(finish(sum[at + 2 * half], column), finish(sum[at + 2 * half + 1], column + 1)));
          }
          write_lines(column0 + line * 64);
        }
      } else {
#pragma unroll
        for (int line = 0; line < BN / 32; line++) {
#pragma unroll
          for (int j = 0; j < 4; j++) {
            const int at = (line * 4 + j) * 4, column = column0 + line * 32 + j * 8 + 2 * t;
#pragma unroll
            for (int half = 0; half < 2; half++)
              hopper_shared_store(mine + (g + 8 * half) * 128 + (((2 * j + t / 2) ^ g) * 16) + 8 * (t % 2),
                                  make_float2(finish(sum[at + 2 * half], column), finish(sum[at + 2 * half + 1], column + 1)));
          }
          write_lines(column0 + line * 32);
        }
      }
    }
  }
}

#define PRODUCTS_HOPPER(NAME, T, BN, STAGES, TA, TB)                                                                    \
  extern "C" __global__ void __launch_bounds__(384, 1)                                                                  \
      NAME(const __grid_constant__ hopper_map map_a, const __grid_constant__ hopper_map map_b,                          \
           void *out, const void *bias, int m, int n, int k, long long stride_out, int batch, int batch_a, int batch_b, \
           int splits, int per_split, int out16) {                                                                      \
    products_hopper<T, BN, STAGES, TA, TB>(map_a, map_b, out, bias, m, n, k, stride_out, batch, batch_a, batch_b, splits, \
                                        per_split, out16);                                                              \
  }
#define PRODUCTS_HOPPER_TYPE(NAME, T)                                  \
  PRODUCTS_HOPPER(products_hopper_##NAME##_256_nn, T, 256, 4, false, false) \
  PRODUCTS_HOPPER(products_hopper_##NAME##_256_nt, T, 256, 4, false, true)  \
  PRODUCTS_HOPPER(products_hopper_##NAME##_256_tn, T, 256, 4, true, false)  \
  PRODUCTS_HOPPER(products_hopper_##NAME##_256_tt, T, 256, 4, true, true)   \
  PRODUCTS_HOPPER(products_hopper_##NAME##_128_nn, T, 128, 6, false, false) \
  PRODUCTS_HOPPER(products_hopper_##NAME##_128_nt, T, 128, 6, false, true)  \
  PRODUCTS_HOPPER(products_hopper_##NAME##_128_tn, T, 128, 6, true, false)  \
  PRODUCTS_HOPPER(products_hopper_##NAME##_128_tt, T, 128, 6, true, true)
PRODUCTS_HOPPER_TYPE(bf16, bf16)
PRODUCTS_HOPPER_TYPE(f16, __half)
