// Checks the expert op's path for few rows on a Hopper GPU against a plain kernel that sums in float64, then times it in
// CUDA graphs beside the same layer through cuBLASLt. Needs no more than nvcc and the driver:
//
//   nvcc -O3 -std=c++17 -gencode arch=compute_90a,code=sm_90a -o /tmp/experts-few tools/cuda-check/experts-few.cu -ldl
//   /tmp/experts-few         both; /tmp/experts-few check or /tmp/experts-few time for one
//
// A graph holds a chain of layers, each with weights, rows and mask of its own, together several times the L2 cache; a
// time is that of one layer. The last lines are the cases that have a bar, with the best of the variants; the exit code
// is 1 if a check failed, and 3 if only bars were missed. D2DMOE_LIBCUBLASLT names cuBLASLt's file where the dynamic
// linker does not find it.
#include "../../kernels/cuda/experts-few.cu"
#include "experts-layer.cuh"

// Other block sizes, to compare.
#define EXPERTS_FEW_256(name, STORAGE)                                                                                                  \
  KERNEL __launch_bounds__(256, 2) experts_few_plain_256_##name(const experts_few_args a) { experts_few<STORAGE, false, 256>(a); } \
  KERNEL __launch_bounds__(256, 2) experts_few_gated_256_##name(const experts_few_args a) { experts_few<STORAGE, true, 256>(a); }
EXPERTS_FEW_256(f16, HALF)
EXPERTS_FEW_256(bf16, BFLOAT16)

// ---- The op ----------------------------------------------------------------------------------------------------------

// How a launch is cut up.
struct Variant {
  const char *name;
  int threads, per_sm;  // blocks on a multiprocessor
  bool flagged, fused;
  int groups, splits;  // 0: no exchange; groups -1: chosen by shape
  bool split_router = false;
};

struct Few {
  Shape shape;
  int storage, rows, x_type, out_type;
  Variant variant;
  int blocks, capacity, shared;
  void *hidden;
  float *partials, *forecast;
  unsigned long long *counter;

