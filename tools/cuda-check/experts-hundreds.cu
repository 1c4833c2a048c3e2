// Checks the expert op for some hundred rows (kernels/cuda/experts-hundreds) on a Hopper GPU against float64, then times
// it in CUDA graphs over 16 layers, whose weights exceed the cache, beside the dense layer through cuBLASLt. Needs no
// more than nvcc and the driver:
//
//   nvcc -O3 -std=c++17 -gencode arch=compute_90a,code=sm_90a -o /tmp/hundreds tools/cuda-check/experts-hundreds.cu -ldl
//   /tmp/hundreds            both; /tmp/hundreds check or /tmp/hundreds time for one
//
// With -DPROBES it prints where the time of a launch and of its blocks goes. The exit code is 1 if a check failed. D2DMOE_LIBCUBLASLT names
// cuBLASLt's file where the dynamic linker does not find it.
#include <cuda_runtime.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

#ifdef PROBES
// When a block of a layer's launch got where.
struct Mark {
  long long clock, ns;
};
constexpr int MARKS = 12, MARKED_BLOCKS = 128, LAYERS = 16;
__device__ Mark marks[LAYERS][MARKED_BLOCKS][MARKS];
__device__ const void *layer_keys[LAYERS];  // selections
__device__ __forceinline__ Mark mark_now() {
  long long ns;
  asm volatile("mov.u64 %0, %globaltimer;" : "=l"(ns));
  return {clock64(), ns};
}
#define PROBE(i) \
  if (threadIdx.x == 0 && blockIdx.x < MARKED_BLOCKS) marks[probed_layer][blockIdx.x][i] = mark_now()
#define PROBE_BEGIN(key)                                                               \
  __shared__ int probed_layer;                                                         \
  if (threadIdx.x == 0) {                                                              \
    const Mark now = mark_now();                                                       \
    probed_layer = 0;                                                                  \
    for (int i = 0; i < LAYERS; i++) probed_layer = layer_keys[i] == key ? i : probed_layer; \
    if (blockIdx.x < MARKED_BLOCKS) marks[probed_layer][blockIdx.x][0] = now;          \
  }                                                                                    \
  __syncthreads()
#else
constexpr int LAYERS = 16;
#endif
#include "../../kernels/cuda/experts-hundreds-masked.sm90a.cu"
#include "../../kernels/cuda/experts-hundreds.sm90a.cu"

