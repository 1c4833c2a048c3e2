// Checks the expert op's paths for some dozen rows, and for up to 16 of many weights, on a Hopper GPU against a plain kernel that sums in float64, then times
// it in CUDA graphs beside the same layer through cuBLASLt. Needs no more than nvcc and the driver:
//
//   nvcc -O3 -std=c++17 -gencode arch=compute_90a,code=sm_90a -o /tmp/experts-dozens tools/cuda-check/experts-dozens.cu -ldl
//   /tmp/experts-dozens         both; /tmp/experts-dozens check or /tmp/experts-dozens time for one;
//                               /tmp/experts-dozens stream checks the second path alone
//
// A graph holds a chain of layers, each with weights, rows and mask of its own, together several times the L2 cache; a
// time is that of one layer. The last lines are the cases that have a bar, with the best of the variants; the exit code
// is 1 if a check failed, and 3 if only bars were missed. D2DMOE_LIBCUBLASLT names cuBLASLt's file where the dynamic
// linker does not find it.
#include "../../kernels/cuda/experts-dozens.sm90a.cu"
#include "../../kernels/cuda/experts-stream.sm90a.cu"
#include "experts-layer.cuh"

// ---- The op ----------------------------------------------------------------------------------------------------------

// How one of the two launches is cut up; 0 is the plan's choice.
struct Cut {
  int across = 0, steps = 0, slots = 0, ranks = 0, splits = 0;
};
struct Variant {
  const char *name;
  Cut up = {}, down = {};
  int skip = -1;            // -1: the plan's choice
  bool programmatic = true;  // `down` behind `up`
  bool early = false;        // `up` behind what comes before it, too
  int carveout = 100;        // of a multiprocessor's memory as shared memory, in percent
  int stream = 0;            // blocks of a cluster: in one launch and one that adds up
  int room = 0;              // clusters; 0: as the plan has it
};

static int up16(int v) { return (v + 15) / 16 * 16; }
static int ceil_div(int a, int b) { return (a + b - 1) / b; }

// In boxes of 64 columns by 8 rows by 8 times 64 columns on.
static hopper_map wide_map(const void *matrix, int width, int rows) {
  typedef CUresult (*Encode)(CUtensorMap *, CUtensorMapDataType, cuuint32_t, void *, const cuuint64_t *, const cuuint64_t *, const cuuint32_t *, const cuuint32_t *, CUtensorMapInterleave, CUtensorMapSwizzle, CUtensorMapL2promotion,
                             CUtensorMapFloatOOBfill);
  static const Encode encode = (Encode)dlsym(dlopen("libcuda.so.1", RTLD_NOW), "cuTensorMapEncodeTiled");
  alignas(64) CUtensorMap map;
  const cuuint64_t sizes[] = {64, (cuuint64_t)rows, (cuuint64_t)width / 64}, strides[] = {(cuuint64_t)width * 2, 128};
  const cuuint32_t box[] = {64, 8, 8}, ones[] = {1, 1, 1};
  if (encode(&map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 3, const_cast<void *>(matrix), sizes, strides, box, ones, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
             CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) != CUDA_SUCCESS)
    printf("cuTensorMapEncodeTiled failed\n"), exit(2);
  hopper_map bytes;
  memcpy(&bytes, &map, sizeof map);
  return bytes;
}

struct Dozens {
  Shape shape;
  int storage, rows, x_type, out_type;
  Variant variant;
  bool skip;
  int tiles, row_groups, clusters, column_groups, up_capacity, down_capacity, up_shared, down_shared;
  Cut up, down;
  void *hidden;
  float *partials = nullptr;
  int *counters = nullptr;

