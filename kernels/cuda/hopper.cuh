// What kernels for Hopper (sm_90a) share: barriers in shared memory, the bulk tensor copy engine, warpgroup
// products, 16-bit results.
//
// Tiles of 16-bit values lie in shared memory as the copy engine swizzles them: lines of 128 bytes whose eight 16-byte
// pieces are exchanged by the line's low three bits. An operand contiguous along the sum is one box of lines, one for
// each row or column of the tile, by 64 deep; one contiguous across it comes as boxes of 64 deep by 64 across, 8 KB
// apart.
#pragma once
#include "common.cuh"

#include <type_traits>

// What the copy engine knows of a matrix (cuTensorMapEncodeTiled).
struct __align__(64) hopper_map {
  unsigned char bytes[128];
};

#ifdef D2DMOE_EMULATED
#include "hopper-emulated.cuh"
#else

__device__ __forceinline__ unsigned hopper_address(const void *p) { return (unsigned)__cvta_generic_to_shared(p); }

__device__ __forceinline__ void hopper_init(unsigned barrier, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}
// After the barriers' initialization, by the thread that did it, before the block's own barrier.
__device__ __forceinline__ void hopper_init_done() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  asm volatile("fence.proxy.async;" ::: "memory");
}
__device__ __forceinline__ void hopper_expect(unsigned barrier, int bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}
__device__ __forceinline__ void hopper_arrive(unsigned barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}
// Until the phase of that parity is over.
__device__ __forceinline__ void hopper_wait(unsigned barrier, unsigned parity) {
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

// A barrier of some of the block's warps, `number` from 1 to 15; __syncthreads is 0.
__device__ __forceinline__ void hopper_sync(int number, int threads) { asm volatile("bar.sync %0, %1;" ::"r"(number), "r"(threads) : "memory"); }

// A programmatic launch begins while the one before it still runs, once all of that one's blocks have said that it may;
// what that one writes is there after the wait, without which nothing that it reads may be written.
__device__ __forceinline__ void hopper_launch_next() { asm volatile("griddepcontrol.launch_dependents;" ::: "memory"); }
__device__ __forceinline__ void hopper_wait_launch() { asm volatile("griddepcontrol.wait;" ::: "memory"); }

// A cluster's barrier: what a block wrote to others' shared memory before it arrives is there when they have waited. The
// relaxed one promises nothing of the kind and costs far less: enough to say that a block has begun, or has read what may
// now be written again.
__device__ __forceinline__ void hopper_cluster_arrive() { asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory"); }
__device__ __forceinline__ void hopper_cluster_arrive_relaxed() { asm volatile("barrier.cluster.arrive.relaxed.aligned;" ::: "memory"); }
__device__ __forceinline__ void hopper_cluster_wait() { asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory"); }

// The same place of another block's shared memory; a write to it, which is there once the cluster's barrier is over.
__device__ __forceinline__ unsigned hopper_cluster_place(unsigned address, int block) {
  unsigned there;
  asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(address), "r"(block));
  return there;
}
__device__ __forceinline__ void hopper_cluster_store(unsigned address, int block, float4 v) {
  asm volatile("st.shared::cluster.v4.f32 [%0], {%1, %2, %3, %4};" ::"r"(hopper_cluster_place(address, block)), "f"(v.x), "f"(v.y), "f"(v.z), "f"(v.w) : "memory");
}

// 16 bytes to the same place of a block's shared memory, behind the thread's back: they count as that block's barrier's.
// And until the barrier's phase of that parity is over, all that it expects being there.
__device__ __forceinline__ void hopper_cluster_send(unsigned address, unsigned barrier, int block, const unsigned (&w)[4]) {
  asm volatile("st.async.shared::cluster.mbarrier::complete_tx::bytes.v4.b32 [%0], {%1, %2, %3, %4}, [%5];" ::"r"(hopper_cluster_place(address, block)), "r"(w[0]), "r"(w[1]), "r"(w[2]), "r"(w[3]),
               "r"(hopper_cluster_place(barrier, block))
               : "memory");
}
__device__ __forceinline__ void hopper_cluster_wait_sent(unsigned barrier, unsigned parity) {
  unsigned done;
  do {
    asm volatile(
        "{\n"
        ".reg .pred p;\n"
        "mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 p, [%1], %2;\n"
        "selp.u32 %0, 1, 0, p;\n"
        "}\n"
        : "=r"(done)
        : "r"(barrier), "r"(parity)
        : "memory");
  } while (!done);
}

__device__ __forceinline__ void hopper_prefetch_line(const void *p) { asm volatile("prefetch.global.L2 [%0];" ::"l"(p)); }
// What is read after the wait comes into the L2 cache before it, a line a thread of the grid. All writes meet there, so
// that nothing is missed of what the launch before still writes.
__device__ __forceinline__ void hopper_prefetch(const void *from, long long bytes) {
  for (long long at = (blockIdx.x + (long long)gridDim.x * threadIdx.x) * 128; at < bytes; at += (long long)gridDim.x * blockDim.x * 128)
    hopper_prefetch_line(static_cast<const char *>(from) + at);
}

// What tells the L2 cache that lines are to make room before others.
__device__ __forceinline__ unsigned long long hopper_passing() {
  unsigned long long policy;
  asm("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
  return policy;
}

// A multiple of 16 bytes, by the copy engine.
__device__ __forceinline__ void hopper_copy(unsigned to, const void *from, int bytes, unsigned barrier) {
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(to), "l"(from), "r"(bytes), "r"(barrier) : "memory");
}
// The same of what will not be read again soon.
__device__ __forceinline__ void hopper_copy_passing(unsigned to, const void *from, int bytes, unsigned barrier) {
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint [%0], [%1], %2, [%3], %4;" ::"r"(to), "l"(from), "r"(bytes), "r"(barrier), "l"(hopper_passing()) : "memory");
}
// A box of the matrix whose first element is at (x along the line, line y).
__device__ __forceinline__ void hopper_copy_box(unsigned to, const hopper_map *map, unsigned barrier, int x, int y, int z = 0) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5}], [%2];" ::"r"(to),
      "l"(map), "r"(barrier), "r"(x), "r"(y), "r"(z)
      : "memory");
}
// The same into the L2 cache alone.
__device__ __forceinline__ void hopper_prefetch_box(const hopper_map *map, int x, int y) {
  asm volatile("cp.async.bulk.prefetch.tensor.3d.L2.global [%0, {%1, %2, %3}];" ::"l"(map), "r"(x), "r"(y), "r"(0) : "memory");
}
// The reverse: a box from shared memory, behind the thread's back; what lies outside the matrix is left out. Stores are
// waited for in groups, which a thread ends: until their box has been read, or until all is written.
__device__ __forceinline__ void hopper_store_box(const hopper_map *map, unsigned from, int x, int y) {
  asm volatile("cp.async.bulk.tensor.3d.global.shared::cta.bulk_group [%0, {%2, %3, %4}], [%1];" ::"l"(map), "r"(from), "r"(x), "r"(y), "r"(0) : "memory");
}
// The same with contiguous bytes, a multiple of 16.
__device__ __forceinline__ void hopper_store(void *to, unsigned from, int bytes) {
  asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;" ::"l"(to), "r"(from), "r"(bytes) : "memory");
}
// The same of what will not be read soon: of the L2 cache's lines these make room first.
__device__ __forceinline__ void hopper_store_passing(void *to, unsigned from, int bytes) {
  asm volatile("cp.async.bulk.global.shared::cta.bulk_group.L2::cache_hint [%0], [%1], %2, %3;" ::"l"(to), "r"(from), "r"(bytes), "l"(hopper_passing()) : "memory");
}
__device__ __forceinline__ void hopper_stores_commit() { asm volatile("cp.async.bulk.commit_group;" ::: "memory"); }
__device__ __forceinline__ void hopper_stores_read() { asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory"); }
__device__ __forceinline__ void hopper_stores_written() { asm volatile("cp.async.bulk.wait_group 0;" ::: "memory"); }
__device__ __forceinline__ void hopper_shared_store(unsigned to, unsigned word) { asm volatile("st.shared.u32 [%0], %1;" ::"r"(to), "r"(word) : "memory"); }
__device__ __forceinline__ void hopper_shared_store(unsigned to, float2 v) { asm volatile("st.shared.v2.f32 [%0], {%1, %2};" ::"r"(to), "f"(v.x), "f"(v.y) : "memory"); }
__device__ __forceinline__ uint4 hopper_shared_load16(unsigned from) {
  uint4 v;
  asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "r"(from) : "memory");
  return v;
}
// 16 bytes behind the thread's back, `bytes` of them read and the rest zeros.
__device__ __forceinline__ void hopper_copy16(unsigned to, const void *from, int bytes) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(bytes) : "memory");
}
__device__ __forceinline__ void hopper_copy16_passing(unsigned to, const void *from, int bytes) {
  asm volatile("cp.async.cg.shared.global.L2::cache_hint [%0], [%1], 16, %2, %3;" ::"r"(to), "l"(from), "r"(bytes), "l"(hopper_passing()) : "memory");
}
__device__ __forceinline__ void hopper_copy16_passing(unsigned to, const void *from) {
  asm volatile("cp.async.cg.shared.global.L2::cache_hint [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "l"(hopper_passing()) : "memory");
}
// An address that stays whole: what is added to it the compiler would otherwise add up in another order.
template <typename T> __device__ __forceinline__ void hopper_kept(const T *&address) { asm("" : "+l"(address)); }
// This thread's arrival, once its 16-byte copies so far have landed. One of the arrivals that the barrier counts.
__device__ __forceinline__ void hopper_arrive_copied(unsigned barrier) {
  asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" ::"r"(barrier) : "memory");
}
// Between writes to shared memory by ordinary stores or 16-byte copies and their reads by tensor cores or copy engine.
__device__ __forceinline__ void hopper_proxy_fence() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// Where a wgmma finds an operand: 128-byte swizzle, `box_distance` between boxes across the sum.
__device__ __forceinline__ unsigned long long hopper_descriptor(unsigned address, unsigned box_distance) {
  return (unsigned long long)((address & 0x3ffff) >> 4) | (unsigned long long)(box_distance >> 4) << 16 |
         (unsigned long long)(1024 >> 4) << 32 | 1ull << 62;
}
__device__ __forceinline__ void hopper_wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void hopper_wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int PENDING> __device__ __forceinline__ void hopper_wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(PENDING) : "memory");
}
// After a wait: what reads the sums stays behind it.
template <int SUMS> __device__ __forceinline__ void hopper_settled(float (&d)[SUMS]) {
#pragma unroll
  for (int i = 0; i < SUMS; i++) asm volatile("" : "+f"(d[i])::"memory");
}
template <int COUNT> __device__ __forceinline__ void hopper_registers_more() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(COUNT));
}
template <int COUNT> __device__ __forceinline__ void hopper_registers_fewer() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(COUNT));
}