#define CHECK(call)                                                                   \
  do {                                                                                \
    cudaError_t error = (call);                                                       \
    if (error != cudaSuccess) {                                                       \
      printf("%s:%d %s: %s\n", __FILE__, __LINE__, #call, cudaGetErrorString(error)); \
      fflush(stdout), _exit(2);                                                       \
    }                                                                                 \
  } while (0)

#include "cublaslt-fused.cuh"
#include "settle.cuh"
#include "tensor-map.cuh"

static int multiprocessors, failures, checks;
static cudaStream_t stream;  // of all that is timed; waits for what the default stream does, and the reverse

// ---- Inputs and the reference --------------------------------------------------------------------------------------

__device__ __forceinline__ unsigned long long mix(unsigned long long h) {
  h ^= h >> 32, h *= 0xd6e8feb86659fd93ull, h ^= h >> 32, h *= 0xd6e8feb86659fd93ull, h ^= h >> 32;
  return h;
}
__device__ __forceinline__ float uniform(size_t i, unsigned seed) {
  return (float)(mix((i + 1) * 0x9e3779b97f4a7c15ull + seed * 0xd1b54a32d192ed03ull) >> 40) / (float)(1 << 23) - 1.0f;
}
template <typename T> __global__ void fill(T *x, size_t n, unsigned seed, float scale) {
  for (size_t i = blockIdx.x * (size_t)blockDim.x + threadIdx.x; i < n; i += (size_t)gridDim.x * blockDim.x) x[i] = from_float<T>(scale * uniform(i, seed));
}
template <typename T> __global__ void widen(const T *from, float *to, size_t n) {
  for (size_t i = blockIdx.x * (size_t)blockDim.x + threadIdx.x; i < n; i += (size_t)gridDim.x * blockDim.x) to[i] = to_float(from[i]);
}
// k of n experts for each row, without replacement.
__global__ void draw_masks(unsigned char *selection, int rows, int n, int k, unsigned seed) {
  for (int row = blockIdx.x * blockDim.x + threadIdx.x; row < rows; row += gridDim.x * blockDim.x) {
    int left = k;
    for (int i = 0; i < n; i++) {
      const unsigned r = (unsigned)(mix(((size_t)row * n + i + 1) * 0x9e3779b97f4a7c15ull + seed * 0xd1b54a32d192ed03ull) >> 33) % (unsigned)(n - i);
      selection[(size_t)row * n + i] = (int)r < left;
      if ((int)r < left) left--;
    }
  }
}

// hidden [rows, experts · size], then out, in float64.
template <typename T>
__global__ void reference_hidden(const T *x, const T *up, const float *up_bias, const unsigned char *selection, double *hidden, int d, int experts, int size, int activation) {
  const int h = experts * size, row = blockIdx.x;
  for (int j = threadIdx.x; j < h; j += blockDim.x) {
    double a = 0;
    if (selection[(size_t)row * experts + j / size]) {
      double z = up_bias[j];
      for (int i = 0; i < d; i++) z += (double)to_float(x[(size_t)row * d + i]) * (double)to_float(up[(size_t)j * d + i]);
      a = z > 0 ? z : 0;
      if (activation == 1) a = 0.5 * z * (1 + erf(z * 0.70710678118654752));
      if (activation == 2) a = 0.5 * z * (1 + tanh(0.79788456080286536 * (z + 0.044715 * z * z * z)));
      if (activation == 3) a = z / (1 + exp(-z));
    }
    hidden[(size_t)row * h + j] = a;
  }
}
template <typename T> __global__ void reference_out(const double *hidden, const T *down, const float *bias, double *out, int h, int d_out) {
  for (int c = threadIdx.x; c < d_out; c += blockDim.x) {
    double sum = bias[c];
    for (int j = 0; j < h; j++) {
      const double a = hidden[(size_t)blockIdx.x * h + j];
      if (a != 0) sum += a * (double)to_float(down[(size_t)j * d_out + c]);
    }
    out[(size_t)blockIdx.x * d_out + c] = sum;
  }
}
template <typename T> static T *device(size_t count) {
  void *p;
  CHECK(cudaMalloc(&p, count * sizeof(T) + 8192));
  return (T *)p;
}

// ---- A layer -------------------------------------------------------------------------------------------------------

struct Shape {
  int rows, d, d_out, experts, size, activation = 0;
  int hidden() const { return experts * size; }
  double dense_operations() const { return 2.0 * rows * hidden() * (d + d_out); }
};
// As packages/backend-cuda/src/experts/many/hundreds.ts has them: added in float32, in 16 bits, in float32 and then rounded;
// kept apart by unit and added up in order; a masked dense layer.
enum Way { ADDED, ADDED16, ROUNDED, APART, MASKED };
static const char *const WAYS[] = {"added", "added in 16", "added, rounded", "apart", "masked"};
static const Way ALL[] = {ADDED, ADDED16, ROUNDED, APART, MASKED};
static bool is16(Way way) { return way == ADDED16 || way == ROUNDED; }

// Launches may begin before those before them are over.
template <typename... P, typename... A> static void launch(void (*kernel)(P...), dim3 grid, dim3 block, int shared, A... arguments) {
  CHECK(cudaFuncSetAttribute((const void *)kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared));
  cudaLaunchConfig_t config = {};
  config.gridDim = grid, config.blockDim = block, config.stream = stream, config.dynamicSmemBytes = shared;
  cudaLaunchAttribute attribute;
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization, attribute.val.programmaticStreamSerializationAllowed = 1;
  config.attrs = &attribute, config.numAttrs = 1;
  CHECK(cudaLaunchKernelEx(&config, kernel, (P)arguments...));
}

template <typename T> struct Layer {
  static constexpr bool BF16 = std::is_same<T, bf16>::value;
  Shape s;
  int per_unit, unit_parts, units, k = 0;
  T *x, *up, *down, *parts, *hidden16, *out16;
  unsigned char *selection;
  float *up_bias, *down_bias, *out;
  T *up_bias16, *down_bias16;
  unsigned *counters;
  std::vector<void *> owned;

  template <typename U> U *own(size_t n) {
    U *p = device<U>(n);
    owned.push_back(p);
    return p;
  }
  Layer(const Shape &s) : s(s) {
    const size_t h = s.hidden(), nx = (size_t)s.rows * s.d, no = (size_t)s.rows * s.d_out;
    per_unit = s.size < 128 ? std::min(32, 128 / s.size) : 1, unit_parts = (s.size + 127) / 128;
    units = (s.experts + per_unit - 1) / per_unit * unit_parts;
    x = own<T>(nx), out = own<float>(no), selection = own<unsigned char>((size_t)s.rows * s.experts);
    up = own<T>(h * s.d), down = own<T>(h * s.d_out), up_bias = own<float>(h), down_bias = own<float>(s.d_out);
    up_bias16 = own<T>(h), down_bias16 = own<T>(s.d_out), hidden16 = own<T>(s.rows * h), out16 = own<T>(no);
    parts = own<T>(units * no), counters = own<unsigned>(2);
    fill<<<256, 256>>>(x, nx, 11, 1.0f);
    fill<<<256, 256>>>(up, h * s.d, 21, 1.7f / std::sqrt((float)s.d)), fill<<<256, 256>>>(down, h * s.d_out, 22, 1.7f / std::sqrt((float)s.size * 8));
    fill<<<8, 256>>>(up_bias, h, 23, 0.5f), fill<<<8, 256>>>(down_bias, s.d_out, 24, 0.5f);
    fill<<<8, 256>>>(up_bias16, h, 23, 0.5f), fill<<<8, 256>>>(down_bias16, s.d_out, 24, 0.5f);
    CHECK(cudaMemset(counters, 0, 8));
    CHECK(cudaDeviceSynchronize());
  }
  ~Layer() {
    for (void *p : owned) cudaFree(p);
  }
  void draw(int k_, unsigned seed) {
    k = k_;
    draw_masks<<<64, 256>>>(selection, s.rows, s.experts, k, seed);
    CHECK(cudaDeviceSynchronize());
  }
  // Sums in 16 bits are rounded each time: at most nine of a row in bf16, twenty in fp16.
  bool takes(Way way) const { return way != ADDED16 || std::min(k * unit_parts, units) <= (BF16 ? 9 : 20); }
  void run_masked() {
    const int shared = EXPERTS_HUNDREDS_MASKED_SHARED, tiles = (s.rows + 255) / 256, tile_rows = ((s.rows + tiles - 1) / tiles + 7) / 8 * 8, wide = (tile_rows + 63) / 64;
    const hopper_map map_x = tensor_map(x, s.d, s.rows, 64, wide * 64), map_up = tensor_map(up, s.d, s.hidden(), 64, 64);
    const hopper_map map_hidden = tensor_map(hidden16, s.hidden(), s.rows, 64, wide * 64), map_down = tensor_map(down, s.d_out, s.hidden(), 64, 64);
    launch(BF16 ? experts_hundreds_masked_up_bf16 : experts_hundreds_masked_up_f16, dim3((s.hidden() + 63) / 64 * 2, tiles), 128 * (wide + 1), shared, map_up, map_x, up_bias,
           selection, hidden16, s.rows, tile_rows, s.d, s.hidden(), s.experts, s.size, s.activation, 0);
    launch(BF16 ? experts_hundreds_masked_down_bf16 : experts_hundreds_masked_down_f16, dim3((s.d_out + 63) / 64 * 8, tiles), 128 * (wide + 1), shared, map_down, map_hidden, down_bias,
           selection, out, s.rows, tile_rows, s.hidden(), s.d_out, s.experts, s.size, s.activation, 1);
  }
  void run(Way way) {
    if (way == MASKED) return run_masked();
    const bool wide = s.d > 768 || s.d_out > 768;
    const auto added = wide ? (BF16 ? experts_hundreds_added_bf16_4 : experts_hundreds_added_f16_4) : (BF16 ? experts_hundreds_added_bf16_3 : experts_hundreds_added_f16_3);
    const auto added16 = wide ? (BF16 ? experts_hundreds_added16_bf16_4 : experts_hundreds_added16_f16_4) : (BF16 ? experts_hundreds_added16_bf16_3 : experts_hundreds_added16_f16_3);
    const auto apart = wide ? (BF16 ? experts_hundreds_apart_bf16_4 : experts_hundreds_apart_f16_4) : (BF16 ? experts_hundreds_apart_bf16_3 : experts_hundreds_apart_f16_3);
    const int shared = wide ? experts_hundreds_shared<4>() : experts_hundreds_shared<3>(), blocks = units * 4;
    const hopper_map map_up = tensor_map(up, s.d, s.hidden(), 64, 64), map_down = tensor_map(down, s.d_out, s.hidden(), 64, 128);
    void *to = way == APART ? (void *)parts : way == ADDED16 ? (void *)out16 : (void *)out;
    launch(way == APART ? apart : way == ADDED16 ? added16 : added, blocks, wide ? 512 : 384, shared, map_up, map_down, x, selection, up_bias, down_bias, nullptr, to, counters, s.rows, s.d,
           s.d_out, s.experts, s.size, per_unit, unit_parts, s.activation, EXPERTS_HUNDREDS_HIDDEN | EXPERTS_HUNDREDS_OUT, std::max(0, (multiprocessors - blocks) / 4), 64);
    if (way == APART)
      launch(BF16 ? experts_hundreds_combine_bf16 : experts_hundreds_combine_f16, s.rows, 128, 0, selection, parts, down_bias, out, s.rows, s.d_out, s.experts, s.size, per_unit, unit_parts, 1);
    if (way == ROUNDED) launch(BF16 ? experts_hundreds_round_bf16 : experts_hundreds_round_f16, (s.rows * s.d_out / 8 + 127) / 128, 128, 0, out, out16, s.rows * s.d_out);
  }
  void settle16(Way way) {
    if (is16(way)) widen<<<64, 256>>>(out16, out, (size_t)s.rows * s.d_out);
  }
  // Relative error; NaN anywhere makes it NaN.
  double error() {
    double *h = device<double>((size_t)s.rows * s.hidden()), *right = device<double>((size_t)s.rows * s.d_out);
    reference_hidden<<<s.rows, 256>>>(x, up, up_bias, selection, h, s.d, s.experts, s.size, s.activation);
    reference_out<<<s.rows, 256>>>(h, down, down_bias, right, s.hidden(), s.d_out);
    std::vector<double> expected((size_t)s.rows * s.d_out);
    std::vector<float> got(expected.size());
    CHECK(cudaMemcpy(expected.data(), right, expected.size() * 8, cudaMemcpyDeviceToHost));
    CHECK(cudaMemcpy(got.data(), out, got.size() * 4, cudaMemcpyDeviceToHost));
    cudaFree(h), cudaFree(right);
    double d = 0, r = 0;
    for (size_t i = 0; i < got.size(); i++) d += (got[i] - expected[i]) * (got[i] - expected[i]), r += expected[i] * expected[i];
    return std::sqrt(d / r);
  }
  void poison() { CHECK(cudaMemset(out, 0xff, (size_t)s.rows * s.d_out * 4 + 4096)); CHECK(cudaMemset(parts, 0xff, (size_t)units * s.rows * s.d_out * sizeof(T))); CHECK(cudaMemset(out16, 0xff, (size_t)s.rows * s.d_out * 2)); CHECK(cudaMemset(hidden16, 0xff, (size_t)s.rows * s.hidden() * sizeof(T))); }
  void judge(Way way) {
    const size_t count = (size_t)s.rows * s.d_out;
    std::vector<float> before(count), after(count);
    bool repeats = true;
    for (int turn = 0; turn < 3; turn++) {
      poison();
      CHECK(cudaDeviceSynchronize());
      run(way);
      settle(stream, WAYS[way]);
      settle16(way);
      CHECK(cudaMemcpy(after.data(), out, count * 4, cudaMemcpyDeviceToHost));
      if (turn > 0) repeats = repeats && memcmp(before.data(), after.data(), count * 4) == 0;
      before = after;
    }
    std::vector<unsigned char> tail(4096);
    CHECK(cudaMemcpy(tail.data(), out + count, 4096, cudaMemcpyDeviceToHost));
    bool outside = false;
    for (unsigned char c : tail) outside |= c != 0xff;
    const double e = error(), bar = BF16 ? 5e-3 : 1e-3;
    const bool good = e <= bar && !outside && (repeats || way < APART);
    checks++;
    if (!good) failures++;
    printf("  %s %-12s N %4d d %4d -> %4d, %3d x %3d, %3d run, %s: relative error %.2e, %s%s\n", good ? "ok    " : "FAILED", WAYS[way], s.rows, s.d, s.d_out, s.experts, s.size, k,
           BF16 ? "bf16" : "fp16", e, repeats ? "repeats" : "differs", outside ? ", wrote past the end" : "");
    fflush(stdout);
  }
};

template <typename T> static void check_shape(const Shape &s, std::initializer_list<int> densities) {
  Layer<T> layer(s);
  for (int k : densities) {
    layer.draw(k, 100 + checks);
    for (Way way : ALL)
      if (layer.takes(way)) layer.judge(way);
  }
}

static void check_all() {
  printf("Checks (relative error against float64; bars 5e-3 bf16, 1e-3 fp16)\n");
  check_shape<__half>({65, 64, 64, 2, 128}, {1, 2});
  check_shape<__half>({197, 768, 768, 24, 128}, {0, 1, 2, 10, 24});
  check_shape<bf16>({197, 768, 768, 24, 128}, {2, 10});
  check_shape<__half>({300, 200, 136, 6, 24, 1}, {3});
  check_shape<bf16>({257, 320, 520, 5, 192, 2}, {2});
  check_shape<__half>({197, 768, 768, 96, 32}, {10, 38});
  check_shape<__half>({197, 768, 768, 768, 4}, {77});
  check_shape<bf16>({512, 128, 256, 130, 4, 3}, {30});
  check_shape<__half>({333, 328, 1000, 20, 6}, {5});
  check_shape<bf16>({1024, 1024, 1024, 12, 128}, {3});
  check_shape<__half>({512, 768, 768, 64, 128}, {6});
  printf("%d of %d checks failed\n\n", failures, checks);
}

// ---- Times ---------------------------------------------------------------------------------------------------------

static std::vector<std::string> summary;

// Microseconds of one call in a graph of one call on each of several layers: their weights are more than the cache holds.
static double graph_us(int calls, const std::function<void(int)> &run) {
  cudaGraph_t graph;
  cudaGraphExec_t executable;
  run(0);
  CHECK(cudaStreamSynchronize(stream));
  CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
  for (int i = 0; i < calls; i++) run(i);
  CHECK(cudaStreamEndCapture(stream, &graph));
  CHECK(cudaGraphInstantiate(&executable, graph, 0));
  cudaEvent_t start, end;
  CHECK(cudaEventCreate(&start));
  CHECK(cudaEventCreate(&end));
  std::vector<double> times;
  for (int turn = 0; turn < 24; turn++) {
    CHECK(cudaEventRecord(start, stream));
    for (int i = 0; i < 4; i++) CHECK(cudaGraphLaunch(executable, stream));
    CHECK(cudaEventRecord(end, stream));
    settle(stream, "a graph");
    float ms;
    CHECK(cudaEventElapsedTime(&ms, start, end));
    if (turn >= 4) times.push_back(ms * 1000 / 4 / calls);
  }
  std::sort(times.begin(), times.end());
  CHECK(cudaGraphExecDestroy(executable));
  CHECK(cudaGraphDestroy(graph));
  CHECK(cudaEventDestroy(start));
  CHECK(cudaEventDestroy(end));
  return times[times.size() / 2];
}

struct Bar {
  int k;
  double most;
};

#ifdef PROBES
static void print_marks(int blocks) {
  static Mark at[LAYERS][MARKED_BLOCKS][MARKS];
  blocks = std::min(blocks, MARKED_BLOCKS);
  CHECK(cudaMemcpyFromSymbol(at, marks, sizeof at));
  auto print = [](const char *what, int i, std::vector<long long> v) {
    std::sort(v.begin(), v.end());
    if (!v.empty()) printf("  %s%d %lld/%lld/%lld", what, i, v[0], v[v.size() / 2], v.back());
  };
  for (int layer : {7, 8}) {
    long long before = 0;
    for (int b = 0; b < blocks; b++) before = std::max(before, at[layer - 1][b][MARKS - 1].ns);
    printf("    a launch, ns from the end of the one before (least/median/most):");
    for (int i : {0, 1, MARKS - 1}) {
      std::vector<long long> v;
      for (int b = 0; b < blocks; b++) v.push_back(at[layer][b][i].ns - before);
      print("mark ", i, v);
    }
    printf("\n      clocks from its wait (mark 1):");
    for (int i = 2; i < MARKS; i++) {
      std::vector<long long> v;
      for (int b = 0; b < blocks; b++)
        if (at[layer][b][i].clock >= at[layer][b][1].clock) v.push_back(at[layer][b][i].clock - at[layer][b][1].clock);
      print("", i, v);
    }
    printf("\n");
  }
}
#endif

template <typename T> static void time_shape(const FusedLt &lt, const Shape &s, const std::vector<Bar> &bars) {
  constexpr bool BF16 = std::is_same<T, bf16>::value;
  std::vector<Layer<T> *> layers;
  // Rows of x were just written in a network: one set of them, which stays in the cache.
  for (int i = 0; i < LAYERS; i++) layers.push_back(new Layer<T>(s)), layers[i]->x = layers[0]->x;
  printf("d %d -> %d, %d experts of %d, N %d, %s, in a graph over %d layers\n", s.d, s.d_out, s.experts, s.size, s.rows, BF16 ? "bf16" : "fp16", LAYERS);
  double dense = 0;
  if (lt.handle) {
    std::vector<FusedLt::Plan> first, second;
    for (Layer<T> *l : layers) {
      first.push_back(lt.plan(s.rows, s.hidden(), s.d, true, BF16 ? 14 : 2, true, l->up_bias16));
      second.push_back(lt.plan(s.rows, s.d_out, s.hidden(), false, BF16 ? 14 : 2, false, l->down_bias16));
    }
    int best[2] = {0, 0};
    double least[2] = {1e30, 1e30};
    for (int product = 0; product < 2; product++) {
      for (int i = 0; i < (int)(product ? second : first)[0].found.size(); i++) {
        auto go = [&](int l) {
          return product ? lt.run(second[l], i, layers[l]->hidden16, layers[l]->down, layers[l]->out16, stream) : lt.run(first[l], i, layers[l]->x, layers[l]->up, layers[l]->hidden16, stream);
        };
        if (go(0) != 0) continue;
        const double us = graph_us(LAYERS, go);
        if (us < least[product]) least[product] = us, best[product] = i;
      }
    }
    dense = graph_us(LAYERS, [&](int l) {
      lt.run(first[l], best[0], layers[l]->x, layers[l]->up, layers[l]->hidden16, stream);
      lt.run(second[l], best[1], layers[l]->hidden16, layers[l]->down, layers[l]->out16, stream);
    });
    printf("  cuBLASLt: %.2f and %.2f us, dense %.2f us\n", least[0], least[1], dense);
  }
  for (const Bar &bar : bars) {
    for (int i = 0; i < LAYERS; i++) layers[i]->draw(bar.k, 2000 + i);
    double best = 1e30;
    std::string winner;
#ifdef PROBES
    const void *keys[LAYERS];
    for (int i = 0; i < LAYERS; i++) keys[i] = layers[i]->selection;
    CHECK(cudaMemcpyToSymbol(layer_keys, keys, sizeof keys));
#endif
    for (Way way : ALL) {
      if (!layers[0]->takes(way)) continue;
      Layer<T> &last = *layers[LAYERS - 1];
      last.poison();
      CHECK(cudaDeviceSynchronize());
      const double us = graph_us(LAYERS, [&](int l) { layers[l]->run(way); });
      last.settle16(way);
      const double e = last.error(), most = BF16 ? 5e-3 : 1e-3;
      checks++;
      if (!(e <= most)) failures++;
      printf("  %3.0f %%  %-14s %7.2f us  %5.3f x dense; error %.1e%s\n", 100.0 * bar.k / s.experts, WAYS[way], us, dense > 0 ? us / dense : 0, e, e <= most ? "" : " FAILED");
#ifdef PROBES
      if (way < APART) print_marks(layers[0]->units * 4);
#endif
      fflush(stdout);
      if (us < best) best = us, winner = WAYS[way];
    }
    char line[300];
    snprintf(line, sizeof line, "%s %3d x %3d, N %4d, %3.0f %%: %6.2f us, %.3f x dense (%.2f), bar %.2f %s  [%s]", BF16 ? "bf16" : "fp16", s.experts, s.size, s.rows, 100.0 * bar.k / s.experts,
             best, best / dense, dense, bar.most, best <= bar.most * dense ? "holds" : "MISSED", winner.c_str());
    summary.push_back(line);
  }
  for (Layer<T> *l : layers) delete l;
}

static void time_all() {
  FusedLt lt;
  if (!lt.open()) printf("cuBLASLt was not found: no ratios\n");
  time_shape<__half>(lt, {197, 768, 768, 24, 128}, {{10, 0.8}, {2, 0.5}, {5, 0.8}, {24, 1.0}});
  time_shape<bf16>(lt, {197, 768, 768, 24, 128}, {{10, 0.8}, {2, 0.5}});
  time_shape<__half>(lt, {197, 768, 768, 96, 32}, {{38, 1.0}, {10, 1.0}});
  time_shape<__half>(lt, {197, 768, 768, 768, 4}, {{77, 1.0}});
  for (int rows : {32, 65, 128, 394, 788, 1024}) time_shape<__half>(lt, {rows, 768, 768, 24, 128}, {{10, 1.0}, {2, 1.0}});
}

int main(int count, char **arguments) {
  const std::string what = count > 1 ? arguments[1] : "";
  cudaDeviceProp properties;
  CHECK(cudaGetDeviceProperties(&properties, 0));
  multiprocessors = properties.multiProcessorCount;
  printf("%s, %d multiprocessors\n", properties.name, multiprocessors);
  CHECK(cudaStreamCreate(&stream));
  if (what != "time") check_all();
  if (what != "check") time_all();
  printf("\n");
  for (const std::string &line : summary) printf("%s\n", line.c_str());
  printf("%d of %d checks failed\n", failures, checks);
  return failures > 0;
}
