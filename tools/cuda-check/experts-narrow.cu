// Checks the expert op for many rows of a narrow layer (kernels/cuda/experts-narrow-rows and experts-narrow) on a Hopper GPU
// against float64, then times it in CUDA graphs beside the dense layer through cuBLASLt. Needs no more than nvcc and the
// driver:
//
//   nvcc -O3 -std=c++17 -gencode arch=compute_90a,code=sm_90a -o /tmp/narrow tools/cuda-check/experts-narrow.cu -ldl
//   /tmp/narrow              both; /tmp/narrow check or /tmp/narrow time for one
//   compute-sanitizer /tmp/narrow check small      some of the checks, of few rows
//
// A check prints a line only if it fails. The exit code is 1 if one did. D2DMOE_LIBCUBLASLT names cuBLASLt's file where the
// dynamic linker does not find it.
#include "../../kernels/cuda/experts-narrow-rows.sm90a.cu"
#include "../../kernels/cuda/experts-narrow.sm90a.cu"
#include "experts-layer.cuh"

#include "cublaslt-fused.cuh"
#include "settle.cuh"
#include "tensor-map.cuh"

static cudaStream_t stream;  // of the checks; waits for what the default stream does, and the reverse
static int patience = 8;     // seconds

// ---- Launches ------------------------------------------------------------------------------------------------------

// Programmatic, as the backend does it: begins while what is before it ends.
template <typename... P, typename... A> static void launch(void (*kernel)(P...), int blocks, int threads, int shared, cudaStream_t stream, A... arguments) {
  CHECK(cudaFuncSetAttribute((const void *)kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared));
  cudaLaunchAttribute programmatic;
  programmatic.id = cudaLaunchAttributeProgrammaticStreamSerialization, programmatic.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(blocks), config.blockDim = dim3(threads), config.dynamicSmemBytes = shared, config.stream = stream;
  config.attrs = &programmatic, config.numAttrs = 1;
  CHECK(cudaLaunchKernelEx(&config, kernel, (P)arguments...));
}

// ---- The op ----------------------------------------------------------------------------------------------------------

// As packages/backend-cuda/src/experts/many/narrow.ts has them; from the kernels' own numbers, so that both may be tried out.
constexpr int BLOCK_ROWS = 128, TILE_ROWS = 128, LOOKING = 2, KEYS = EXPERTS_NARROW_KEYS, UP_BOX = 128, DOWN_BOX = 64;
constexpr int MOST_HIDDEN = EXPERTS_NARROW_UNITS * EXPERTS_NARROW_WIDTH, MOST_EXPERTS = EXPERTS_NARROW_EXPERTS;

static int look_blocks(int rows) { return std::min((rows + BLOCK_ROWS - 1) / BLOCK_ROWS, multiprocessors * LOOKING); }
static int look_shared(int pitch, int router) {
  const int lines = (router + 15) / 16 * 16;
  return 2 * KEYS * 4 + 8 * 4 + 16 * 4 + 8 * 36 * 4 + (router ? (lines * ((pitch + 63) / 64 * 64 + 32) + MOST_EXPERTS * (lines + 8)) * 2 : 0);
}
static int run_blocks(int rows) { return std::min((rows + TILE_ROWS - 1) / TILE_ROWS, multiprocessors); }
template <int WIDTH> static int run_shared() {
  typedef experts_narrow_shared<WIDTH> shared;
  return shared::SLOTS * shared::SLOT + 2 * EXPERTS_NARROW_STEPS * EXPERTS_NARROW_X + EXPERTS_NARROW_BARRIERS + 2 * (int)sizeof(experts_narrow_tile) + (MOST_HIDDEN + 256) * 4;
}
static size_t scratch_words(int rows) { return 3 * (size_t)rows + (size_t)look_blocks(rows) * KEYS; }