  Few(const Shape &s, int storage, int rows, int x_type, int out_type, Variant v) : shape(s), storage(storage), rows(rows), x_type(x_type), out_type(out_type), variant(v) {
    blocks = multiprocessors * v.per_sm;
    const int q = storage == TF32 || storage == FLOAT32 ? 4 : 8, unit = 8 * q, units = (s.d_out + unit - 1) / unit, bytes = q == 4 ? 4 : 2;
    if (variant.groups > 0) {
      variant.groups = std::min(variant.groups, units);
      variant.splits = blocks / variant.groups;
    }
    const bool exchange = variant.groups > 0;
    auto up16 = [](int v) { return (v + 15) / 16 * 16; };
    capacity = up16((s.hidden + blocks - 1) / blocks);
    if (exchange) capacity = std::max(capacity, up16((s.hidden + variant.splits - 1) / variant.splits));
    const int el = elements(storage), steps = ((s.d + el - 1) / el + 3) / 4, warps = v.threads / 32;
    auto pitch = [](int bytes) { return bytes / 64 % 2 == 0 ? bytes + 64 : bytes; };
    const int x_pitch = pitch(steps * 4 * el * bytes), h_pitch = (capacity * bytes + 127) / 128 * 128 + (bytes == 2 ? 32 : 64);
    const int words = (s.experts() + 31) / 32;
    const int parts = std::max(std::max(warps * (rows > 8 ? 16 : 8) * unit * 4, warps * 256 * 4), s.router ? rows * s.experts() * 4 : 0);
    const int fixed = warps * (rows > 8 ? 16 : 8) * unit * 4;
    if (parts > fixed) printf("The parts need %d bytes, %d are there.\n", parts, fixed), exit(2);
    const int lists = (exchange ? 3 : 2) * capacity * 4 + (rows * words + 2 * words + 1 + capacity + 2) * 4;
    const int r_pitch = pitch((s.router * bytes + 63) / 64 * 64);
    shared = fixed + rows * x_pitch + std::max(rows * h_pitch + lists, rows * r_pitch);
    const int padded = units * unit, slots = exchange ? variant.splits : blocks;
    partials = device<float>((size_t)slots * rows * padded);
    hidden = device<char>((size_t)rows * up16(s.hidden) * bytes);
    forecast = device<float>((size_t)rows * std::max(1, s.router));
    counter = device<unsigned long long>(1);
    CHECK(cudaMemset(counter, 0, 8));
    CHECK(cudaFuncSetAttribute(kernel(), cudaFuncAttributeMaxDynamicSharedMemorySize, shared));
    int fit = 0;
    CHECK(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&fit, kernel(), v.threads, shared));
    if (fit < v.per_sm) printf("%s: only %d blocks of %d threads and %d bytes fit a multiprocessor\n", v.name, fit, v.threads, shared), exit(2);
  }
  ~Few() { cudaFree(partials), cudaFree(hidden), cudaFree(forecast), cudaFree(counter); }
  Few(const Few &) = delete;

  const void *kernel() const {
    if (variant.threads == 256) {
      if (storage == HALF) return (const void *)(shape.gated ? experts_few_gated_256_f16 : experts_few_plain_256_f16);
      return (const void *)(shape.gated ? experts_few_gated_256_bf16 : experts_few_plain_256_bf16);
    }
    typedef void (*Kernel)(experts_few_args);
    static const Kernel kernels[5][2] = {{experts_few_plain_f16, experts_few_gated_f16},   {experts_few_plain_bf16, experts_few_gated_bf16},
                                         {experts_few_plain_tf32, experts_few_gated_tf32}, {experts_few_plain_f32, experts_few_gated_f32},
                                         {experts_few_plain_int8, experts_few_gated_int8}};
    return (const void *)kernels[storage][shape.gated];
  }
  void run(const Weights &w, const void *x, const unsigned char *selection, float share, void *out, cudaStream_t stream) const {
    experts_few_args a = {};
    a.x = x, a.selection = selection, a.up = w.up, a.gate = w.gate, a.down = w.down;
    a.up_bias = w.up_bias, a.gate_bias = w.gate_bias, a.down_bias = w.down_bias, a.scales = w.scales;
    if (shape.router && selection == nullptr) a.router_hidden = w.router_hidden, a.router_output = w.router_output;
    a.out = out, a.partials = partials, a.hidden = hidden, a.forecast = forecast, a.counter = counter;
    a.rows = rows, a.d = shape.d, a.d_out = shape.d_out, a.experts = shape.experts(), a.expert_size = shape.size, a.activation = shape.activation;
    a.x_type = x_type, a.out_type = out_type, a.router_width = shape.router, a.rule = 1, a.value = std::max(1.0f, std::round(share * shape.experts()));
    a.exchange = variant.groups > 0, a.groups = variant.groups, a.splits = variant.splits, a.capacity = capacity;
    const int flag = variant.flagged ? FLAGGED : 0, route = a.router_hidden ? ROUTE : 0;
    std::vector<int> launches;
    if (variant.fused && !(variant.split_router && route)) launches = {route | HIDDEN | DOWN | SUM | flag};
    else if (variant.fused) launches = {route, HIDDEN | DOWN | SUM | flag};
    else {
      if (route) launches.push_back(route);
      if (a.exchange) launches.push_back(HIDDEN), launches.push_back(DOWN);
      else launches.push_back(HIDDEN | DOWN);
      launches.push_back(SUM);
    }
    for (int stages : launches) {
      a.stages = stages;
      void *args[] = {&a};
      CHECK(cudaLaunchKernel(kernel(), dim3(blocks), dim3(variant.threads), args, shared, stream));
    }
  }
};

// ---- Checks ------------------------------------------------------------------------------------------------------------

#include "experts-few-check.cuh"

// name, threads, blocks a multiprocessor, flagged, fused, column groups
static const Variant DIRECT = {"direct", 512, 1, false, true, 0, 0}, FLAGGED_ = {"direct flagged", 512, 1, true, true, 0, 0}, UNFUSED = {"direct, 2 launches", 512, 1, false, false, 0, 0};
static const Variant SPLIT_ROUTER = {"flagged, router apart", 512, 1, true, true, 0, 0, true}, SPLIT_ROUTER_BARRIER = {"direct, router apart", 512, 1, false, true, 0, 0, true};
static const Variant EXCHANGE_4 = {"exchange 4", 512, 1, false, true, 4, 0}, EXCHANGE_8 = {"exchange 8", 512, 1, false, true, 8, 0}, EXCHANGE_12 = {"exchange 12", 512, 1, false, true, 12, 0}, EXCHANGE_2 = {"exchange 2", 512, 1, false, true, 2, 0};
static const Variant EXCHANGE_UNFUSED = {"exchange 8, 3 launches", 512, 1, false, false, 8, 0};
static const Variant SMALL = {"flagged 256", 256, 1, true, true, 0, 0}, SMALL_2 = {"flagged 256 x 2", 256, 2, true, true, 0, 0}, SMALL_BARRIER_2 = {"direct 256 x 2", 256, 2, false, true, 0, 0};
static const Variant SMALL_EXCHANGE_2 = {"exchange 8, 256 x 2", 256, 2, false, true, 8, 0};