// Operand lists of 16 to 128 registers.
#define HOPPER_NAMES_16 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15"
#define HOPPER_NAMES_20 HOPPER_NAMES_16 ", %16, %17, %18, %19"
#define HOPPER_NAMES_28 HOPPER_NAMES_20 ", %20, %21, %22, %23, %24, %25, %26, %27"
#define HOPPER_NAMES_32 \
  HOPPER_NAMES_16 ", %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define HOPPER_NAMES_40 HOPPER_NAMES_32 ", %32, %33, %34, %35, %36, %37, %38, %39"
#define HOPPER_NAMES_56 HOPPER_NAMES_40 ", %40, %41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, %53, %54, %55"
#define HOPPER_NAMES_64                                                                                 \
  HOPPER_NAMES_32 ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, " \
                  "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define HOPPER_NAMES_96                                                                                 \
  HOPPER_NAMES_64 ", %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, " \
                  "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95"
#define HOPPER_NAMES_128                                                                                          \
  HOPPER_NAMES_64 ", %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, "           \
                  "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, "             \
                  "%96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, " \
                  "%112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127"
#define HOPPER_SUMS_4(d, i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define HOPPER_SUMS_16(d, i) HOPPER_SUMS_4(d, i), HOPPER_SUMS_4(d, i + 4), HOPPER_SUMS_4(d, i + 8), HOPPER_SUMS_4(d, i + 12)
#define HOPPER_SUMS_32(d, i) HOPPER_SUMS_16(d, i), HOPPER_SUMS_16(d, i + 16)
#define HOPPER_SUMS_20(d, i) HOPPER_SUMS_16(d, i), HOPPER_SUMS_4(d, i + 16)
#define HOPPER_SUMS_28(d, i) HOPPER_SUMS_20(d, i), HOPPER_SUMS_4(d, i + 20), HOPPER_SUMS_4(d, i + 24)
#define HOPPER_SUMS_40(d, i) HOPPER_SUMS_20(d, i), HOPPER_SUMS_20(d, i + 20)
#define HOPPER_SUMS_56(d, i) HOPPER_SUMS_28(d, i), HOPPER_SUMS_28(d, i + 28)
#define HOPPER_SUMS_64(d, i) HOPPER_SUMS_32(d, i), HOPPER_SUMS_32(d, i + 32)
#define HOPPER_SUMS_96(d, i) HOPPER_SUMS_64(d, i), HOPPER_SUMS_32(d, i + 64)
#define HOPPER_SUMS_128(d, i) HOPPER_SUMS_64(d, i), HOPPER_SUMS_64(d, i + 64)

