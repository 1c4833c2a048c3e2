// bf16 products for Hopper (sm_90a): out = op(a) · op(b) + bias, float32 sums, float32 or bf16 results.
//
// Each block stays on its multiprocessor and goes through work items (a tile of 128 x BN results of one product of the
// batch, over one split of the sum). One warp of the first warpgroup copies the tiles of a and b, 64 deep, by the bulk
// tensor copy engine into a ring of stages; two more warpgroups multiply, 64 x BN each, with wgmma from shared memory,
// accumulators in registers. A stage's `full` barrier counts the bytes that arrived, its `empty` barrier the warps that
// are done with it. While the results of one item go out, the copies for the next are already under way.
//
// Tiles lie in shared memory as the copy engine swizzles them: rows of 128 bytes whose eight 16-byte pieces are
// exchanged by the row's low three bits. An operand contiguous along the sum is one box of rows by 64; one contiguous
// across it comes as boxes of 64 deep by 64 across, 8 KB apart. wgmma reads either by its descriptor: distance of
// eight rows 1024 bytes; distance of the boxes 8192 where it needs more than one.
#include "products.cuh"

#ifndef D2DMOE_EMULATED

struct __align__(64) products_tensor_map {
  unsigned char bytes[128];
};

constexpr int PRODUCTS_BM = 128, PRODUCTS_BK = 64, PRODUCTS_BOX = 64 * PRODUCTS_BK * 2, PRODUCTS_CONSUMERS = 2;

__device__ __forceinline__ unsigned products_shared_address(const void *p) {
  return (unsigned)__cvta_generic_to_shared(p);
}
__device__ __forceinline__ void products_barrier_init(unsigned barrier, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}
__device__ __forceinline__ void products_barrier_expect(unsigned barrier, int bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}
__device__ __forceinline__ void products_barrier_arrive(unsigned barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}
// Until the phase of that parity is over.
__device__ __forceinline__ void products_barrier_wait(unsigned barrier, unsigned parity) {
  asm volatile(
      "{\n"
      ".reg .pred done;\n"
      "again:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
      "@done bra over;\n"
      "bra again;\n"
      "over:\n"
      "}\n" ::"r"(barrier),
      "r"(parity)
      : "memory");
}
__device__ __forceinline__ void products_copy_box(unsigned to, const products_tensor_map *map, unsigned barrier, int x,
                                                  int y, int z) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5}], [%2];" ::"r"(to),
      "l"(map), "r"(barrier), "r"(x), "r"(y), "r"(z)
      : "memory");
}

// Where a wgmma finds an operand: 128-byte swizzle, `box_distance` between boxes across the sum.
__device__ __forceinline__ unsigned long long products_descriptor(unsigned address, unsigned box_distance) {
  return (unsigned long long)((address & 0x3ffff) >> 4) | (unsigned long long)(box_distance >> 4) << 16 |
         (unsigned long long)(1024 >> 4) << 32 | 1ull << 62;
}
__device__ __forceinline__ void products_wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void products_wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int PENDING> __device__ __forceinline__ void products_wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(PENDING) : "memory");
}