// Rows, and who chooses what they run: a selection or, by a rule, the layer's router.
struct Batch {
  int rows;
  const void *x;
  const unsigned char *selection;  // null: the router
  int rule;
  float value;
  bool ordered;
  unsigned *scratch, *counts;
  unsigned *bits() const { return scratch; }
  unsigned *codes() const { return scratch + rows; }
  int *list() const { return ordered ? (int *)scratch + 2 * (size_t)rows : nullptr; }
  unsigned *offsets() const { return scratch + 3 * (size_t)rows; }
};

struct Narrow {
  const Shape shape;
  const int storage;
  const Weights weights;
  hopper_map up, down;

  Narrow(const Shape &s, int storage, unsigned seed) : shape(s), storage(storage), weights(make_weights(s, storage, seed, true)) {
    up = tensor_map(weights.up, s.d, s.hidden, 64, UP_BOX), down = tensor_map(weights.down, s.d_out, s.hidden, 64, DOWN_BOX);
  }
  Narrow(const Narrow &) = delete;
  ~Narrow() {
    const Weights &w = weights;
    for (void *p : {w.up, w.down, w.router_hidden, w.router_output, w.up_bias16, w.down_bias16}) CHECK(cudaFree(p));
    for (float *p : {w.scales, w.up_bias, w.down_bias, w.plain_up, w.plain_down, w.plain_router_hidden, w.plain_router_output}) CHECK(cudaFree(p));
  }
  int type() const { return storage == BFLOAT16 ? 1 : 2; }
  void look(const Batch &b, cudaStream_t stream) const {
    const int router = b.selection ? 0 : shape.router;
    launch(storage == BFLOAT16 ? experts_narrow_rows_bf16 : experts_narrow_rows_f16, look_blocks(b.rows), 256, look_shared(shape.d, router), stream, router ? b.x : nullptr,
           router ? weights.router_hidden : nullptr, router ? weights.router_output : nullptr, b.selection, b.rows, shape.d, router, pitch_of(router, storage), b.rule, b.value, shape.experts(), shape.size,
           b.bits(), b.codes(), b.counts, b.offsets(), b.list(), EXPERTS_NARROW_COUNT | EXPERTS_NARROW_PLACE);
  }
  void run(const Batch &b, void *out, cudaStream_t stream) const {
    const int width = shape.d_out <= 128 ? 128 : shape.d_out <= 192 ? 192 : 256, shared = width == 128 ? run_shared<128>() : width == 192 ? run_shared<192>() : run_shared<256>();
    const auto in_bf16 = width == 128 ? experts_narrow_bf16_128 : width == 192 ? experts_narrow_bf16_192 : experts_narrow_bf16_256;
    const auto in_f16 = width == 128 ? experts_narrow_f16_128 : width == 192 ? experts_narrow_f16_192 : experts_narrow_f16_256;
    launch(storage == BFLOAT16 ? in_bf16 : in_f16, run_blocks(b.rows), 384, shared, stream, up, down, b.x, b.bits(), b.list(), weights.up_bias, weights.down_bias, out, b.rows, shape.d, shape.d_out, shape.experts(),
           shape.size, shape.activation);
  }
  void both(const Batch &b, void *out, cudaStream_t stream) const { look(b, stream), run(b, out, stream); }
};

// ---- The reference ---------------------------------------------------------------------------------------------------

