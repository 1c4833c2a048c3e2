// Checks the expert op's path for up to 3 rows on a Hopper GPU against a plain kernel that sums in float64, then times it
// in CUDA graphs beside the same layer through cuBLASLt. Needs no more than nvcc and the driver:
//
//   nvcc -O3 -std=c++17 -gencode arch=compute_90a,code=sm_90a -o /tmp/experts-few tools/cuda-check/experts-few-hopper.cu -ldl
//   /tmp/experts-few         both; /tmp/experts-few check or /tmp/experts-few time for one
//
// A graph holds a chain of layers, each with weights, rows and mask of its own, together several times the L2 cache; a
// time is that of one layer. With -DFEW_STAMPS cycles from the kernel's start to its stages are printed too. The last
// lines are the cases that have a bar, with the best of the variants; the exit code is 1 if a check failed, and 3 if only
// bars were missed. D2DMOE_LIBCUBLASLT names cuBLASLt's file where the dynamic linker does not find it.
#include "../../kernels/cuda/experts-few.sm90a.cu"
#include "experts-layer.cuh"

// ---- The op ----------------------------------------------------------------------------------------------------------

// How a launch is cut up.
struct Variant {
  const char *name;
  int owners;            // at most
  bool dependent, apart;  // programmatic launch; a launch a stage
};

struct Few {
  Shape shape;
  int storage, rows, x_type, out_type;
  Variant variant;
  int blocks, owners, share, shared;
  float *partials, *forecast;
  long long *stamps;

  Few(const Shape &s, int storage, int rows, int x_type, int out_type, Variant v) : shape(s), storage(storage), rows(rows), x_type(x_type), out_type(out_type), variant(v) {
    CHECK(cudaFuncSetAttribute(kernel(), cudaFuncAttributeMaxDynamicSharedMemorySize, 227 * 1024));
    blocks = multiprocessors;
    const int capacity = (s.hidden + blocks - 1) / blocks;
    const int el = elements(storage), pieces = (s.d + el - 1) / el, down_bytes = (s.d_out + el - 1) / el * 16, padded = pitch_of(s.d_out, storage);
    const int up_bytes = (s.gated ? 2 : 1) * pieces * 16, size = storage == TF32 || storage == FLOAT32 ? 4 : 2;
    const int n = s.experts(), router = s.router ? rows * (std::max(256, (s.router * size + 63) / 64 * 64) + (n + 31) / 32 * 32 * 4 + (n + 31) / 32 * 4) : 0;
    const int ranked = s.router && rows == 1 ? (n + 7) / 8 * 16 : 0;
    const int fixed = rows * (pieces * el + 7) / 8 * 8 * size + std::max(rows * padded * 4, router) + ranked + 16 * (4 * 16 + 3 * 8);
    owners = std::min({16, v.owners, capacity, (227 * 1024 - fixed) / (up_bytes + 2 * down_bytes)});
    if (owners < 1) printf("no room\n"), exit(2);
    shared = std::max(owners * (up_bytes + 2 * down_bytes), s.router ? 4 * 512 * 16 : 0) + fixed;
    share = ((rows * padded + 7) / 8 + blocks - 1) / blocks;
    const size_t count = (size_t)blocks * rows * padded;
    partials = device<float>(count);
    forecast = device<float>((size_t)rows * std::max(1, s.router));
    CHECK(cudaMemset(partials, 0, count * 4));
    CHECK(cudaMemset(forecast, 0, (size_t)rows * std::max(1, s.router) * 4));
    stamps = device<long long>(blocks * 16);
  }
  ~Few() { cudaFree(partials), cudaFree(forecast), cudaFree(stamps); }
  Few(const Few &) = delete;

  void fill_config(cudaLaunchConfig_t &config, cudaLaunchAttribute *attribute) const {
    config.gridDim = dim3(blocks), config.blockDim = dim3(512), config.dynamicSmemBytes = shared;
    config.attrs = attribute, config.numAttrs = 0;
    if (variant.dependent) {
      attribute[config.numAttrs].id = cudaLaunchAttributeProgrammaticStreamSerialization;
      attribute[config.numAttrs].val.programmaticStreamSerializationAllowed = 1;
      config.numAttrs++;
    }
  }