// d (+)= a · b: 64 x N sums of a warpgroup, 16 deep. TA and TB are 1 where the operand lies across the sum.
template <int TA, int TB>
__device__ __forceinline__ void products_wgmma(float (&d)[64], unsigned long long a, unsigned long long b, int add) {
  asm volatile(
      "{\n"
      ".reg .pred p;\n"
      "setp.ne.b32 p, %66, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {"
      "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
      "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
      "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
      "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, "
      "%64, %65, p, 1, 1, %67, %68;\n"
      "}\n"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]),
        "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]),
        "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]), "+f"(d[22]), "+f"(d[23]),
        "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31]),
        "+f"(d[32]), "+f"(d[33]), "+f"(d[34]), "+f"(d[35]), "+f"(d[36]), "+f"(d[37]), "+f"(d[38]), "+f"(d[39]),
        "+f"(d[40]), "+f"(d[41]), "+f"(d[42]), "+f"(d[43]), "+f"(d[44]), "+f"(d[45]), "+f"(d[46]), "+f"(d[47]),
        "+f"(d[48]), "+f"(d[49]), "+f"(d[50]), "+f"(d[51]), "+f"(d[52]), "+f"(d[53]), "+f"(d[54]), "+f"(d[55]),
        "+f"(d[56]), "+f"(d[57]), "+f"(d[58]), "+f"(d[59]), "+f"(d[60]), "+f"(d[61]), "+f"(d[62]), "+f"(d[63])
      : "l"(a), "l"(b), "r"(add), "n"(TA), "n"(TB));
}
template <int TA, int TB>
__device__ __forceinline__ void products_wgmma(float (&d)[128], unsigned long long a, unsigned long long b, int add) {
  asm volatile(
      "{\n"
      ".reg .pred p;\n"
      "setp.ne.b32 p, %130, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n256k16.f32.bf16.bf16 {"
      "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
      "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
      "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
      "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63, "
      "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, "
      "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, "
      "%96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, "
      "%112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127}, "
      "%128, %129, p, 1, 1, %131, %132;\n"
      "}\n"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]),
        "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]),
        "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]), "+f"(d[22]), "+f"(d[23]),
        "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31]),
        "+f"(d[32]), "+f"(d[33]), "+f"(d[34]), "+f"(d[35]), "+f"(d[36]), "+f"(d[37]), "+f"(d[38]), "+f"(d[39]),
        "+f"(d[40]), "+f"(d[41]), "+f"(d[42]), "+f"(d[43]), "+f"(d[44]), "+f"(d[45]), "+f"(d[46]), "+f"(d[47]),
        "+f"(d[48]), "+f"(d[49]), "+f"(d[50]), "+f"(d[51]), "+f"(d[52]), "+f"(d[53]), "+f"(d[54]), "+f"(d[55]),
        "+f"(d[56]), "+f"(d[57]), "+f"(d[58]), "+f"(d[59]), "+f"(d[60]), "+f"(d[61]), "+f"(d[62]), "+f"(d[63]),
        "+f"(d[64]), "+f"(d[65]), "+f"(d[66]), "+f"(d[67]), "+f"(d[68]), "+f"(d[69]), "+f"(d[70]), "+f"(d[71]),
        "+f"(d[72]), "+f"(d[73]), "+f"(d[74]), "+f"(d[75]), "+f"(d[76]), "+f"(d[77]), "+f"(d[78]), "+f"(d[79]),
        "+f"(d[80]), "+f"(d[81]), "+f"(d[82]), "+f"(d[83]), "+f"(d[84]), "+f"(d[85]), "+f"(d[86]), "+f"(d[87]),
        "+f"(d[88]), "+f"(d[89]), "+f"(d[90]), "+f"(d[91]), "+f"(d[92]), "+f"(d[93]), "+f"(d[94]), "+f"(d[95]),
        "+f"(d[96]), "+f"(d[97]), "+f"(d[98]), "+f"(d[99]), "+f"(d[100]), "+f"(d[101]), "+f"(d[102]), "+f"(d[103]),
        "+f"(d[104]), "+f"(d[105]), "+f"(d[106]), "+f"(d[107]), "+f"(d[108]), "+f"(d[109]), "+f"(d[110]), "+f"(d[111]),
        "+f"(d[112]), "+f"(d[113]), "+f"(d[114]), "+f"(d[115]), "+f"(d[116]), "+f"(d[117]), "+f"(d[118]), "+f"(d[119]),
        "+f"(d[120]), "+f"(d[121]), "+f"(d[122]), "+f"(d[123]), "+f"(d[124]), "+f"(d[125]), "+f"(d[126]), "+f"(d[127])
      : "l"(a), "l"(b), "r"(add), "n"(TA), "n"(TB));
}