  Dozens(const Shape &s, int storage, int rows, int x_type, int out_type, const Variant &v) : shape(s), storage(storage), rows(rows), x_type(x_type), out_type(out_type), variant(v) {
    up = v.up, down = v.down;
    if (v.stream) {
      const int own = (s.gated ? 8 : 16) * v.stream, hidden_pitch = ceil_div(own, 16) * 32 + 16;
      clusters = std::min(v.room ? v.room : (multiprocessors - 12) / v.stream, ceil_div(s.hidden, own));
      up_shared = STREAM_SLOTS * STREAM_SLOT + 16 * ceil_div(s.d, STREAM_COLUMNS) * STREAM_COLUMNS * 2 + 2 * STREAM_SUMS * 4 + STREAM_BUFFERS * 16 * hidden_pitch + (2 * STREAM_SLOTS + 3 + STREAM_BUFFERS) * 8, down_shared = 0;
      partials = device<float>((size_t)clusters * rows * s.d_out), hidden = device<char>((size_t)rows * up16(s.hidden) * 2);
      CHECK(cudaFuncSetAttribute(stream_kernel(), cudaFuncAttributeMaxDynamicSharedMemorySize, up_shared));
      return;
    }
    skip = v.skip >= 0 ? v.skip : s.hidden * (double)s.d > 1e7;
    const bool is8 = storage == INT8;
    const int bytes = storage == TF32 || storage == FLOAT32 ? 4 : 2, el = elements(storage), matrices = s.gated ? 2 : 1;
    tiles = rows > 16 ? 4 : 2, row_groups = rows > 32 ? 2 : 1;
    const int padded = tiles * 8 * row_groups;
    // Up.
    if (!up.across) up.across = ceil_div(s.hidden, multiprocessors) <= 16 ? 1 : 2;
    if (!up.steps) up.steps = s.gated ? 1 : 2;
    int along = 8 / (up.across * row_groups);
    while (along * up.steps < 2) up.steps *= 2;
    const int pieces = along * up.steps * 4, turns = ceil_div(ceil_div(s.d, el), pieces);
    auto x_bytes = [&](int ranks) { return padded * ceil_div(turns, ranks) * pieces * el * bytes; };
    if (!up.ranks)
      for (up.ranks = 1; up.ranks < 8 && x_bytes(up.ranks) > 66000;) up.ranks *= 2;
    if (16 * up.across / up.ranks < 4) printf("%s: too many ranks\n", v.name), exit(2);
    if (!up.slots) up.slots = 4;
    clusters = up.ranks == 1 ? multiprocessors : multiprocessors / 16 * 16 / up.ranks;
    up_capacity = up16(ceil_div(s.hidden, clusters));
    if (up.slots == 1 && (up_capacity > 16 * up.across || ceil_div(turns, up.ranks) > 1)) printf("%s: not all in one slot\n", v.name), exit(2);
    const int least_up = std::min(2, up.slots);
    for (up.slots++, up_shared = 1 << 30; up_shared > 232448 && up.slots > least_up;) up.slots--, up_shared = up.slots * matrices * 16 * up.across * pieces * 16 + x_bytes(up.ranks) + 8 * matrices * tiles * 8 * 20 * 4 + (up.ranks > 1 ? 2 * matrices * 16 * up.across * padded * 4 : 0) + up_capacity * (20 + 4 + 8) + 40 + 8 * up.slots;
    // Down.
    const int unit = bytes == 4 ? 32 : 64;
    if (!down.splits && !down.ranks) down.ranks = 8;
    const int shares = std::max(down.splits, down.ranks);
    if (down.splits) down.ranks = 1;
    if (!down.across)
      for (down.across = is8 ? 2 : 1; down.across * row_groups < 8 && ceil_div(s.d_out, down.across * unit) * shares > multiprocessors;) down.across *= 2;
    along = 8 / (down.across * row_groups);
    if (!down.steps) down.steps = is8 ? 2 : 1;
    while (16 * along * down.steps * bytes < 64) down.steps *= 2;
    column_groups = ceil_div(s.d_out, down.across * unit);
    down_capacity = up16(ceil_div(s.hidden, shares));
    const int depth = 16 * along * down.steps, line = down.across * unit / el;
    if (!down.slots) down.slots = std::min(5, std::max(2, ceil_div(down_capacity, depth) + 1));
    if (down.slots == 1 && down_capacity > depth) printf("%s: not all in one slot\n", v.name), exit(2);
    const int items = rows * down.across * unit / 4;
    const int least_down = std::min(2, down.slots);
    for (down.slots++, down_shared = 1 << 30; down_shared > 232448 && down.slots > least_down;) down.slots--, down_shared = std::max(down.slots * depth * line * 16, 8 * tiles * 8 * (unit + 4) * 4) + down.slots * padded * (depth * bytes + (is8 ? 32 : bytes == 4 ? 64 : 16)) + (down.ranks > 1 ? down.ranks * ceil_div(items, down.ranks) * 16 : 0) + (skip ? down_capacity * 4 : 0) + 32 + 8 * down.slots;
    if (skip && 2 * s.experts() > std::min(up.slots * matrices * 16 * up.across * pieces * 16, down.slots * depth * line * 16)) printf("%s: too many experts\n", v.name), exit(2);
    if (down.splits) partials = device<float>((size_t)column_groups * down.splits * items * 4), counters = device<int>(column_groups);
    hidden = device<char>((size_t)rows * up16(s.hidden) * bytes);
    if (up_shared > 232448 || down_shared > 232448) return;
    CHECK(cudaFuncSetAttribute(kernel(false), cudaFuncAttributeMaxDynamicSharedMemorySize, up_shared));
    CHECK(cudaFuncSetAttribute(kernel(true), cudaFuncAttributeMaxDynamicSharedMemorySize, down_shared));
    for (bool is_down : {false, true}) CHECK(cudaFuncSetAttribute(kernel(is_down), cudaFuncAttributePreferredSharedMemoryCarveout, v.carveout));
  }
  ~Dozens() { cudaFree(hidden), cudaFree(partials), cudaFree(counters); }
  Dozens(const Dozens &) = delete;