// The router's hidden layer, rounded to 16 bits; and by how much it may be off where a sum in float32, which is off by a
// little, is rounded another way.
__global__ void reference_router_hidden(const float *x, const float *weights, int rows, int d, int width, int type, double *hidden, double *doubts) {
  for (GRID_LOOP(i, (long long)rows * width)) {
    const float *a = x + i / width * d, *b = weights + i % width * d;
    double sum = 0, all = 0;
    for (int k = 0; k < d; k++) sum += (double)a[k] * b[k], all += fabs((double)a[k] * b[k]);
    auto rounded = [&](double v) { return v < 0 ? 0.0f : type == 1 ? to_float(__float2bfloat16((float)v)) : to_float(__float2half((float)v)); };
    hidden[i] = rounded(sum), doubts[i] = rounded(sum + 4e-6 * all) - rounded(sum - 4e-6 * all);
  }
}
__global__ void reference_norms(const double *hidden, const double *hidden_doubts, const float *weights, int rows, int width, int experts, double *norms, double *doubts) {
  for (GRID_LOOP(i, (long long)rows * experts)) {
    double sum = 0, off = 0;
    for (int k = 0; k < width; k++) {
      const long long at = i / experts * width + k;
      const double w = weights[i % experts * width + k];
      sum += hidden[at] * w, off += (hidden_doubts[at] + 4e-6 * hidden[at]) * fabs(w);
    }
    norms[i] = fabs(sum), doubts[i] = off;
  }
}

// The experts of a row by float64, and those that another choice may differ in: whose norm is within 1e-3 of the bar, or
// within what roundings of the hidden layer make of it. The bar is what it takes to run or, where there are places or a share
// to fill, the least norm that runs; of a share also any that may come to be the least, the sum of those before it being
// as near to what is needed.
struct Choice {
  unsigned bits = 0, open = 0;
};
static Choice choose(const double *norms, const double *doubts, int n, int rule, float value) {
  std::vector<int> order(n);
  double total = 0, doubt = 0;
  for (int e = 0; e < n; e++) order[e] = e, total += norms[e], doubt = std::max(doubt, 2 * doubts[e]);
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return norms[a] > norms[b]; });
  const double need = total * (double)value;
  Choice choice;
  double bar = rule == 0 ? norms[order[0]] * value : 0, before = 0;
  std::vector<double> bars;
  for (int place = 0; place < n; place++) {
    const int e = order[place];
    const bool runs = rule == 0 ? norms[e] >= bar && (bar > 0 || place == 0) : rule == 1 ? place < (int)value : place == 0 || before < need;
    if (runs) choice.bits |= 1u << e;
    if (runs && rule != 0) bar = norms[e];
    if (rule == 2 && std::abs(before - need) <= 1e-3 * need + n * doubt) bars.push_back(norms[e]);
    before += norms[e];
  }
  bars.push_back(bar);
  for (int e = 0; e < n; e++)
    for (double b : bars)
      if (std::abs(norms[e] - b) <= 1e-3 * b + doubt) choice.open |= 1u << e;
  return choice;
}

// Sums of squares of difference and reference; a NaN anywhere makes the first NaN.
__global__ void distance(const void *out, int type, const double *right, long long n, double *sums) {
  double d = 0, r = 0;
  for (GRID_LOOP(i, n)) {
    const double e = experts_read(out, i, type) - right[i];
    d += e * e, r += right[i] * right[i];
  }
  d = warp_sum(d), r = warp_sum(r);
  if (threadIdx.x % 32 == 0) atomicAdd(sums, d), atomicAdd(sums + 1, r);
}

// Memory of exactly so many bytes, so that compute-sanitizer sees what is read behind them; all of it is freed together.
struct Memory {
  std::vector<void *> all;
  template <typename T> T *of(size_t count, int filled = 0xff) {
    void *p;
    CHECK(cudaMalloc(&p, count * sizeof(T)));
    CHECK(cudaMemset(p, filled, count * sizeof(T)));
    all.push_back(p);
    return (T *)p;
  }
  ~Memory() {
    for (void *p : all) CHECK(cudaFree(p));
  }
};
template <typename T> static std::vector<T> fetched(const T *from, size_t count) {
  std::vector<T> v(count);
  CHECK(cudaMemcpy(v.data(), from, count * sizeof(T), cudaMemcpyDeviceToHost));
  return v;
}

