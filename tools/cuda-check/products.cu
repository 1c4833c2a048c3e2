// Checks the matrix products of kernels/cuda on a Hopper GPU against a plain kernel that sums in float64, then times
// them beside cuBLASLt. Needs no more than nvcc and the driver:
//
//   nvcc -O3 -std=c++17 -gencode arch=compute_90a,code=sm_90a -o /tmp/products tools/cuda-check/products.cu -ldl
//   /tmp/products            both; /tmp/products check or /tmp/products time for one
//
// The last line says how many checks failed; the exit code is 1 if any did. D2DMOE_LIBCUBLASLT names cuBLASLt's file
// where the dynamic linker does not find it.
#include <cuda_runtime.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include "../../kernels/cuda/products.cu"
#include "../../kernels/cuda/products.sm90a.cu"
#include "../../kernels/cuda/products-mma.cu"

#define CHECK(call)                                                                                  \
  do {                                                                                               \
    cudaError_t error = (call);                                                                      \
    if (error != cudaSuccess) {                                                                      \
      printf("%s:%d %s: %s\n", __FILE__, __LINE__, #call, cudaGetErrorString(error));                \
      exit(2);                                                                                       \
    }                                                                                                \
  } while (0)

#include "cublaslt.cuh"
#include "tensor-map.cuh"

// ---- Inputs and the reference --------------------------------------------------------------------------------------

template <typename H> __global__ void fill(float *x, H *y, size_t n, unsigned seed) {
  for (size_t i = blockIdx.x * (size_t)blockDim.x + threadIdx.x; i < n; i += (size_t)gridDim.x * blockDim.x) {
    unsigned long long h = (i + 1) * 0x9e3779b97f4a7c15ull + seed * 0xd1b54a32d192ed03ull;
    h ^= h >> 32, h *= 0xd6e8feb86659fd93ull, h ^= h >> 32, h *= 0xd6e8feb86659fd93ull, h ^= h >> 32;
    const float v = (float)(h >> 40) / (float)(1 << 23) - 1.0f;
    if (x) x[i] = v;
    if (y) y[i] = from_float<H>(v);
  }
}

template <typename T>
__global__ void reference(const T *a, const T *b, double *out, const float *bias, int m, int n, int k, int ta, int tb,
                          long long sa, long long sb, int batch) {
  const size_t all = (size_t)batch * m * n;
  for (size_t i = blockIdx.x * (size_t)blockDim.x + threadIdx.x; i < all; i += (size_t)gridDim.x * blockDim.x) {
    const int c = i % n, r = i / n % m, item = i / n / m;
    const T *x = a + item * sa, *y = b + item * sb;
    double sum = bias ? bias[c] : 0.0;
    for (int s = 0; s < k; s++)
      sum += (double)to_float(x[ta ? (size_t)s * m + r : (size_t)r * k + s]) *
             (double)to_float(y[tb ? (size_t)c * k + s : (size_t)s * n + c]);
    out[i] = sum;
  }
}

// Sums of squares of difference and reference; a NaN anywhere makes the first NaN.
template <typename T> __global__ void distance(const T *x, const double *y, size_t n, double *sums) {
  double d = 0, r = 0;
  for (size_t i = blockIdx.x * (size_t)blockDim.x + threadIdx.x; i < n; i += (size_t)gridDim.x * blockDim.x) {
    const double e = (double)to_float(x[i]) - y[i];
    d += e * e, r += y[i] * y[i];
  }
  atomicAdd(sums, d), atomicAdd(sums + 1, r);
}

// ---- Launching -----------------------------------------------------------------------------------------------------

struct Case {
  int m, n, k;
  bool ta = false, tb = false;
  int batch = 1;
  bool one_a = false, one_b = false;  // one matrix for the whole batch
  long long sa() const { return one_a ? 0 : (long long)m * k; }
  long long sb() const { return one_b ? 0 : (long long)k * n; }
  double operations() const { return 2.0 * batch * m * n * k; }
};

static int multiprocessors;
static float *parts;  // for split sums
static const size_t PART_BYTES = 1ull << 30;

template <typename H> static void reduce(const Case &c, void *out, const void *bias, int splits, bool out16) {
  const long long count = (long long)c.batch * c.m * c.n;
  const int blocks = (int)std::min<long long>((count + 255) / 256, multiprocessors * 8);
  constexpr bool is_bf16 = std::is_same<H, bf16>::value;
  if (out16 && is_bf16)
    products_reduce_bf16<<<blocks, 256>>>(parts, (bf16 *)out, (const bf16 *)bias, count, c.n, splits);
  else if (out16)
    products_reduce_f16<<<blocks, 256>>>(parts, (__half *)out, (const __half *)bias, count, c.n, splits);
  else
    products_reduce_f32<<<blocks, 256>>>(parts, (float *)out, (const float *)bias, count, c.n, splits);
}

static bool hopper_takes(const Case &c) {
  return (c.ta ? c.m : c.k) % 8 == 0 && (c.tb ? c.k : c.n) % 8 == 0;
}
#define HOPPER_KERNELS(TYPE)                                                                                            \
  {{{products_hopper_##TYPE##_256_nn, products_hopper_##TYPE##_256_nt}, {products_hopper_##TYPE##_256_tn, products_hopper_##TYPE##_256_tt}}, \
   {{products_hopper_##TYPE##_128_nn, products_hopper_##TYPE##_128_nt}, {products_hopper_##TYPE##_128_tn, products_hopper_##TYPE##_128_tt}}}
template <typename H> static void hopper(const Case &c, const H *a, const H *b, void *out, const void *bias, bool out16, int bn, int splits) {
  typedef void (*Kernel)(hopper_map, hopper_map, void *, const void *, int, int, int, long long, int, int, int, int, int, int);
  static const Kernel kernels[2][2][2][2] = {HOPPER_KERNELS(bf16), HOPPER_KERNELS(f16)};
  const Kernel kernel = kernels[std::is_same<H, __half>::value][bn == 128][c.ta][c.tb];
  const int stages = bn == 256 ? 4 : 6, shared = 1024 + stages * (16384 + bn * 128) + 16384 + stages * 16;
  CHECK(cudaFuncSetAttribute((const void *)kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared));
  const hopper_map map_a = c.ta ? tensor_map(a, c.m, c.k, 64, 64, c.one_a ? 1 : c.batch) : tensor_map(a, c.k, c.m, 64, 128, c.one_a ? 1 : c.batch);
  const hopper_map map_b = c.tb ? tensor_map(b, c.k, c.n, 64, bn, c.one_b ? 1 : c.batch) : tensor_map(b, c.n, c.k, 64, 64, c.one_b ? 1 : c.batch);
  const int steps = (c.k + 63) / 64, per_split = (steps + splits - 1) / splits;
  splits = (steps + per_split - 1) / per_split;
  const int items = (c.m + 127) / 128 * ((c.n + bn - 1) / bn) * c.batch * splits;
  kernel<<<std::min(items, multiprocessors), 384, shared>>>(map_a, map_b, splits > 1 ? parts : out, splits > 1 ? nullptr : bias, c.m, c.n, c.k,
                                                            (long long)c.m * c.n, c.batch, !c.one_a, !c.one_b, splits, per_split,
                                                            splits > 1 ? 0 : out16);
  CHECK(cudaGetLastError());
  if (splits > 1) reduce<H>(c, out, bias, splits, out16);
}

template <typename T> static void mma(const Case &c, const T *a, const T *b, void *out, const void *bias, bool out16, int splits) {
  typedef void (*Kernel)(const T *, const T *, void *, const void *, int, int, int, long long, long long, long long, int, int, int, int, int, int);
  Kernel kernel;
  if constexpr (std::is_same<T, __half>::value)
    kernel = c.ta ? (c.tb ? products_mma_f16_tt : products_mma_f16_tn) : (c.tb ? products_mma_f16_nt : products_mma_f16_nn);
  else if constexpr (sizeof(T) == 2)
    kernel = c.ta ? (c.tb ? products_mma_bf16_tt : products_mma_bf16_tn) : (c.tb ? products_mma_bf16_nt : products_mma_bf16_nn);
  else
    kernel = c.ta ? (c.tb ? products_mma_tf32_tt : products_mma_tf32_tn) : (c.tb ? products_mma_tf32_nt : products_mma_tf32_nn);
  const int vector = 16 / sizeof(T), depth = 64 / sizeof(T);
  const int bytes_a = c.ta ? products_operand<T, false>::ELEMENTS : products_operand<T, true>::ELEMENTS;
  const int bytes_b = c.tb ? products_operand<T, true>::ELEMENTS : products_operand<T, false>::ELEMENTS;
  const int shared = 4 * (bytes_a + bytes_b) * (int)sizeof(T);
  CHECK(cudaFuncSetAttribute((const void *)kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared));
  const int per_split = ((c.k + depth - 1) / depth + splits - 1) / splits * depth;
  splits = (c.k + per_split - 1) / per_split;
  const dim3 grid((c.m + 127) / 128 * ((c.n + 127) / 128), splits, c.batch);
  kernel<<<grid, 256, shared>>>(a, b, splits > 1 ? parts : out, splits > 1 ? nullptr : bias, c.m, c.n, c.k, c.sa(), c.sb(), (long long)c.m * c.n,
                                c.batch, splits, per_split, (c.ta ? c.m : c.k) % vector == 0, (c.tb ? c.k : c.n) % vector == 0,
                                splits > 1 ? 0 : out16);
  CHECK(cudaGetLastError());
  if (splits > 1) reduce<T>(c, out, bias, splits, out16);
}

static void simt(const Case &c, const float *a, const float *b, float *out, const float *bias, int tile, int splits) {
  const int per_split = ((c.k + 7) / 8 + splits - 1) / splits * 8;
  splits = (c.k + per_split - 1) / per_split;
  const dim3 grid((c.m + tile - 1) / tile * ((c.n + tile - 1) / tile), splits, c.batch);
  auto kernel = tile == 128 ? products_simt_f32_128 : products_simt_f32_64;
  kernel<<<grid, tile == 128 ? 256 : 128>>>(a, b, splits > 1 ? parts : out, splits > 1 ? nullptr : bias, c.m, c.n, c.k, c.ta, c.tb, c.sa(), c.sb(),
                                            (long long)c.m * c.n, c.batch, splits, per_split);
  CHECK(cudaGetLastError());
  if (splits > 1) reduce<bf16>(c, out, bias, splits, false);
}

// m or n is 1.
static void vector_product(const Case &c, const float *a, const float *b, float *out, const float *bias, int splits) {
  const bool right = c.n == 1;  // the matrix is a
  const float *matrix = right ? a : b, *vector = right ? b : a;
  const int rows = right ? c.m : c.n;
  const long long sm = right ? c.sa() : c.sb(), sv = right ? c.sb() : c.sa();
  if (right ? !c.ta : c.tb) {
    products_rows_f32<<<std::min((rows * c.batch + 7) / 8, multiprocessors * 8), 256>>>(matrix, vector, out, bias, rows, c.k, sm, sv, rows, c.batch, !right, c.k % 4 == 0);
  } else {
    const int per_split = (c.k + splits - 1) / splits;
    splits = (c.k + per_split - 1) / per_split;
    products_columns_f32<<<dim3((rows + 31) / 32, splits, c.batch), 256>>>(matrix, vector, splits > 1 ? parts : out, splits > 1 ? nullptr : bias, rows, c.k, sm, sv, rows,
                                                                          c.batch, per_split, !right);
    if (splits > 1) reduce<bf16>(c, out, bias, splits, false);
  }
  CHECK(cudaGetLastError());
}

// ---- cuBLASLt ------------------------------------------------------------------------------------------------------

struct ProductsLt : CublasLt {
  // type: 14 bf16, 0 float32. compute: 68 float32, 77 tf32. Returns one function for each heuristic.
  struct Plan {
    void *desc, *left, *right, *out;
    std::vector<Heuristic> found;
  };
  Plan plan(const Case &c, int type, int out_type, int compute, int want) const {
    Plan p;
    auto must = [](int status, const char *what) {
      if (status) printf("%s failed: %d\n", what, status), exit(2);
    };
    must(desc_create(&p.desc, compute, 0), "cublasLtMatmulDescCreate");
    const int first = c.tb, second = c.ta;
    must(desc_set(p.desc, 3, &first, 4), "TRANSA"), must(desc_set(p.desc, 4, &second, 4), "TRANSB");
    // Row-major out = op(a) · op(b) is column-major outᵀ = op(b)ᵀ · op(a)ᵀ.
    must(layout_create(&p.left, type, c.tb ? c.k : c.n, c.tb ? c.n : c.k, c.tb ? c.k : c.n), "layout");
    must(layout_create(&p.right, type, c.ta ? c.m : c.k, c.ta ? c.k : c.m, c.ta ? c.m : c.k), "layout");
    must(layout_create(&p.out, out_type, c.n, c.m, c.n), "layout");
    const long long strides[3] = {c.sb(), c.sa(), (long long)c.m * c.n};
    void *layouts[3] = {p.left, p.right, p.out};
    for (int i = 0; i < 3; i++) must(layout_set(layouts[i], 5, &c.batch, 4), "batch"), must(layout_set(layouts[i], 6, &strides[i], 8), "stride");
    void *preference;
    must(preference_create(&preference), "preference");
    const size_t bytes = WORKSPACE;
    must(preference_set(preference, 1, &bytes, 8), "workspace");
    p.found.resize(want);
    int count = 0;
    must(heuristic(handle, p.desc, p.left, p.right, p.out, p.out, preference, want, p.found.data(), &count), "heuristic");
    p.found.resize(count);
    return p;
  }
  int run(const Plan &p, int which, const void *a, const void *b, void *out) const {
    const float one = 1, zero = 0;
    return matmul(handle, p.desc, &one, b, p.left, a, p.right, &zero, out, p.out, out, p.out, p.found[which].algo, workspace, WORKSPACE, nullptr);
  }
};

// ---- Checks --------------------------------------------------------------------------------------------------------

static int failures = 0, checks = 0;

template <typename T> static T *device(size_t count) {
  void *p;
  CHECK(cudaMalloc(&p, count * sizeof(T) + 4096));
  return (T *)p;
}

// H: the type of 16 bits that products are checked in, beside float32 ones.
template <typename H> struct Checker {
  float *a, *b, *bias, *out;
  H *a16, *b16, *bias16;
  double *expected, *expected16, *sums;
  size_t room = 1 << 24;
  static constexpr bool IS_BF16 = std::is_same<H, bf16>::value;
  static constexpr const char *NAME = IS_BF16 ? "bf16" : "fp16";
  Checker() {
    a = device<float>(room), b = device<float>(room), out = device<float>(room), bias = device<float>(1 << 16);
    a16 = device<H>(room), b16 = device<H>(room), bias16 = device<H>(1 << 16);
    expected = device<double>(room), expected16 = device<double>(room), sums = device<double>(2);
  }
  void judge(const char *what, const Case &c, bool out16, const double *right, double bar, const std::function<void()> &run) {
    const size_t count = (size_t)c.batch * c.m * c.n, bytes = count * (out16 ? 2 : 4);
    CHECK(cudaMemset(out, 0xff, bytes + 4096));
    run();
    cudaError_t error = cudaDeviceSynchronize();
    double host[2] = {0, 0};
    bool outside = false;
    if (error == cudaSuccess) {
      CHECK(cudaMemset(sums, 0, 16));
      if (out16)
        distance<<<256, 256>>>((H *)out, right, count, sums);
      else
        distance<<<256, 256>>>(out, right, count, sums);
      CHECK(cudaMemcpy(host, sums, 16, cudaMemcpyDeviceToHost));
      std::vector<unsigned char> tail(4096);
      CHECK(cudaMemcpy(tail.data(), (char *)out + bytes, 4096, cudaMemcpyDeviceToHost));
      for (unsigned char x : tail) outside |= x != 0xff;
    }
    const double relative = std::sqrt(host[0] / host[1]);
    checks++;
    if (error != cudaSuccess || outside || !(relative <= bar)) {
      failures++;
      printf("FAILED %-18s [%d x %d] · [%d x %d] %c%c batch %d%s%s %s: %s %.3e, bar %.0e%s\n", what, c.m, c.k, c.k, c.n, c.ta ? 't' : 'n', c.tb ? 't' : 'n', c.batch,
             c.one_a ? " one a" : "", c.one_b ? " one b" : "", out16 ? NAME : "f32", error == cudaSuccess ? "relative error" : cudaGetErrorString(error), relative, bar,
             outside ? ", wrote past the end" : "");
      if (error != cudaSuccess) exit(1);
    }
  }
  void operator()(Case c, bool with_bias, int splits) {
    const size_t na = (size_t)c.m * c.k * (c.one_a ? 1 : c.batch), nb = (size_t)c.k * c.n * (c.one_b ? 1 : c.batch), count = (size_t)c.batch * c.m * c.n;
    if (na > room || nb > room || count > room) printf("A case is too large for its buffers.\n"), exit(2);
    fill<<<256, 256>>>(a, a16, na, 1 + checks), fill<<<256, 256>>>(b, b16, nb, 7 + checks), fill<H><<<16, 256>>>(nullptr, bias16, c.n, 9 + checks);
    // The bias is one that both types can hold.
    std::vector<H> host16(c.n);
    std::vector<float> host(c.n);
    CHECK(cudaMemcpy(host16.data(), bias16, c.n * 2, cudaMemcpyDeviceToHost));
    for (int i = 0; i < c.n; i++) host[i] = (float)host16[i];
    CHECK(cudaMemcpy(bias, host.data(), c.n * 4, cudaMemcpyHostToDevice));
    const float *add = with_bias ? bias : nullptr;
    const H *add16 = with_bias ? bias16 : nullptr;
    reference<<<1024, 256>>>(a, b, expected, add, c.m, c.n, c.k, c.ta, c.tb, c.sa(), c.sb(), c.batch);
    reference<<<1024, 256>>>(a16, b16, expected16, add, c.m, c.n, c.k, c.ta, c.tb, c.sa(), c.sb(), c.batch);
    CHECK(cudaDeviceSynchronize());
    for (int tile : IS_BF16 ? std::vector<int>{128, 64} : std::vector<int>{})
      judge(tile == 128 ? "simt 128" : "simt 64", c, false, expected, 1e-5, [&] { simt(c, a, b, out, add, tile, splits); });
    if (IS_BF16 && (c.m == 1 || c.n == 1)) judge("vector", c, false, expected, 1e-5, [&] { vector_product(c, a, b, out, add, splits); });
    if (IS_BF16) judge("mma tf32", c, false, expected, 1e-3, [&] { mma(c, a, b, out, add, false, splits); });
    for (bool out16 : {false, true}) {
      const double bar = !out16 ? 5e-5 : IS_BF16 ? 4e-3 : 5e-4;
      const void *any = out16 ? (const void *)add16 : (const void *)add;
      judge(IS_BF16 ? "mma bf16" : "mma fp16", c, out16, expected16, bar, [&] { mma(c, a16, b16, out, any, out16, splits); });
      if (!hopper_takes(c)) continue;
      judge("hopper 256", c, out16, expected16, bar, [&] { hopper(c, a16, b16, out, any, out16, 256, splits); });
      judge("hopper 128", c, out16, expected16, bar, [&] { hopper(c, a16, b16, out, any, out16, 128, splits); });
    }
  }
};

template <typename H> static void check_type() {
  Checker<H> check;
  for (int layout = 0; layout < 4; layout++) {
    const bool ta = layout & 2, tb = layout & 1;
    auto run = [&](int m, int n, int k, int batch, bool one_a, bool one_b, bool bias, int splits) {
      Case c{m, n, k, ta, tb, batch, one_a, one_b};
      check(c, bias, splits);
    };
    run(128, 256, 64, 1, false, false, false, 1);   // one tile, one step
    run(128, 256, 256, 1, false, false, true, 1);   // the ring once around
    run(256, 512, 1024, 1, false, false, true, 1);  // several tiles
    run(136, 264, 72, 1, false, false, true, 1);    // over every edge
    run(8, 8, 8, 3, false, false, true, 1);
    run(200, 120, 136, 5, false, true, false, 1);
    run(64, 320, 200, 4, true, false, true, 1);
    run(120, 72, 2056, 2, false, false, true, 7);   // split sums
    run(1280, 1528, 320, 2, false, false, true, 1);  // more tiles than multiprocessors
    run(77, 53, 29, 3, false, false, true, 1);      // nothing aligned
    run(129, 130, 67, 2, false, true, false, 3);
    run(3, 2, 1, 1, false, false, false, 1);  // a bias could cancel a sum of one term
    run(1, 501, 1003, 2, false, false, true, 1);
    run(333, 1, 1024, 2, false, false, true, 4);
    run(1, 512, 1024, 1, false, false, true, 8);
  }
}
static void check_all() {
  check_type<bf16>();
  check_type<__half>();
  printf("%d of %d checks failed\n", failures, checks);
}

// ---- Times ---------------------------------------------------------------------------------------------------------

// Median milliseconds of one call over 15 turns of about 2 ms; `run` gets the number of the input set to use.
static double median_ms(const std::function<void(int)> &run, int sets, double guess_ms) {
  cudaEvent_t start, end;
  CHECK(cudaEventCreate(&start));
  CHECK(cudaEventCreate(&end));
  const int inner = std::max(1, (int)(2.0 / guess_ms)), outer = 15;
  for (int i = 0; i < std::max(3, inner); i++) run(i % sets);
  std::vector<double> times;
  for (int o = 0, set = 0; o < outer; o++) {
    CHECK(cudaEventRecord(start));
    for (int i = 0; i < inner; i++) run(set++ % sets);
    CHECK(cudaEventRecord(end));
    CHECK(cudaEventSynchronize(end));
    float ms;
    CHECK(cudaEventElapsedTime(&ms, start, end));
    times.push_back(ms / inner);
  }
  std::sort(times.begin(), times.end());
  CHECK(cudaEventDestroy(start));
  CHECK(cudaEventDestroy(end));
  return times[outer / 2];
}

static void time_case(const ProductsLt &lt, const Case &c, bool out16, bool with_float32) {
  const size_t na = (size_t)c.m * c.k * c.batch, nb = (size_t)c.k * c.n * c.batch, no = (size_t)c.m * c.n * c.batch;
  const size_t set_bytes = (na + nb + no) * 2;
  const int sets = (int)std::max<size_t>(2, std::min<size_t>(12, (200u << 20) / set_bytes + 1));
  std::vector<bf16 *> a, b;
  std::vector<void *> out;
  for (int i = 0; i < sets; i++) {
    a.push_back(device<bf16>(na)), b.push_back(device<bf16>(nb)), out.push_back(device<float>(no));
    fill<<<1024, 256>>>(nullptr, a[i], na, 3 * i + 1), fill<<<1024, 256>>>(nullptr, b[i], nb, 3 * i + 2);
  }
  CHECK(cudaDeviceSynchronize());
  printf("\n[%d x %d] · [%d x %d] %c%c batch %d, bf16 -> %s: %.2f GFLOP, %.1f MB, %d input sets\n", c.m, c.k, c.k, c.n, c.ta ? 't' : 'n', c.tb ? 't' : 'n', c.batch,
         out16 ? "bf16" : "f32", c.operations() * 1e-9, ((na + nb) * 2 + no * (out16 ? 2 : 4)) * 1e-6, sets);
  double library = 0;
  auto row = [&](const char *name, double ms, double operations) {
    printf("  %-26s %9.4f ms %8.1f TFLOP/s", name, ms, operations / ms * 1e-9);
    if (library > 0) printf("  %5.1f %% of cuBLASLt's best", 100 * library / ms);
    printf("\n");
  };
  const double guess = std::max(0.004, c.operations() / 500e9);
  if (lt.handle) {
    const ProductsLt::Plan plan = lt.plan(c, 14, out16 ? 14 : 0, 68, 5);
    double best = 1e30;
    for (size_t i = 0; i < plan.found.size(); i++) {
      if (lt.run(plan, i, a[0], b[0], out[0]) != 0) continue;
      const double ms = median_ms([&](int set) { lt.run(plan, i, a[set], b[set], out[set]); }, sets, guess);
      char name[40];
      snprintf(name, sizeof name, "cuBLASLt, choice %d", (int)i);
      row(name, ms, c.operations());
      best = std::min(best, ms);
    }
    library = best;
  }
  auto own = [&](const char *name, const std::function<void(int)> &run, double guess_ms) { row(name, median_ms(run, sets, guess_ms), c.operations()); };
  const long long tiles = (c.m + 127ll) / 128 * ((c.n + 255) / 256) * c.batch;
  std::vector<int> splits = {1};
  if (tiles * 2 < multiprocessors && (size_t)no * 4 * 2 * (multiprocessors / tiles) < PART_BYTES) splits.push_back((int)(multiprocessors / tiles)), splits.push_back((int)(2 * multiprocessors / tiles));
  for (int split : splits) {
    char name[60];
    if (hopper_takes(c))
      for (int bn : {256, 128}) {
        snprintf(name, sizeof name, "hopper %d, %d split(s)", bn, split);
        own(name, [&](int set) { hopper(c, a[set], b[set], out[set], nullptr, out16, bn, split); }, guess);
      }
    snprintf(name, sizeof name, "mma bf16, %d split(s)", split);
    own(name, [&](int set) { mma(c, a[set], b[set], out[set], nullptr, out16, split); }, guess * 2);
  }
  for (int i = 0; i < sets; i++) cudaFree(a[i]), cudaFree(b[i]), cudaFree(out[i]);

  if (!with_float32) return;
  float *x = device<float>(na), *y = device<float>(nb), *z = device<float>(no);
  fill<bf16><<<1024, 256>>>(x, nullptr, na, 1), fill<bf16><<<1024, 256>>>(y, nullptr, nb, 2);
  library = 0;
  for (int compute : {77, 68}) {
    printf("  float32 operands, %s\n", compute == 77 ? "tf32" : "true float32");
    library = 0;
    if (lt.handle) {
      const ProductsLt::Plan plan = lt.plan(c, 0, 0, compute, 1);
      if (!plan.found.empty()) {
        const double ms = median_ms([&](int) { lt.run(plan, 0, x, y, z); }, 1, guess * (compute == 77 ? 2 : 12));
        row("cuBLASLt", ms, c.operations());
        library = ms;
      }
    }
    if (compute == 77)
      own("mma tf32", [&](int) { mma(c, x, y, z, nullptr, false, 1); }, guess * 4);
    else
      own("simt 128", [&](int) { simt(c, x, y, z, nullptr, 128, 1); }, guess * 20);
  }
  cudaFree(x), cudaFree(y), cudaFree(z);
}

static void time_all() {
  ProductsLt lt;
  if (!lt.open()) printf("cuBLASLt was not found: our own products only\n");
  time_case(lt, {8192, 8192, 8192}, true, false);
  time_case(lt, {8192, 8192, 8192, false, true}, true, false);
  time_case(lt, {12288, 1024, 256}, true, true);
  time_case(lt, {12288, 256, 1024, false, true}, true, false);  // the gradient of its left operand
  time_case(lt, {256, 1024, 12288, true, false}, true, false);  // and of its right one
  time_case(lt, {4096, 4096, 4096}, true, true);
  time_case(lt, {256, 256, 64, false, true, 384}, true, false);  // scores of attention, 48 x 8 heads
}

int main(int count, char **arguments) {
  const std::string what = count > 1 ? arguments[1] : "";
  cudaDeviceProp properties;
  CHECK(cudaGetDeviceProperties(&properties, 0));
  multiprocessors = properties.multiProcessorCount;
  printf("%s, %d multiprocessors\n", properties.name, multiprocessors);
  CHECK(cudaMalloc((void **)&parts, PART_BYTES));
  if (what != "time") check_all();
  if (what != "check") time_all();
  if (what != "time") printf("\n%d of %d checks failed\n", failures, checks);
  return failures > 0;
}