static void check_all() {
  const Variant all[] = {DIRECT, FLAGGED_, UNFUSED, EXCHANGE_4, EXCHANGE_UNFUSED};
  for (int storage = 0; storage < 5; storage++) {
    const int x16 = storage == BFLOAT16 ? 1 : 2;
    for (const Variant &v : all) {
      check_one({768, 3072, 128, 768, false}, storage, 1, 0.2, v, true, 0, 0);
      check_one({768, 3072, 4, 768, false, 0}, storage, 16, 0.2, v, true, 0, 0);
      check_one({256, 1024, 32, 256, true, 3}, storage, 5, 0.4, v, true, 0, 0);
      check_one({100, 132, 4, 77, true, 2}, storage, 9, 0.5, v, false, 0, 0);
      check_one({33, 64, 16, 40, false, 1}, storage, 16, 0.9, v, true, 0, 0);
      if (storage < TF32) check_one({768, 3072, 128, 768, false}, storage, 3, 0.4, v, true, x16, x16);
      check_one({512, 4096, 64, 512, true, 1, 128}, storage, 4, 0.25, v, true, 0, 0);
      check_one({512, 4096, 64, 512, true, 1, 64}, storage, 16, 0.25, v, true, 0, 0);
    }
  }
  for (const Variant &v : {SMALL, SMALL_2, SMALL_BARRIER_2, SMALL_EXCHANGE_2, EXCHANGE_2, EXCHANGE_12, SPLIT_ROUTER})
    for (int storage : {HALF, BFLOAT16}) {
      check_one({768, 3072, 128, 768, false}, storage, 1, 0.4, v, true, 0, 0);
      check_one({768, 3072, 4, 768, false, 0}, storage, 16, 0.2, v, true, 0, 0);
      check_one({512, 4096, 64, 512, true, 1, 128}, storage, 1, 0.25, v, true, 0, 0);
    }
  check_one({2048, 16384, 128, 2048, true, 2, 128}, HALF, 1, 0.2, DIRECT, true, 0, 0);
  check_one({2048, 16384, 128, 2048, true, 2, 128}, BFLOAT16, 16, 0.2, EXCHANGE_8, true, 0, 0);
  check_one({2048, 16384, 128, 2048, true, 2, 128}, INT8, 1, 0.2, FLAGGED_, true, 0, 0);
  check_one({768, 3072, 128, 768, false}, HALF, 1, 1, DIRECT, true, 0, 0);
  printf("%d of %d checks failed\n", failures, checks);
}

// ---- Times -------------------------------------------------------------------------------------------------------------

static std::vector<std::string> summary;

// The op over all variants: rows per launch at most 16.
static void time_op(const Sets &sets, int rows, double density, bool router, double dense, double bar, const std::vector<Variant> &variants) {
  const Shape &s = sets.shape;
  const int type = sets.storage == BFLOAT16 ? 1 : 2, n = s.experts();
  Rows io(sets.layers, rows, s.d, s.d_out, type);
  std::mt19937 random(7);
  std::vector<unsigned char *> masks;
  double bytes = 0;
  for (int i = 0; i < sets.layers; i++) {
    const std::vector<unsigned char> mask = random_mask(rows, n, density, random);
    masks.push_back(device<unsigned char>(mask.size()));
    CHECK(cudaMemcpy(masks.back(), mask.data(), mask.size(), cudaMemcpyHostToDevice));
    int any = 0;
    for (int e = 0; e < n; e++) {
      bool one = false;
      for (int r = 0; r < rows; r++) one |= mask[(size_t)r * n + e];
      any += one;
    }
    bytes += (double)sets.weights[0].bytes * any / n / sets.layers;
  }
  double best = 1e30;
  const char *winner = "";
  for (const Variant &v : variants) {
    if (v.threads == 256 && sets.storage > BFLOAT16) continue;
    const int cut = std::min(rows, 16), turns = (rows + 15) / 16;
    Few few(s, sets.storage, cut, type, type, v);
    const double us = graph_us(sets.layers, [&](int i, cudaStream_t stream) {
      for (int t = 0; t < turns; t++)
        few.run(sets.of(i), (char *)io.x[i] + (size_t)t * 16 * s.d * 2, router ? nullptr : masks[i] + (size_t)t * 16 * n, density, (char *)io.out[i] + (size_t)t * 16 * s.d_out * 2, stream);
      return cudaGetLastError() == cudaSuccess;
    });
    printf("    %-26s %7.2f us  %.3f x dense  %.2f TB/s\n", v.name, us, us / dense, bytes / us * 1e-6);
    if (us < best) best = us, winner = v.name;
  }
  char line[300];
  snprintf(line, sizeof line, "%-5s d %d hidden %d e %-4d%s N %-3d %3.0f %%%s: %7.2f us (%s), dense %.2f, ratio %.3f%s", NAMES[sets.storage], s.d, s.hidden, s.size, s.gated ? " gated" : "", rows, density * 100,
           router ? " with router" : "", best, winner, dense, best / dense, "");
  std::string text = line;
  if (bar > 0) {
    snprintf(line, sizeof line, ", bar %.2f %s", bar, best <= bar * dense ? "holds" : "MISSED");
    text += line;
    missed += best > bar * dense;
  }
  printf("  %s\n", text.c_str());
  summary.push_back(text);
  for (unsigned char *m : masks) CHECK(cudaFree(m));
}