// A row's bits as a selection of bytes.
static std::vector<unsigned char> bytes_of_bits(const std::vector<unsigned> &bits, int experts) {
  std::vector<unsigned char> mask(bits.size() * experts);
  for (size_t i = 0; i < mask.size(); i++) mask[i] = bits[i / experts] >> i % experts & 1;
  return mask;
}
static double relative_error(const Narrow &layer, const float *x, const std::vector<unsigned char> &mask, int rows, const void *out) {
  static double *hidden = nullptr;
  static size_t room = 0;
  const Shape &s = layer.shape;
  const size_t neurons = (size_t)rows * s.hidden, results = (size_t)rows * s.d_out;
  if (room < neurons) {
    CHECK(cudaFree(hidden));
    hidden = device<double>(room = neurons);
  }
  Memory memory;
  unsigned char *selection = memory.of<unsigned char>(mask.size());
  double *right = memory.of<double>(results), *sums = memory.of<double>(2, 0);
  CHECK(cudaMemcpy(selection, mask.data(), mask.size(), cudaMemcpyHostToDevice));
  reference_hidden<<<(unsigned)((neurons + 7) / 8), 256>>>(x, layer.weights, s, rows, selection, hidden);
  reference_out<<<(unsigned)((results + 255) / 256), 256>>>(hidden, layer.weights, s, rows, right);
  distance<<<256, 256>>>(out, layer.type(), right, results, sums);
  CHECK(cudaGetLastError());
  const std::vector<double> both = fetched(sums, 2);
  return std::sqrt(both[0] / both[1]);
}

// ---- Checks ----------------------------------------------------------------------------------------------------------

struct Case {
  int rows;
  bool ordered;
  double density;  // of a selection, where there is no rule
  int rule;        // of the router; -1: none
  float value;
};
constexpr size_t GUARD = 4096;
constexpr unsigned char PATTERN = 0xa5;
template <typename T> static bool is_whole(const T *guard) {
  const std::vector<unsigned char> bytes = fetched((const unsigned char *)guard, GUARD);
  return std::all_of(bytes.begin(), bytes.end(), [](unsigned char c) { return c == PATTERN; });
}

// What is wrong with an order: all rows once, those that run more units first, those of the same units together.
static const char *wrong_order(const std::vector<int> &list, const std::vector<unsigned> &bits, const Shape &s) {
  std::vector<bool> seen(list.size());
  const int units = (s.hidden + 127) / 128;
  std::vector<bool> over(KEYS);
  int before = -1;
  for (int row : list) {
    if (row < 0 || row >= (int)list.size() || seen[row]) return ", the list is no permutation";
    seen[row] = true;
  }
  for (int row : list) {
    int key = 0;
    for (int e = 0; e < s.experts(); e++)
      for (int unit = e * s.size / 128; bits[row] >> e & 1 && unit <= (e * s.size + s.size - 1) / 128; unit++) key |= 1 << (units > 8 ? unit / 2 : unit);
    if (key == before) continue;
    if (over[key] || (before >= 0 && __builtin_popcount(key) > __builtin_popcount(before))) return ", the list is not in order";
    over[key] = true, before = key;
  }
  return "";
}

// Compares what the router's rows run with float64.
static std::string wrong_choice(const Narrow &layer, const Case &c, const float *x, const std::vector<unsigned> &bits) {
  const Shape &s = layer.shape;
  const int n = s.experts();
  Memory memory;
  double *hidden = memory.of<double>((size_t)c.rows * s.router), *hidden_doubts = memory.of<double>((size_t)c.rows * s.router);
  double *norms = memory.of<double>((size_t)c.rows * n), *doubts = memory.of<double>((size_t)c.rows * n);
  reference_router_hidden<<<1024, 256>>>(x, layer.weights.plain_router_hidden, c.rows, s.d, s.router, layer.type(), hidden, hidden_doubts);
  reference_norms<<<1024, 256>>>(hidden, hidden_doubts, layer.weights.plain_router_output, c.rows, s.router, n, norms, doubts);
  CHECK(cudaGetLastError());
  const std::vector<double> right = fetched(norms, (size_t)c.rows * n), off = fetched(doubts, (size_t)c.rows * n);
  int wrong = 0, differ = 0;
  for (int r = 0; r < c.rows; r++) {
    const Choice choice = choose(&right[(size_t)r * n], &off[(size_t)r * n], n, c.rule, c.value);
    differ += bits[r] != choice.bits;
    wrong += ((bits[r] ^ choice.bits) & ~choice.open) != 0 || (c.rule == 1 && __builtin_popcount(bits[r]) != (int)c.value);
  }
  if (!wrong && differ <= std::max(1, c.rows / 100)) return "";
  return ", " + std::to_string(differ) + " rows run others than by float64, " + std::to_string(wrong) + " of them by more than rounding";
}