  const void *kernel() const {
    typedef void (*Kernel)(experts_few_args);
#define KERNELS(name) {{experts_one_plain_##name, experts_one_gated_##name}, {experts_three_plain_##name, experts_three_gated_##name}}
    static const Kernel kernels[5][2][2] = {KERNELS(f16), KERNELS(bf16), KERNELS(tf32), KERNELS(f32), KERNELS(int8)};
#undef KERNELS
    return (const void *)kernels[storage][rows > 1][shape.gated];
  }
  void run(const Weights &w, const void *x, const unsigned char *selection, float density, void *out, cudaStream_t stream) const {
    experts_few_args a = {};
    a.x = x, a.selection = selection, a.up = w.up, a.gate = w.gate, a.down = w.down;
    a.up_bias = w.up_bias, a.gate_bias = w.gate_bias, a.down_bias = w.down_bias, a.scales = w.scales;
    if (shape.router && selection == nullptr) a.router_hidden = w.router_hidden, a.router_output = w.router_output;
    a.out = out, a.partials = partials, a.forecast = forecast;
    a.rows = rows, a.d = shape.d, a.d_out = shape.d_out, a.experts = shape.experts(), a.expert_size = shape.size, a.activation = shape.activation;
    a.x_type = x_type, a.out_type = out_type, a.router_width = shape.router, a.rule = 1, a.value = std::max(1.0f, std::round(density * shape.experts()));
    a.owners = owners, a.share = share, a.per_size = 1.0f / shape.size, a.per_blocks = 1.0f / blocks;
#ifdef FEW_STAMPS
    a.stamps = stamps;
#endif
    std::vector<int> launches = {ROUTE | EXPERTS | SUM};
    if (variant.apart) launches = {ROUTE, EXPERTS, SUM};
    for (int stages : launches) {
      if (stages == ROUTE && !a.router_hidden) continue;
      a.stages = stages;
      cudaLaunchConfig_t config = {};
      cudaLaunchAttribute attribute[2];
      fill_config(config, attribute);
      config.stream = stream;
      void *args[] = {&a};
      CHECK(cudaLaunchKernelExC(&config, kernel(), args));
    }
  }
  // Cycles from the start to each stamp: the median and the most over blocks.
  void print_stamps() const {
#ifdef FEW_STAMPS
    std::vector<long long> v(blocks * 16);
    CHECK(cudaMemcpy(v.data(), stamps, v.size() * 8, cudaMemcpyDeviceToHost));
    printf("      stamps (median/most):");
    for (int i : {1, 2, 3, 13, 4, 5, 6, 7, 8, 9, 12}) {
      std::vector<long long> all;
      for (int b = 0; b < blocks; b++)
        if (v[b * 16 + i] != -1) all.push_back(v[b * 16 + i] - v[b * 16]);
      if (all.empty()) continue;
      std::sort(all.begin(), all.end());
      printf(" %d:%lld/%lld", i, all[all.size() / 2], all.back());
    }
    long long first = 1ll << 62, late = 0, last = 0;
    for (int b = 0; b < blocks; b++) first = std::min(first, v[b * 16 + 14]);
    for (int b = 0; b < blocks; b++) late = std::max(late, v[b * 16 + 14] - first), last = std::max(last, v[b * 16 + 15] - first);
    printf(" | ns: last start %lld, last end %lld\n", late, last);
#endif
  }
};

// ---- Checks ------------------------------------------------------------------------------------------------------------

#include "experts-few-check.cuh"

static const Variant PLAIN = {"plain", 16, false, false}, DEPENDENT = {"dependent", 16, true, false}, APART = {"a launch a stage", 16, false, true}, OWNERS_4 = {"4 owners", 4, false, false}, NINE = {"dependent, 9 a turn", 9, true, false};