template <int COUNT> __device__ __forceinline__ void products_registers_more() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(COUNT));
}
template <int COUNT> __device__ __forceinline__ void products_registers_fewer() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(COUNT));
}

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
template <int BN, int STAGES, bool TA, bool TB>
__device__ __forceinline__ void products_hopper(const products_tensor_map &map_a, const products_tensor_map &map_b,
                                                void *__restrict__ out, const void *__restrict__ bias, int m, int n,
                                                int k, long long stride_out, int batch, int batch_a, int batch_b,
                                                int splits, int per_split, int out16) {
  constexpr int A_BYTES = PRODUCTS_BM * PRODUCTS_BK * 2, B_BYTES = BN * PRODUCTS_BK * 2, STAGE = A_BYTES + B_BYTES;
  DYNAMIC_SHARED(unsigned char, shared);
  const unsigned base = (products_shared_address(shared) + 1023) / 1024 * 1024;
  const unsigned staging = base + STAGES * STAGE, barriers = staging + 16384;
  auto full = [&](int stage) { return barriers + stage * 8; };
  auto empty = [&](int stage) { return barriers + (STAGES + stage) * 8; };
  const int warpgroup = threadIdx.x / 128, warp = threadIdx.x / 32, lane = threadIdx.x % 32;

  if (threadIdx.x == 0) {
    for (int stage = 0; stage < STAGES; stage++) {
      products_barrier_init(full(stage), 1);
      products_barrier_init(empty(stage), PRODUCTS_CONSUMERS * 4);
    }
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    asm volatile("fence.proxy.async;" ::: "memory");
  }
  __syncthreads();

  const products_work<BN> work(m, n, batch, splits);
  const int all_steps = (k + PRODUCTS_BK - 1) / PRODUCTS_BK;
  int stage = 0;
  unsigned phase = 0;

  if (warpgroup == 0) {
    products_registers_fewer<40>();
    if (threadIdx.x == 0) {
      for (int index = blockIdx.x; index < work.count(); index += gridDim.x) {
        int split, item, row0, column0;
        work.at(index, split, item, row0, column0);
        const int first = split * per_split, last = min(all_steps, first + per_split);
        for (int step = first; step < last; step++) {
          const int at = step * PRODUCTS_BK;
          const unsigned a = base + stage * STAGE, b = a + A_BYTES;
          products_barrier_wait(empty(stage), phase ^ 1);
          products_barrier_expect(full(stage), STAGE);
          if constexpr (TA) {
#pragma unroll
            for (int box = 0; box < PRODUCTS_BM / 64; box++)
              products_copy_box(a + box * PRODUCTS_BOX, &map_a, full(stage), row0 + box * 64, at, item * batch_a);
          } else {
            products_copy_box(a, &map_a, full(stage), at, row0, item * batch_a);
          }
          if constexpr (TB) {
            products_copy_box(b, &map_b, full(stage), at, column0, item * batch_b);
          } else {
#pragma unroll
            for (int box = 0; box < BN / 64; box++)
              products_copy_box(b + box * PRODUCTS_BOX, &map_b, full(stage), column0 + box * 64, at, item * batch_b);
          }
          if (++stage == STAGES) stage = 0, phase ^= 1;
        }
      }
    }
  } else {
    products_registers_more<232>();
    const int consumer = warpgroup - 1, warp_row = consumer * 64 + warp % 4 * 16, g = lane / 4, t = lane % 4;
    // 16 deep is 32 bytes along the sum, or 16 rows of 128 bytes across it.
    constexpr unsigned STEP_A = TA ? 2048 / 16 : 32 / 16, STEP_B = TB ? 32 / 16 : 2048 / 16;
    const unsigned mine = staging + (consumer * 4 + warp % 4) * 2048;

    for (int index = blockIdx.x; index < work.count(); index += gridDim.x) {
      int split, item, row0, column0;
      work.at(index, split, item, row0, column0);
      const int steps = min(all_steps, (split + 1) * per_split) - split * per_split;
      float sum[BN / 2];
      int before = 0;
      for (int step = 0; step < steps; step++) {
        products_barrier_wait(full(stage), phase);
        const unsigned a = base + stage * STAGE + consumer * PRODUCTS_BOX, b = base + stage * STAGE + A_BYTES;
        const unsigned long long left = products_descriptor(a, PRODUCTS_BOX), right = products_descriptor(b, PRODUCTS_BOX);
        products_wgmma_fence();
#pragma unroll
        for (int s = 0; s < PRODUCTS_BK / 16; s++)
          products_wgmma<TA ? 1 : 0, TB ? 0 : 1>(sum, left + s * STEP_A, right + s * STEP_B, s > 0 || step > 0);
        products_wgmma_commit();
        // One step may still be running; the one before it is over, and its stage free.
        products_wgmma_wait<1>();
        if (step > 0 && lane == 0) products_barrier_arrive(empty(before));
        before = stage;
        if (++stage == STAGES) stage = 0, phase ^= 1;
      }
      products_wgmma_wait<0>();
      if (lane == 0) products_barrier_arrive(empty(before));

      // A warp puts 16 rows of 128 bytes at a time into shared memory, pieces exchanged by row so that no two lanes meet
      // in a bank, and writes them from there in whole 128-byte lines.
      const long long begin = (split * (long long)batch + item) * stride_out;
      const bool whole = n % (out16 ? 8 : 4) == 0 && (begin % (out16 ? 8 : 4)) == 0 && reinterpret_cast<unsigned long long>(out) % 16 == 0;
      auto finish = [&](float x, int column) {
        if (bias && column < n)
          x += out16 ? to_float(static_cast<const bf16 *>(bias)[column]) : static_cast<const float *>(bias)[column];
        return x;
      };
      auto write_lines = [&](int line_column) {
        __syncwarp();
        const int size = out16 ? 2 : 4, values = 16 / size;
#pragma unroll
        for (int i = 0; i < 4; i++) {
          const int r = i * 4 + lane / 8, piece = lane % 8, row = row0 + warp_row + r, column = line_column + piece * values;
          uint4 v;
          asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];"
                       : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                       : "r"(mine + r * 128 + ((piece ^ (r & 7)) * 16))
                       : "memory");
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
            for (int half = 0; half < 2; half++) {
              const __nv_bfloat162 pair = __floats2bfloat162_rn(finish(sum[at + 2 * half], column), finish(sum[at + 2 * half + 1], column + 1));
              asm volatile("st.shared.u32 [%0], %1;" ::"r"(mine + (g + 8 * half) * 128 + ((j ^ g) * 16) + 4 * t),
                           "r"(*reinterpret_cast<const unsigned *>(&pair))
                           : "memory");
            }
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
              asm volatile("st.shared.v2.f32 [%0], {%1, %2};" ::"r"(mine + (g + 8 * half) * 128 + (((2 * j + t / 2) ^ g) * 16) + 8 * (t % 2)),
                           "f"(finish(sum[at + 2 * half], column)), "f"(finish(sum[at + 2 * half + 1], column + 1))
                           : "memory");
          }
          write_lines(column0 + line * 32);
        }
      }
    }
  }
}