static void check_one(const Narrow &layer, const Case &c) {
  static std::mt19937 random(7);
  const Shape &s = layer.shape;
  const int n = s.experts();
  const size_t numbers = (size_t)c.rows * s.d, bytes = (size_t)c.rows * s.d_out * 2;
  char name[200];
  if (c.rule < 0) snprintf(name, sizeof name, "density %.1f", c.density);
  else snprintf(name, sizeof name, "router of %d by rule %d, %.3g", s.router, c.rule, c.value);
  const std::string what = std::string(NAMES[layer.storage]) + " N " + std::to_string(c.rows) + " d " + std::to_string(s.d) + " -> " + std::to_string(s.d_out) + ", " + std::to_string(n) + " x " + std::to_string(s.size) +
                           ", activation " + std::to_string(s.activation) + ", " + name + (c.ordered ? ", ordered" : "");
  checks++;
  Memory memory;
  float *plain = memory.of<float>(numbers);
  char *x = memory.of<char>(numbers * 2);
  fill<<<256, 256>>>(plain, numbers, 1000 + checks, 1.7f);
  convert<<<256, 256>>>(plain, x, numbers, layer.type());
  // The reference reads what the kernels read.
  unpack<<<256, 256>>>(x, nullptr, plain, c.rows, s.d, s.d, layer.storage);
  CHECK(cudaGetLastError());
  Batch batch = {c.rows, x, nullptr, std::max(0, c.rule), c.value, c.ordered};
  std::vector<unsigned char> drawn((size_t)c.rows * n);
  if (c.rule < 0) {
    std::bernoulli_distribution runs(c.density);
    for (unsigned char &one : drawn) one = runs(random);
    unsigned char *selection = memory.of<unsigned char>(drawn.size());
    CHECK(cudaMemcpy(selection, drawn.data(), drawn.size(), cudaMemcpyHostToDevice));
    batch.selection = selection;
  }
  const size_t words = scratch_words(c.rows);
  batch.scratch = memory.of<unsigned>(words + GUARD / 4), batch.counts = memory.of<unsigned>(KEYS + 2 + GUARD / 4, 0);
  char *outs[2] = {memory.of<char>(bytes + GUARD), memory.of<char>(bytes + GUARD)};
  for (void *guard : {(void *)(batch.scratch + words), (void *)(batch.counts + KEYS + 2), (void *)(outs[0] + bytes), (void *)(outs[1] + bytes)}) CHECK(cudaMemset(guard, PATTERN, GUARD));

  // In a row: the second pair begins while the first ends.
  for (char *out : outs) layer.both(batch, out, stream);
  settle(stream, what, patience);

  std::string wrong;
  if (fetched(outs[0], bytes) != fetched(outs[1], bytes)) wrong += ", not repeatable";
  if (!is_whole(outs[0] + bytes) || !is_whole(outs[1] + bytes)) wrong += ", wrote past the end";
  if (!is_whole(batch.scratch + words) || !is_whole(batch.counts + KEYS + 2)) wrong += ", wrote past its scratch memory";
  for (unsigned count : fetched(batch.counts, KEYS + 2))
    if (count != 0) {
      wrong += ", counts are not zeros";
      break;
    }
  const std::vector<unsigned> bits = fetched(batch.bits(), c.rows);
  const std::vector<unsigned char> mask = bytes_of_bits(bits, n);
  if (std::any_of(bits.begin(), bits.end(), [&](unsigned b) { return n < 32 && b >> n; })) wrong += ", bits of experts that there are not";
  if (c.rule >= 0) wrong += wrong_choice(layer, c, plain, bits);
  else if (mask != drawn) wrong += ", bits are not the selection's";
  if (c.ordered) wrong += wrong_order(fetched(batch.list(), c.rows), bits, s);
  const double relative = relative_error(layer, plain, mask, c.rows, outs[1]);
  if (relative <= (layer.storage == BFLOAT16 ? 5e-3 : 1e-3) && wrong.empty()) return;
  failures++;
  printf("FAILED %s: relative error %.2e%s\n", what.c_str(), relative, wrong.c_str());
}