  const void *kernel(bool is_down) const {
    typedef void (*Kernel)(experts_dozens_args);
#define OF(name) {experts_dozens_up_plain_##name##_16, experts_dozens_up_plain_##name##_32}, {experts_dozens_up_gated_##name##_16, experts_dozens_up_gated_##name##_32}, {experts_dozens_down_##name##_16, experts_dozens_down_##name##_32}
#ifdef DOZENS_F16
    static const Kernel kernels[5][3][2] = {{OF(f16)}};
#else
    static const Kernel kernels[5][3][2] = {{OF(f16)}, {OF(bf16)}, {OF(tf32)}, {OF(f32)}, {OF(int8)}};
#endif
#undef OF
    return (const void *)kernels[storage][is_down ? 2 : shape.gated][tiles == 4];
  }
  const void *stream_kernel() const {
    return storage == HALF ? (shape.gated ? (const void *)experts_stream_gated_f16 : (const void *)experts_stream_plain_f16) : (shape.gated ? (const void *)experts_stream_gated_bf16 : (const void *)experts_stream_plain_bf16);
  }
  void run_stream(const Weights &w, experts_dozens_args a, cudaStream_t stream) const {
    a.splits = clusters;
    hopper_map maps[3] = {wide_map(w.up, shape.d, shape.hidden), shape.gated ? wide_map(w.gate, shape.d, shape.hidden) : wide_map(w.up, shape.d, shape.hidden), wide_map(w.down, shape.d_out, shape.hidden)};
    cudaLaunchAttribute attributes[2];
    attributes[0].id = cudaLaunchAttributeProgrammaticStreamSerialization, attributes[0].val.programmaticStreamSerializationAllowed = 1;
    attributes[1].id = cudaLaunchAttributeClusterDimension, attributes[1].val.clusterDim.x = variant.stream, attributes[1].val.clusterDim.y = attributes[1].val.clusterDim.z = 1;
    cudaLaunchConfig_t config = {};
    config.gridDim = dim3(clusters * variant.stream), config.blockDim = dim3(STREAM_THREADS), config.dynamicSmemBytes = up_shared, config.stream = stream, config.attrs = attributes, config.numAttrs = 2;
    void *args[] = {maps, maps + 1, maps + 2, &a}, *sum_args[] = {&a};
    CHECK(cudaLaunchKernelExC(&config, stream_kernel(), args));
    config.gridDim = dim3(ceil_div(rows * shape.d_out / 2, 128)), config.blockDim = dim3(128), config.dynamicSmemBytes = 0, config.numAttrs = 1;
    CHECK(cudaLaunchKernelExC(&config, (const void *)experts_stream_sum, sum_args));
  }
  void launch(bool is_down, experts_dozens_args a, const Cut &cut, int blocks, int shared, bool programmatic, cudaStream_t stream) const {
    a.across = cut.across, a.row_groups = row_groups, a.steps = cut.steps, a.slots = cut.slots, a.capacity = is_down ? down_capacity : up_capacity;
    cudaLaunchConfig_t config = {};
    config.gridDim = dim3(blocks), config.blockDim = dim3(256), config.dynamicSmemBytes = shared, config.stream = stream;
    cudaLaunchAttribute attributes[2];
    config.attrs = attributes;
    if (cut.ranks > 1) {
      attributes[config.numAttrs].id = cudaLaunchAttributeClusterDimension;
      attributes[config.numAttrs].val.clusterDim.x = cut.ranks, attributes[config.numAttrs].val.clusterDim.y = attributes[config.numAttrs].val.clusterDim.z = 1;
      config.numAttrs++;
    }
    if (programmatic) {
      attributes[config.numAttrs].id = cudaLaunchAttributeProgrammaticStreamSerialization;
      attributes[config.numAttrs++].val.programmaticStreamSerializationAllowed = 1;
    }
    void *args[] = {&a};
    CHECK(cudaLaunchKernelExC(&config, kernel(is_down), args));
  }
  void run(const Weights &w, const void *x, const unsigned char *selection, void *out, cudaStream_t stream) const {
    experts_dozens_args a = {};
    a.x = x, a.selection = selection, a.up = w.up, a.gate = w.gate, a.down = w.down;
    a.up_bias = w.up_bias, a.gate_bias = w.gate_bias, a.down_bias = w.down_bias, a.scales = w.scales;
    a.out = out, a.hidden = hidden, a.rows = rows, a.d = shape.d, a.d_out = shape.d_out, a.experts = shape.experts(), a.expert_size = shape.size, a.activation = shape.activation;
    a.x_type = x_type, a.out_type = out_type, a.skip = skip, a.partials = partials, a.counters = counters, a.splits = down.splits, a.groups = column_groups;
    if (variant.stream) return run_stream(w, a, stream);
    launch(false, a, up, clusters * up.ranks, up_shared, variant.early, stream);
    launch(true, a, down, column_groups * std::max(down.ranks, down.splits), down_shared, variant.programmatic, stream);
  }
  void describe() const {
    if (variant.stream) return void(printf("      %d clusters of %d\n", clusters, variant.stream));
    int fit[2] = {0, 0}, resident[2] = {0, 0};
    CHECK(cudaOccupancyMaxActiveBlocksPerMultiprocessor(fit, kernel(false), 256, up_shared));
    CHECK(cudaOccupancyMaxActiveBlocksPerMultiprocessor(fit + 1, kernel(true), 256, down_shared));
    cudaLaunchConfig_t config = {};
    cudaLaunchAttribute attribute;
    attribute.id = cudaLaunchAttributeClusterDimension, attribute.val.clusterDim.x = down.ranks, attribute.val.clusterDim.y = attribute.val.clusterDim.z = 1;
    config.gridDim = dim3(column_groups * down.ranks), config.blockDim = dim3(256), config.dynamicSmemBytes = down_shared, config.attrs = &attribute, config.numAttrs = 1;
    if (down.ranks > 1) CHECK(cudaOccupancyMaxActiveClusters(resident, kernel(true), &config));
    printf("      up %d x %d blocks, across %d steps %d slots %d, %d B; down %d x %d(%d) blocks, across %d steps %d slots %d, %d B, %d clusters fit; skip %d\n", clusters, up.ranks, up.across, up.steps, up.slots, up_shared, column_groups, down.ranks, down.splits,
           down.across, down.steps, down.slots, down_shared, resident[0], skip);
  }
};