__global__ void nothing() {}

static void time_all(const CublasLt &lt) {
  printf("An empty kernel in a chain: %.2f us\n", graph_us(64, [](int, cudaStream_t stream) { return nothing<<<132, 512, 0, stream>>>(), true; }));
  const std::vector<Variant> one = {FLAGGED_, DIRECT, UNFUSED, SMALL, SMALL_2, EXCHANGE_12};
  const std::vector<Variant> several = {DIRECT, FLAGGED_, UNFUSED, EXCHANGE_2, EXCHANGE_4, EXCHANGE_8, EXCHANGE_12, SMALL_EXCHANGE_2, EXCHANGE_UNFUSED};
  for (int storage : {HALF, BFLOAT16}) {
    printf("%s, d 768, hidden 3072\n", NAMES[storage]);
    Sets sets({768, 3072, 128, 768, false}, storage);
    const double dense1 = dense_us(lt, sets, 1), dense16 = dense_us(lt, sets, 16);
    time_op(sets, 1, 0.4, false, dense1, 0.6, one);
    time_op(sets, 1, 0.2, false, dense1, 0.45, one);
    if (storage == HALF) {
      time_op(sets, 1, 1.0, false, dense1, 0, one);
      time_op(sets, 4, 0.2, false, dense16, 0, several);
      time_op(sets, 16, 0.2, false, dense16, 0, several);
      time_op(sets, 32, 0.2, false, dense16, 0, {DIRECT, EXCHANGE_8});
      time_op(sets, 64, 0.2, false, dense16, 0, {DIRECT, EXCHANGE_8});
    }
    sets.shape.size = 4;
    time_op(sets, 1, 0.2, false, dense1, 0.5, one);
    time_op(sets, 16, 0.2, false, dense16, 0.8, several);
  }
  for (int storage : {HALF, BFLOAT16}) {
    printf("%s, gated, d 2048, hidden 16384\n", NAMES[storage]);
    Sets sets({2048, 16384, 128, 2048, true, 2, 128}, storage);
    const double dense1 = std::min(dense_us(lt, sets, 1), dense_joined_us(lt, sets, 1)), dense16 = std::min(dense_us(lt, sets, 16), dense_joined_us(lt, sets, 16));
    time_op(sets, 1, 0.2, true, dense1, 0.29, {FLAGGED_, DIRECT, UNFUSED, SPLIT_ROUTER, SPLIT_ROUTER_BARRIER, SMALL_2, SMALL_BARRIER_2});
    time_op(sets, 1, 0.2, false, dense1, 0, {FLAGGED_, DIRECT, SMALL_2, EXCHANGE_8});
    time_op(sets, 16, 0.2, true, dense16, 1.0, {DIRECT, FLAGGED_, EXCHANGE_2, EXCHANGE_4, EXCHANGE_8, EXCHANGE_12, SMALL_EXCHANGE_2});
    if (storage == HALF) time_op(sets, 16, 0.2, false, dense16, 0, {DIRECT, EXCHANGE_4, EXCHANGE_8});
    if (storage == HALF)
      for (int small : {INT8}) {
        Sets compact({2048, 16384, 128, 2048, true, 2, 128}, small);
        time_op(compact, 1, 0.2, true, dense1, 0, {FLAGGED_, DIRECT});
        time_op(compact, 1, 1.0, false, dense1, 0, {FLAGGED_, DIRECT});
      }
  }
  printf("\n");
  for (const std::string &line : summary) printf("%s\n", line.c_str());
  printf("%d bars missed\n", missed);
}

int main(int count, char **args) {
  const std::string what = count > 1 ? args[1] : "";
  cudaDeviceProp properties;
  CHECK(cudaGetDeviceProperties(&properties, 0));
  multiprocessors = properties.multiProcessorCount;
  printf("%s, %d multiprocessors\n", properties.name, multiprocessors);
  setvbuf(stdout, nullptr, _IOLBF, 0);
  alarm(240);  // a barrier that never opens ends here
  if (what != "time") check_all();
  if (what != "check") {
    CublasLt lt;
    if (!lt.open()) {
      printf("cuBLASLt is not there: no dense layer to compare with.\n");
      return 2;
    }
    time_all(lt);
  }
  return failures ? 1 : missed ? 3 : 0;
}