static void check_all(bool small) {
  constexpr int ROWS[] = {1, 65, 300, 1000, 4111, 20000}, ROUTERS[] = {8, 24, 64, 128};
  constexpr int EXPERTS[][2] = {{1, 128}, {6, 128}, {8, 128}, {32, 32}, {12, 24}, {4, 200}, {3, 512}, {16, 128}, {25, 8}};
  constexpr int WIDTHS[][2] = {{8, 8}, {72, 72}, {136, 136}, {192, 192}, {200, 200}, {256, 256}, {8, 256}, {256, 8}, {136, 192}, {192, 72}, {72, 200}, {64, 128}};
  constexpr double DENSITIES[] = {0, 0.1, 0.5, 1};
  std::mt19937 random(3);
  int layers = 0;
  for (int storage : {BFLOAT16, HALF})
    for (int e = 0; e < 9; e++)
      for (int w = 0; w < 12; w++) {
        if (small && w != (e + 3 * storage) % 12) continue;
        const int n = EXPERTS[e][0], size = EXPERTS[e][1];
        const Narrow layer({WIDTHS[w][0], n * size, size, WIDTHS[w][1], false, (int)(random() % 4), ROUTERS[random() % 4]}, storage, 1 + 40 * layers);
        // Four densities of a selection, then three rules of a router; each not ordered and ordered.
        for (int mode = 0; mode < 14; mode++) {
          if (small && (3 * layers + mode) % 10 != 0) continue;
          const int rows = ROWS[random() % (small ? 4 : 6)], rule = mode < 8 ? -1 : (mode - 8) % 3;
          const bool more = random() % 2;
          const float values[] = {more ? 0.7f : 0.3f, (float)(more ? n : std::max(1, n / 3)), more ? 0.95f : 0.6f};
          check_one(layer, {rows, mode < 8 ? mode >= 4 : mode >= 11, DENSITIES[mode % 4], rule, rule < 0 ? 0 : values[rule]});
        }
        layers++;
      }
  printf("%d of %d checks failed\n", failures, checks);
}

// ---- Times -----------------------------------------------------------------------------------------------------------

// Medians of each one's microseconds, over turns of all of them.
static std::vector<double> in_turns(int calls, const std::vector<std::function<bool(int, cudaStream_t)>> &all) {
  std::vector<std::vector<double>> times(all.size());
  for (int turn = 0; turn < 5; turn++)
    for (size_t i = 0; i < all.size(); i++) times[i].push_back(graph_us(calls, all[i]));
  std::vector<double> medians;
  for (std::vector<double> &t : times) {
    std::sort(t.begin(), t.end());
    medians.push_back(t[t.size() / 2]);
  }
  return medians;
}