// One instruction with both operands in shared memory (S: the numbers of a, b, add, transposes), one with a in registers.
#define HOPPER_WGMMA_SS(N, REGISTERS, TYPE, A, B, ADD, TA, TB)                                               \
  asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %" #ADD ", 0;\n"                                            \
               "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32." TYPE "." TYPE " {" HOPPER_NAMES_##REGISTERS \
               "}, %" #A ", %" #B ", p, 1, 1, %" #TA ", %" #TB ";\n}\n"                                      \
               : HOPPER_SUMS_##REGISTERS(d, 0)                                                               \
               : "l"(a), "l"(b), "r"(add), "n"(ACROSS_A), "n"(ACROSS_B))
#define HOPPER_WGMMA_RS(N, REGISTERS, TYPE, A0, A1, A2, A3, B, ADD, TB)                                      \
  asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %" #ADD ", 0;\n"                                            \
               "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32." TYPE "." TYPE " {" HOPPER_NAMES_##REGISTERS \
               "}, {%" #A0 ", %" #A1 ", %" #A2 ", %" #A3 "}, %" #B ", p, 1, 1, %" #TB ";\n}\n"               \
               : HOPPER_SUMS_##REGISTERS(d, 0)                                                               \
               : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "l"(b), "r"(add), "n"(ACROSS_B))