// ---- Checks ------------------------------------------------------------------------------------------------------------

static void check_one(const Shape &s, int storage, int rows, double density, const Variant &v, bool biases, int x_type, int out_type) {
  static unsigned seed = 1;
  static std::mt19937 random(5);
  seed += 40;
  const Weights w = make_weights(s, storage, seed, true, biases);
  float *x = device<float>((size_t)rows * s.d), *x32 = device<float>((size_t)rows * s.d);
  char *x16 = device<char>((size_t)rows * s.d * 4);
  // The reference reads what the kernel reads.
  const int rounding = x_type ? x_type : storage == BFLOAT16 ? 1 : storage == TF32 || storage == FLOAT32 ? 0 : 2;
  const std::vector<unsigned char> mask = random_mask(rows, s.experts(), density, random);
  fill<<<64, 256>>>(x, (size_t)rows * s.d, seed + 30, 1.7f);
  convert<<<64, 256>>>(x, x16, (size_t)rows * s.d, rounding);
  unpack<<<64, 256>>>(x16, nullptr, x32, rows, s.d, s.d, rounding == 1 ? (int)BFLOAT16 : rounding == 2 ? (int)HALF : (int)FLOAT32);
  unsigned char *selection = device<unsigned char>(mask.size());
  CHECK(cudaMemcpy(selection, mask.data(), mask.size(), cudaMemcpyHostToDevice));
  double *hidden = device<double>((size_t)rows * s.hidden), *expected = device<double>((size_t)rows * s.d_out);
  reference_hidden<<<((size_t)rows * s.hidden + 7) / 8, 256>>>(x32, w, s, rows, selection, hidden);
  reference_out<<<((size_t)rows * s.d_out + 255) / 256, 256>>>(hidden, w, s, rows, expected);
  std::vector<double> right((size_t)rows * s.d_out);
  CHECK(cudaMemcpy(right.data(), expected, right.size() * 8, cudaMemcpyDeviceToHost));
  Dozens dozens(s, storage, rows, x_type, out_type, v);
  if (dozens.up_shared > 232448 || dozens.down_shared > 232448) {
    printf("%s %s rows %d d %d: %d and %d bytes do not fit\n", v.name, NAMES[storage], rows, s.d, dozens.up_shared, dozens.down_shared);
    failures++;
    return;
  }
  const Outcome outcome = judge(right, storage, out_type, [&](char *out) {
    CHECK(cudaMemset(dozens.hidden, 0xff, (size_t)rows * up16(s.hidden) * 2));
    dozens.run(w, x_type ? (const void *)x16 : x, selection, out, 0);
  });
  checks++;
  if (outcome.fails()) {
    failures++;
    printf("FAILED %s %s d %d hidden %d e %d d_out %d%s act %d rows %d density %.2f x %d out %d bias %d: %s %.2e, bar %.0e%s%s\n", v.name, NAMES[storage], s.d, s.hidden, s.size, s.d_out, s.gated ? " gated" : "", s.activation, rows, density,
           x_type, out_type, biases, outcome.error == cudaSuccess ? "error" : cudaGetErrorString(outcome.error), outcome.relative, outcome.bar, outcome.repeatable ? "" : ", not repeatable", outcome.outside ? ", wrote past the end" : "");
    dozens.describe();
    if (outcome.error != cudaSuccess) exit(1);
  }
  for (void *p : {(void *)x, (void *)x32, (void *)x16, (void *)selection, (void *)hidden, (void *)expected, w.up, w.gate, w.down, (void *)w.scales, (void *)w.plain_up, (void *)w.plain_gate, (void *)w.plain_down})
    if (p) CHECK(cudaFree(p));
}