// A row's first numbers become the mask of what it is to run: the router that is timed reads it off.
__global__ void plant(void *x, const unsigned char *mask, int rows, int d, int experts, int type) {
  for (GRID_LOOP(i, (long long)rows * experts)) experts_write(x, i / experts * d + i % experts, type, mask[i]);
}
static void plant_router(const Narrow &layer) {
  const Shape &s = layer.shape;
  std::mt19937 random(5);
  std::uniform_real_distribution<float> any(-0.1f, 0.1f);
  std::vector<float> hidden((size_t)s.router * s.d), output((size_t)s.experts() * s.router);
  for (size_t i = 0; i < hidden.size(); i++) {
    const int k = (int)(i / s.d), column = (int)(i % s.d);
    hidden[i] = k >= s.experts() ? any(random) : k == column;
  }
  for (int e = 0; e < s.experts(); e++) output[(size_t)e * s.router + e] = 1;
  Memory memory;
  float *from = memory.of<float>(std::max(hidden.size(), output.size()));
  CHECK(cudaMemcpy(from, hidden.data(), hidden.size() * 4, cudaMemcpyHostToDevice));
  pack(from, layer.weights.router_hidden, nullptr, s.router, s.d, layer.storage);
  CHECK(cudaDeviceSynchronize());
  CHECK(cudaMemcpy(from, output.data(), output.size() * 4, cudaMemcpyHostToDevice));
  pack(from, layer.weights.router_output, nullptr, s.experts(), s.router, layer.storage);
  CHECK(cudaDeviceSynchronize());
}

static void time_shape(const FusedLt &lt, int rows, int d, int experts, int size) {
  constexpr int SETS = 3, CALLS = 12;
  const Narrow layer({d, experts * size, size, d, false, 0, 64}, BFLOAT16, 1);
  const Shape &s = layer.shape;
  plant_router(layer);
  Rows io(SETS, rows, d, d, layer.type());
  Memory memory;
  void *hidden = memory.of<char>((size_t)rows * s.hidden * 2);
  unsigned char *selection = memory.of<unsigned char>((size_t)rows * experts);
  float *plain = memory.of<float>((size_t)rows * d);
  unsigned *counts = memory.of<unsigned>(KEYS + 2, 0), *scratch[SETS];
  for (unsigned *&one : scratch) one = memory.of<unsigned>(scratch_words(rows));
  auto batch = [&](int call, bool ordered) { return Batch{rows, io.x[call % SETS], nullptr, 0, 0.5f, ordered, scratch[call % SETS], counts}; };

  FusedLt::Plan first, second;
  if (lt.handle) {
    first = lt.plan(rows, s.hidden, d, true, 14, true, layer.weights.up_bias16), second = lt.plan(rows, d, s.hidden, false, 14, false, layer.weights.down_bias16);
    for (FusedLt::Plan *plan : {&first, &second}) {
      double least = 1e30;
      for (int i = 0; i < (int)plan->found.size(); i++) {
        const double us = graph_us(CALLS, [&](int call, cudaStream_t stream) {
          return (plan == &first ? lt.run(first, i, io.x[call % SETS], layer.weights.up, hidden, stream) : lt.run(second, i, hidden, layer.weights.down, io.out[call % SETS], stream)) == 0;
        });
        if (us > 0 && us < least) least = us, plan->best = i;
      }
    }
  }
  std::vector<std::function<bool(int, cudaStream_t)>> ways;
  for (bool ordered : {false, true}) ways.push_back([&, ordered](int call, cudaStream_t stream) { return layer.look(batch(call, ordered), stream), true; });
  // The experts alone find the bits and the lists that the launches above have left.
  for (bool ordered : {false, true}) ways.push_back([&, ordered](int call, cudaStream_t stream) { return layer.run(batch(call, ordered), io.out[call % SETS], stream), true; });
  for (bool ordered : {false, true}) ways.push_back([&, ordered](int call, cudaStream_t stream) { return layer.both(batch(call, ordered), io.out[call % SETS], stream), true; });
  if (lt.handle)
    ways.push_back([&](int call, cudaStream_t stream) {
      return lt.run(first, first.best, io.x[call % SETS], layer.weights.up, hidden, stream) == 0 && lt.run(second, second.best, hidden, layer.weights.down, io.out[call % SETS], stream) == 0;
    });

  std::mt19937 random(11);
  for (double density : {1.0, 0.5, 0.3})
    for (bool correlated : {false, true}) {
      if (density == 1 && correlated) continue;
      const std::vector<unsigned char> some = random_mask(20, experts, density, random);
      std::vector<unsigned char> mask;
      for (int set = SETS - 1; set >= 0; set--) {
        mask = random_mask(rows, experts, density, random);
        if (correlated)
          for (int r = 0; r < rows; r++) std::copy_n(some.begin() + random() % 20 * experts, experts, mask.begin() + (size_t)r * experts);
        CHECK(cudaMemcpy(selection, mask.data(), mask.size(), cudaMemcpyHostToDevice));
        plant<<<1024, 256>>>(io.x[set], selection, rows, d, experts, layer.type());
        CHECK(cudaDeviceSynchronize());
      }
      // What is timed is right, and ends: of the first set, whose mask was drawn last.
      unpack<<<1024, 256>>>(io.x[0], nullptr, plain, rows, d, d, layer.storage);
      for (bool ordered : {false, true}) {
        CHECK(cudaMemset(io.out[0], 0xff, (size_t)rows * d * 2));
        layer.both(batch(0, ordered), io.out[0], stream);
        settle(stream, "what is timed", patience);
        const double relative = relative_error(layer, plain, mask, rows, io.out[0]);
        const bool same = bytes_of_bits(fetched(scratch[0], rows), experts) == mask;
        checks++;
        if (relative <= 5e-3 && same) continue;
        failures++;
        printf("FAILED what is timed%s: relative error %.2e%s\n", ordered ? ", ordered" : "", relative, same ? "" : ", the router did not choose the mask");
      }
      const std::vector<double> us = in_turns(CALLS, ways);
      const double dense = lt.handle ? us[6] : 0;
      printf("%5d rows, d %3d, %2d x %3d, %3.0f %% %-11s", rows, d, experts, size, 100 * density, density == 1 ? "" : correlated ? "correlated" : "independent");
      printf("%8.1f %8.1f   %8.1f %8.1f   %8.1f %8.1f   %8.1f %8.3f %8.3f\n", us[0], us[1], us[2], us[3], us[4], us[5], dense, dense > 0 ? us[4] / dense : 0, dense > 0 ? us[5] / dense : 0);
    }
}