// d (+)= a · b: 64 x N sums of a warpgroup, 16 deep, operands bf16 or fp16. ACROSS_A and ACROSS_B are 1 where the
// operand lies across the sum.
template <typename T, int ACROSS_A, int ACROSS_B, int SUMS>
__device__ __forceinline__ void hopper_wgmma(float (&d)[SUMS], unsigned long long a, unsigned long long b, int add) {
  static_assert(SUMS == 16 || SUMS == 20 || SUMS == 28 || SUMS == 32 || SUMS == 40 || SUMS == 56 || SUMS == 64 || SUMS == 128, "32, 40, 56, 64, 80, 112, 128 or 256 columns");
  if constexpr (std::is_same<T, bf16>::value) {
    if constexpr (SUMS == 16) HOPPER_WGMMA_SS(32, 16, "bf16", 16, 17, 18, 19, 20);
    if constexpr (SUMS == 32) HOPPER_WGMMA_SS(64, 32, "bf16", 32, 33, 34, 35, 36);
    if constexpr (SUMS == 20) HOPPER_WGMMA_SS(40, 20, "bf16", 20, 21, 22, 23, 24);
    if constexpr (SUMS == 28) HOPPER_WGMMA_SS(56, 28, "bf16", 28, 29, 30, 31, 32);
    if constexpr (SUMS == 40) HOPPER_WGMMA_SS(80, 40, "bf16", 40, 41, 42, 43, 44);
    if constexpr (SUMS == 56) HOPPER_WGMMA_SS(112, 56, "bf16", 56, 57, 58, 59, 60);
    if constexpr (SUMS == 64) HOPPER_WGMMA_SS(128, 64, "bf16", 64, 65, 66, 67, 68);
    if constexpr (SUMS == 128) HOPPER_WGMMA_SS(256, 128, "bf16", 128, 129, 130, 131, 132);
  } else {
    if constexpr (SUMS == 16) HOPPER_WGMMA_SS(32, 16, "f16", 16, 17, 18, 19, 20);
    if constexpr (SUMS == 32) HOPPER_WGMMA_SS(64, 32, "f16", 32, 33, 34, 35, 36);
    if constexpr (SUMS == 20) HOPPER_WGMMA_SS(40, 20, "f16", 20, 21, 22, 23, 24);
    if constexpr (SUMS == 28) HOPPER_WGMMA_SS(56, 28, "f16", 28, 29, 30, 31, 32);
    if constexpr (SUMS == 40) HOPPER_WGMMA_SS(80, 40, "f16", 40, 41, 42, 43, 44);
    if constexpr (SUMS == 56) HOPPER_WGMMA_SS(112, 56, "f16", 56, 57, 58, 59, 60);
    if constexpr (SUMS == 64) HOPPER_WGMMA_SS(128, 64, "f16", 64, 65, 66, 67, 68);
    if constexpr (SUMS == 128) HOPPER_WGMMA_SS(256, 128, "f16", 128, 129, 130, 131, 132);
  }
}
// The same with a in registers: lane 4g + t of a warp of 16 rows holds the pairs of columns 2t and 2t + 1 of row g (a0)
// and row g + 8 (a1), and of columns 2t + 8 and 2t + 9 (a2, a3).
template <typename T, int ACROSS_B, int SUMS>
__device__ __forceinline__ void hopper_wgmma(float (&d)[SUMS], unsigned a0, unsigned a1, unsigned a2, unsigned a3,
                                             unsigned long long b, int add) {
  static_assert(SUMS == 64 || SUMS == 96 || SUMS == 128, "128, 192 or 256 columns");
  if constexpr (std::is_same<T, bf16>::value) {
    if constexpr (SUMS == 64) HOPPER_WGMMA_RS(128, 64, "bf16", 64, 65, 66, 67, 68, 69, 70);
    if constexpr (SUMS == 96) HOPPER_WGMMA_RS(192, 96, "bf16", 96, 97, 98, 99, 100, 101, 102);
    if constexpr (SUMS == 128) HOPPER_WGMMA_RS(256, 128, "bf16", 128, 129, 130, 131, 132, 133, 134);
  } else {
    if constexpr (SUMS == 64) HOPPER_WGMMA_RS(128, 64, "f16", 64, 65, 66, 67, 68, 69, 70);
    if constexpr (SUMS == 96) HOPPER_WGMMA_RS(192, 96, "f16", 96, 97, 98, 99, 100, 101, 102);
    if constexpr (SUMS == 128) HOPPER_WGMMA_RS(256, 128, "f16", 128, 129, 130, 131, 132, 133, 134);
  }
}