static void check_all() {
  const Variant all[] = {PLAIN, OWNERS_4, APART, DEPENDENT};
  for (int storage = 0; storage < 5; storage++) {
    const int x16 = storage == BFLOAT16 ? 1 : 2;
    for (const Variant &v : all) {
      check_one({768, 3072, 128, 768, false}, storage, 1, 0.2, v, true, 0, 0);
      check_one({768, 3072, 4, 768, false, 0}, storage, 3, 0.2, v, true, 0, 0);
      check_one({256, 1024, 32, 256, true, 3}, storage, 2, 0.4, v, true, 0, 0);
      check_one({100, 132, 6, 77, true, 2}, storage, 3, 0.5, v, false, 0, 0);
      check_one({33, 64, 16, 40, false, 1}, storage, 1, 0.9, v, true, 0, 0);
      if (storage < TF32) check_one({768, 3072, 128, 768, false}, storage, 3, 0.4, v, true, x16, x16);
      check_one({512, 4096, 64, 512, true, 1, 128}, storage, 2, 0.25, v, true, 0, 0);
      check_one({512, 4096, 64, 512, true, 1, 64}, storage, 1, 0.25, v, true, 0, 0);
    }
    check_one({2048, 16384, 128, 2048, true, 2, 128}, storage, 1, 0.2, PLAIN, true, 0, 0);
    check_one({1024, 4096, 4, 1000, false}, storage, 3, 0.6, PLAIN, true, 0, 0);
    check_one({1024, 6144, 3, 1000, false}, storage, 1, 0.6, PLAIN, true, 0, 0);
  }
  check_one({768, 3072, 128, 768, false}, HALF, 1, 1, PLAIN, true, 0, 0);
  printf("%d of %d checks failed\n", failures, checks);
}

// ---- Times -------------------------------------------------------------------------------------------------------------

static std::vector<std::string> summary;

// The op over all variants.
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
    Few few(s, sets.storage, rows, type, type, v);
    const double us = graph_us(sets.layers, [&](int i, cudaStream_t stream) {
      few.run(sets.of(i), io.x[i], router ? nullptr : masks[i], density, io.out[i], stream);
      return cudaGetLastError() == cudaSuccess;
    });
    printf("    %-26s %7.2f us  %.3f x dense  %.2f TB/s\n", v.name, us, us / dense, bytes / us * 1e-6);
    few.print_stamps();
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
  const std::vector<Variant> both = {PLAIN, DEPENDENT};
  for (int storage : {HALF, BFLOAT16}) {
    printf("%s, d 768, hidden 3072\n", NAMES[storage]);
    Sets sets({768, 3072, 128, 768, false}, storage);
    const double dense1 = dense_us(lt, sets, 1);
    time_op(sets, 1, 0.4, false, dense1, 0.6, both);
    time_op(sets, 1, 0.2, false, dense1, 0.45, both);
    if (storage == HALF) {
      time_op(sets, 1, 1.0, false, dense1, 0, both);
      time_op(sets, 2, 0.2, false, dense1, 0, both);
      time_op(sets, 3, 0.2, false, dense1, 0, both);
    }
    sets.shape.size = 4;
    time_op(sets, 1, 0.2, false, dense1, 0.5, both);
  }
  for (int storage : {HALF, BFLOAT16}) {
    printf("%s, gated, d 2048, hidden 16384\n", NAMES[storage]);
    Sets sets({2048, 16384, 128, 2048, true, 2, 128}, storage);
    const double dense1 = std::min(dense_us(lt, sets, 1), dense_joined_us(lt, sets, 1));
    time_op(sets, 1, 0.2, true, dense1, 0.29, {PLAIN, DEPENDENT, NINE});
    time_op(sets, 1, 0.2, false, dense1, 0, {PLAIN, DEPENDENT, NINE});
    if (storage == HALF)
      for (int small : {INT8}) {
        Sets compact({2048, 16384, 128, 2048, true, 2, 128}, small);
        time_op(compact, 1, 0.2, true, dense1, 0, {PLAIN, DEPENDENT, NINE});
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