static void time_all() {
  FusedLt lt;
  if (!lt.open()) printf("cuBLASLt was not found: no ratios\n"), lt.handle = nullptr;
  printf("Microseconds, bf16, each not ordered and ordered: the rows' launch, the experts' alone, both; the dense layer, both beside it\n");
  printf("%-49s%8s %8s   %8s %8s   %8s %8s   %8s %8s %8s\n", "", "rows", "ordered", "experts", "ordered", "both", "ordered", "dense", "ratio", "ordered");
  time_shape(lt, 16640, 192, 6, 128);
  time_shape(lt, 65536, 256, 8, 128);
  time_shape(lt, 65536, 256, 32, 32);
  time_shape(lt, 16640, 192, 24, 32);
}

int main(int count, char **arguments) {
  const std::string what = count > 1 ? arguments[1] : "";
  const bool small = count > 2 && std::string(arguments[2]) == "small";
  cudaDeviceProp properties;
  CHECK(cudaGetDeviceProperties(&properties, 0));
  multiprocessors = properties.multiProcessorCount;
  printf("%s, %d multiprocessors\n", properties.name, multiprocessors);
  setvbuf(stdout, nullptr, _IOLBF, 0);
  // What waits for a graph or a copy does so without settle(). Under compute-sanitizer all takes longer.
  alarm(small ? 3600 : 580);
  if (small) patience = 300;
  CHECK(cudaStreamCreate(&stream));
  if (what != "time") check_all(small);
  if (what != "check") time_all();
  if (what != "check") printf("%d of %d checks failed\n", failures, checks);
  return failures > 0;
}