#define PRODUCTS_HOPPER(NAME, BN, STAGES, TA, TB)                                                                       \
  extern "C" __global__ void __launch_bounds__(384, 1)                                                                  \
      NAME(const __grid_constant__ products_tensor_map map_a, const __grid_constant__ products_tensor_map map_b,        \
           void *out, const void *bias, int m, int n, int k, long long stride_out, int batch, int batch_a, int batch_b, \
           int splits, int per_split, int out16) {                                         \
    products_hopper<BN, STAGES, TA, TB>(map_a, map_b, out, bias, m, n, k, stride_out, batch, batch_a, batch_b, splits,  \
                                        per_split, out16);                                           \
  }
PRODUCTS_HOPPER(products_hopper_256_nn, 256, 4, false, false)
PRODUCTS_HOPPER(products_hopper_256_nt, 256, 4, false, true)
PRODUCTS_HOPPER(products_hopper_256_tn, 256, 4, true, false)
PRODUCTS_HOPPER(products_hopper_256_tt, 256, 4, true, true)
PRODUCTS_HOPPER(products_hopper_128_nn, 128, 6, false, false)
PRODUCTS_HOPPER(products_hopper_128_nt, 128, 6, false, true)
PRODUCTS_HOPPER(products_hopper_128_tn, 128, 6, true, false)
PRODUCTS_HOPPER(products_hopper_128_tt, 128, 6, true, true)

#endif