static void check_stream() {
  for (int storage : {HALF, BFLOAT16}) {
#if defined DOZENS_F16
    if (storage != HALF) continue;
#endif
    const int x16 = storage == BFLOAT16 ? 1 : 2;
    for (int ranks : {2, 4}) {
      Variant v = {ranks == 2 ? "stream by 2" : "stream by 4"};
      v.stream = ranks;
      check_one({64, 48, 4, 64 * ranks, true, 2}, storage, 1, 0.5, v, true, x16, x16);
      check_one({576, 1026, 6, 128 * ranks, true, 3}, storage, 5, 0.1, v, true, 0, 0);
      check_one({512, 1000, 8, 64 * ranks, false, 0}, storage, 16, 0.3, v, false, x16, 0);
      check_one({2048, 2560, 40, 512 * ranks, true, 1}, storage, 16, 0.2, v, true, x16, x16);
      check_one({1088, 2800, 7, 192 * ranks, false, 2}, storage, 13, 0.2, v, true, 0, x16);
    }
  }
}

static void check_all() {
  const Variant masked = {"masked", {}, {}, 0}, skipping = {"skipping", {}, {}, 1};
  const Variant clusters = {"clusters of 4 up", {2, 1, 3, 4}, {1, 1, 3, 4}, 1}, alone = {"no clusters", {4, 2, 4, 1}, {2, 2, 3, 1}, 0}, splits = {"splits", {2, 2, 4, 1}, {2, 2, 3, 0, 5}, 1};
#ifdef DOZENS_F16
  constexpr int STORAGES = 1;
#else
  constexpr int STORAGES = 5;
#endif
  for (int storage = 0; storage < STORAGES; storage++) {
    const int x16 = storage == BFLOAT16 ? 1 : 2;
    for (const Variant &v : {masked, skipping}) {
      check_one({768, 3072, 128, 768, false}, storage, 4, 0.2, v, true, 0, 0);
      check_one({768, 3072, 4, 768, false, 0}, storage, 16, 0.2, v, true, 0, 0);
      check_one({256, 1026, 6, 256, true, 3}, storage, 5, 0.1, v, true, 0, 0);
      check_one({100, 132, 4, 77, true, 2}, storage, 9, 0.5, v, false, 0, 0);
      check_one({33, 64, 16, 40, false, 1}, storage, 17, 0.3, v, true, 0, 0);
      check_one({768, 1536, 32, 384, false}, storage, 37, 0.2, v, true, x16, storage < TF32 ? x16 : 0);
      check_one({512, 2000, 8, 520, true, 1}, storage, 64, 0.02, v, true, 0, 0);
    }
  }
  for (int storage : {HALF, BFLOAT16, TF32, INT8}) {
    if (storage >= STORAGES) continue;
    for (const Variant &v : {clusters, alone, splits}) {
      if (storage == INT8 && v.down.across == 1) continue;
      check_one({768, 3072, 12, 768, false, 0}, storage, 16, 0.05, v, true, 0, 0);
      check_one({512, 1000, 8, 200, true, 1}, storage, 23, 0.3, v, true, 0, 0);
    }
  }
  // All weights of a block in one slot: those of up in 32 bits would not leave room for x.
  const Cut one_up = {2, 6, 1}, one_down = {1, 3, 1, 8};
  const Variant single = {"single", one_up, one_down, 0}, single_early = {"single, early", one_up, {1, 3, 1, 0, 11}, 0, true, true}, threes = {"threes", {2, 2, 3}, {1, 1, 3, 8}, 1};
  for (int storage : {HALF, BFLOAT16}) {
    if (storage >= STORAGES) continue;
    for (const Variant &v : {single, single_early, threes})
      for (int rows : {4, 16, 29}) check_one({768, 3072, 4, 768, false}, storage, rows, 0.2, v, true, 2 - storage, 0);
    check_one({768, 3072, 128, 768, false}, storage, 64, 0.2, {"single, 64", {2, 12, 1, 1}, {1, 6, 1, 8}, 0}, true, 0, 0);
  }
  for (int storage : {TF32, FLOAT32}) {
    if (storage >= STORAGES) continue;
    for (int rows : {4, 16, 29}) check_one({768, 3072, 4, 768, false}, storage, rows, 0.2, {"single down", {}, one_down, 0}, true, 0, 0);
  }
  check_one({2048, 16384, 128, 2048, true, 2}, HALF, 16, 0.2, {"both at once", {4, 1, 4}, {2, 1, 3, 0, 8}}, true, 2, 2);
  check_one({2048, 16384, 128, 2048, true, 2}, HALF, 16, 0.2, {"plan"}, true, 2, 2);
  check_one({2048, 16384, 128, 2048, true, 2}, HALF, 16, 0.2, {"masked, early", {4, 2, 3}, {2, 4, 3, 0, 8}, 0, true, true}, true, 2, 2);
  if (STORAGES > 1) check_one({2048, 8192, 128, 2048, true, 2}, BFLOAT16, 64, 0.1, {"plan"}, true, 1, 1);
  check_one({64, 256, 16, 64, false}, HALF, 16, 0.01, {"plan"}, true, 0, 0);
  check_stream();
  printf("%d of %d checks failed\n", failures, checks);
}