// Two values rounded to 16 bits.
template <typename T> __device__ __forceinline__ unsigned hopper_pack(float low, float high);
template <> __device__ __forceinline__ unsigned hopper_pack<bf16>(float low, float high) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
  return *reinterpret_cast<const unsigned *>(&pair);
}
template <> __device__ __forceinline__ unsigned hopper_pack<__half>(float low, float high) {
  const __half2 pair = __floats2half2_rn(low, high);
  return *reinterpret_cast<const unsigned *>(&pair);
}
// The same of values below 0 as 0; NaN stays NaN.
template <typename T> __device__ __forceinline__ unsigned hopper_pack_relu(float low, float high) {
  unsigned pair;
  if constexpr (std::is_same<T, bf16>::value)
    asm("cvt.rn.relu.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  else
    asm("cvt.rn.relu.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
}

// 16 bytes that nobody writes, read where the program says so.
__device__ __forceinline__ void hopper_load16(unsigned (&w)[4], const void *from) {
  asm volatile("ld.global.nc.v4.u32 {%0, %1, %2, %3}, [%4];" : "=r"(w[0]), "=r"(w[1]), "=r"(w[2]), "=r"(w[3]) : "l"(from));
}
// Two pairs added up.
template <typename T> __device__ __forceinline__ unsigned hopper_sum(unsigned a, unsigned b) {
  unsigned sum;
  if constexpr (std::is_same<T, bf16>::value)
    asm("add.rn.bf16x2 %0, %1, %2;" : "=r"(sum) : "r"(a), "r"(b));
  else
    asm("add.rn.f16x2 %0, %1, %2;" : "=r"(sum) : "r"(a), "r"(b));
  return sum;
}
// Eight 16-bit values added to 16 bytes of device memory.
template <typename T> __device__ __forceinline__ void hopper_add16(void *to, const unsigned (&w)[4]) {
  if constexpr (std::is_same<T, bf16>::value)
    asm volatile("red.relaxed.gpu.global.add.noftz.v4.bf16x2 [%0], {%1, %2, %3, %4};" ::"l"(to), "r"(w[0]), "r"(w[1]), "r"(w[2]), "r"(w[3]) : "memory");
  else
    asm volatile("red.relaxed.gpu.global.add.noftz.v4.f16x2 [%0], {%1, %2, %3, %4};" ::"l"(to), "r"(w[0]), "r"(w[1]), "r"(w[2]), "r"(w[3]) : "memory");
}

__device__ __forceinline__ float hopper_exp2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
__device__ __forceinline__ float hopper_reciprocal(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
#endif

// Barriers `full` and `empty` of a ring of slots, and where a thread is in it.
template <int SLOTS> struct hopper_ring {
  unsigned barriers;
  int slot = 0;
  unsigned phase = 0;
  __device__ __forceinline__ unsigned full() const { return barriers + slot * 8; }
  __device__ __forceinline__ unsigned empty() const { return barriers + (SLOTS + slot) * 8; }
  __device__ __forceinline__ void next() {
    if (++slot == SLOTS) slot = 0, phase ^= 1;
  }
  __device__ __forceinline__ void init(int full_arrivals, int empty_arrivals) const {
    for (int i = 0; i < SLOTS; i++) hopper_init(barriers + i * 8, full_arrivals), hopper_init(barriers + (SLOTS + i) * 8, empty_arrivals);
  }
};

// Products of `steps` slots of a ring by a warpgroup: `multiply` asks for those of step `step` of the slot at hand, which
// run while the next ones are asked for; a slot goes back to its copies once its own are over.
template <int SLOTS, typename F> __device__ __forceinline__ void hopper_products(hopper_ring<SLOTS> &ring, int steps, F multiply) {
  const bool tells = threadIdx.x % 32 == 0;
  unsigned before = 0;
  for (int step = 0; step < steps; step++) {
    hopper_wait(ring.full(), ring.phase);
    hopper_wgmma_fence();
    multiply(step);
    hopper_wgmma_wait<1>();
    if (step > 0 && tells) hopper_arrive(before);
    before = ring.empty();
    ring.next();
  }
  hopper_wgmma_wait<0>();
  if (tells) hopper_arrive(before);
}