// ---- Times -------------------------------------------------------------------------------------------------------------

static std::vector<std::string> summary;

static void time_op(const Sets &sets, int rows, double density, double dense, double bar, const std::vector<Variant> &variants) {
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
    Dozens dozens(s, sets.storage, rows, type, type, v);
    if (dozens.up_shared > 232448 || dozens.down_shared > 232448) {
      printf("    %-26s does not fit\n", v.name);
      continue;
    }
    const double us = graph_us(sets.layers, [&](int i, cudaStream_t stream) {
      dozens.run(sets.of(i), io.x[i], masks[i], io.out[i], stream);
      return cudaGetLastError() == cudaSuccess;
    });
    printf("    %-26s %7.2f us  %.3f x dense  %.2f TB/s\n", v.name, us, us / dense, bytes / us * 1e-6);
    dozens.describe();
    if (us > 0 && us < best) best = us, winner = v.name;
  }
  char line[300];
  snprintf(line, sizeof line, "%-5s d %d hidden %d e %-4d%s N %-3d %3.0f %%: %7.2f us (%s), dense %.2f, ratio %.3f", NAMES[sets.storage], s.d, s.hidden, s.size, s.gated ? " gated" : "", rows, density * 100, best, winner, dense, best / dense);
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

#ifdef DOZENS_STAMPS
static void show_stamps(const Sets &sets, int rows, const Variant &v) {
  Rows io(sets.layers, rows, sets.shape.d, sets.shape.d_out, 2);
  std::mt19937 random(7);
  const std::vector<unsigned char> mask = random_mask(rows, sets.shape.experts(), 0.2, random);
  unsigned char *m = device<unsigned char>(mask.size());
  CHECK(cudaMemcpy(m, mask.data(), mask.size(), cudaMemcpyHostToDevice));
  Dozens dozens(sets.shape, HALF, rows, 2, 2, v);
  for (int turn = 0; turn < 2; turn++) {
    graph_us(sets.layers, [&](int i, cudaStream_t stream) { return dozens.run(sets.of(i), io.x[i], m, io.out[i], stream), true; });
    static long long stamps[2][256][12];
    CHECK(cudaMemcpyFromSymbol(stamps, dozens_stamps, sizeof stamps));
    long long first = 1ll << 62;
    for (int b = 0; b < 132; b++) first = std::min(first, stamps[0][b][0]);
    printf("  %s\n", v.name);
    for (int k = 0; k < 2; k++)
      for (int b : {0, 1, 37, 77, 95, 127, 131}) {
        printf("    %s %3d:", k ? "down" : "up  ", b);
        for (int i = 0; i < 10; i++) printf(" %7.2f", stamps[k][b][i] ? (stamps[k][b][i] - first) / 1000.0 : 0.0);
        printf("\n");
      }
  }
}
#endif

static void time_all(const CublasLt &lt, bool with_dense) {
  printf("An empty kernel in a chain: %.2f us\n", graph_us(64, [](int, cudaStream_t stream) { return nothing<<<132, 512, 0, stream>>>(), true; }));
  const Cut one_up = {2, 6, 1}, one_down = {1, 3, 1, 8};  // all in one slot
#ifdef DOZENS_STAMPS
  {
    Sets sets({768, 3072, 4, 768, false}, HALF);
    show_stamps(sets, 16, {"single", one_up, one_down, 0});
    show_stamps(sets, 16, {"threes", {2, 2, 3}, {1, 1, 3, 8}, 0});
    Sets wide({2048, 16384, 128, 2048, true, 2, 0}, HALF);
    show_stamps(wide, 16, {"gated, both", {4, 1, 4}, {2, 1, 3, 0, 8}});
    show_stamps(wide, 16, {"gated, larger", {4, 2, 3}, {2, 2, 4, 0, 8}});
    return;
  }
#endif
  const std::vector<Variant> plain = {{"single", one_up, one_down, 0}, {"single, splits 11", one_up, {1, 3, 1, 0, 11}, 0}, {"single, no carve-out", one_up, one_down, 0, true, false, -1}, {"single, skipping", one_up, one_down, 1},
    {"single, early", one_up, one_down, 0, true, true}, {"single, not programmatic", one_up, one_down, 0, false}, {"threes", {2, 2, 3}, {1, 1, 3, 8}, 0}, {"up threes", {2, 2, 3}, one_down, 0}, {"down threes", one_up, {1, 1, 3, 8}, 0},
    {"up sixes", {2, 1, 6}, one_down, 0}, {"up across 1", {1, 3, 2}, one_down, 0}, {"up 2 ranks", {4, 6, 1, 2}, one_down, 0}, {"down 4 ranks", one_up, {1, 6, 1, 4}, 0}, {"down 16", one_up, {1, 2, 1, 0, 16}, 0}};
  // By warps across, steps and slots of up; of down also the blocks that cut its neurons up.
  auto cut = [](const char *name, Cut up, Cut down) { return Variant{name, up, down, 0, true, true}; };
  auto streamed = [](const char *name, int ranks, int room) {
    Variant v{name};
    v.stream = ranks, v.room = room;
    return v;
  };
  const Cut slim_down = {1, 4, 4, 0, 4};
  const std::vector<Variant> gated = {cut("1 2 4, 1 4 4 4", {1, 2, 4}, slim_down), cut("1 4 2, 1 4 4 4", {1, 4, 2}, slim_down), cut("2 4 2, 1 4 4 4", {2, 4, 2}, slim_down), cut("8 2 4, 1 4 4 4", {8, 2, 4}, slim_down),
    cut("4 2 3, 1 4 4 4", {4, 2, 3}, slim_down), cut("4 2 3, 2 4 3 8", {4, 2, 3}, {2, 4, 3, 0, 8}), cut("4 2 3, 2 2 4 8", {4, 2, 3}, {2, 2, 4, 0, 8}), cut("1 2 4, 1 3 3 4", {1, 2, 4}, {1, 3, 3, 0, 4}),
    {"1 2 4, skipping", {1, 2, 4}, slim_down, 1, true, true}, {"1 2 4, only down early", {1, 2, 4}, slim_down, 0}, {"1 2 4, not programmatic", {1, 2, 4}, slim_down, 0, false}, {"both at once", {4, 1, 4}, {2, 1, 3, 0, 8}, 1}, {"plan"}, streamed("stream by 4", 4, 0), streamed("stream by 4, 31", 4, 31), streamed("stream by 4, 28", 4, 28)};
  for (int storage : {HALF, BFLOAT16}) {
#if defined DOZENS_F16
    if (storage != HALF) continue;
#endif
    printf("%s, d 768, hidden 3072\n", NAMES[storage]);
    Sets sets({768, 3072, 4, 768, false}, storage);
    const double dense16 = with_dense ? dense_us(lt, sets, 16) : 12.1;
    time_op(sets, 16, 0.2, dense16, 0.8, storage == HALF ? plain : std::vector<Variant>{plain[0], plain[1], plain[4], plain[6]});
    if (storage == HALF) {
      sets.shape.size = 128;
      const std::vector<Variant> some = {plain[0], plain[1], plain[3], plain[6]};
      for (int rows : {4, 16, 32}) time_op(sets, rows, 0.2, dense16, 0, some);
      time_op(sets, 64, 0.2, dense16, 0, {{"single", {2, 12, 1, 1}, {1, 6, 1, 8}, 0}, {"single, splits 11", {2, 12, 1, 1}, {1, 6, 1, 0, 11}, 0}, {"threes", {2, 4, 3}, {1, 2, 3, 8}, 0}, {"2 ranks", {4, 12, 1, 2}, {1, 6, 1, 8}, 0}, {"plan"}});
    }
  }
  for (int storage : {HALF, BFLOAT16}) {
#if defined DOZENS_F16
    if (storage != HALF) continue;
#endif
    printf("%s, gated, d 2048, hidden 16384\n", NAMES[storage]);
    Sets sets({2048, 16384, 128, 2048, true, 2, 0}, storage);
    const double dense16 = with_dense ? std::min(dense_us(lt, sets, 16), dense_joined_us(lt, sets, 16)) : 57.9;
    time_op(sets, 16, 0.2, dense16, 1.0, storage == HALF ? gated : std::vector<Variant>{gated[0], gated[4], streamed("stream by 4", 4, 0)});
    if (storage == HALF)
      for (int rows : {4, 32, 64}) time_op(sets, rows, 0.2, dense16, 0, {{"plan"}, {"4 2 3 2", {4, 2, 3, 2}, {2, 2, 4, 0, 8}}, {"4 2 3 4", {4, 2, 3, 4}, {2, 2, 3, 0, 8}}, {"4 4 3 4", {4, 4, 3, 4}, {2, 2, 3, 0, 8}}});
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
  alarm(240);  // a wait that never ends
  if (what == "stream") check_stream(), printf("%d of %d checks failed\n", failures, checks);
  else if (what != "time" && what != "quick") check_all();
  if (what != "check" && what != "stream") {
    CublasLt lt;
    if (what != "quick" && !lt.open()) {
      printf("cuBLASLt is not there: no dense layer to compare with.\n");
      return 2;
    }
    time_all(lt, what != "quick");
  }
  return failures ? 1 : missed ? 3 : 0;
}
