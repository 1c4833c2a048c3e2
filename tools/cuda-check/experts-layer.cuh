// What the checks of the expert op's paths share: weights in every storage, a reference in float64, the dense layer
// through cuBLASLt, times of graphs.
#pragma once
#include <cuda.h>
#include <cuda_runtime.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "../../kernels/cuda/experts.cuh"
#include "../../kernels/cuda/experts-pack.cu"

#define CHECK(call)                                                                   \
  do {                                                                                \
    cudaError_t error = (call);                                                       \
    if (error != cudaSuccess) {                                                       \
      printf("%s:%d %s: %s\n", __FILE__, __LINE__, #call, cudaGetErrorString(error)); \
      exit(2);                                                                        \
    }                                                                                 \
  } while (0)

#include "cublaslt.cuh"

static int multiprocessors;
template <typename T> static T *device(size_t count) {
  void *p;
  CHECK(cudaMalloc(&p, count * sizeof(T) + 256));
  CHECK(cudaMemset(p, 0xff, count * sizeof(T) + 256));
  return (T *)p;
}

// ---- Inputs ----------------------------------------------------------------------------------------------------------

__global__ void fill(float *x, size_t n, unsigned seed, float scale) {
  for (size_t i = blockIdx.x * (size_t)blockDim.x + threadIdx.x; i < n; i += (size_t)gridDim.x * blockDim.x) {
    unsigned long long h = (i + 1) * 0x9e3779b97f4a7c15ull + seed * 0xd1b54a32d192ed03ull;
    h ^= h >> 32, h *= 0xd6e8feb86659fd93ull, h ^= h >> 32, h *= 0xd6e8feb86659fd93ull, h ^= h >> 32;
    x[i] = ((float)(h >> 40) / (float)(1 << 23) - 1.0f) * scale;
  }
}
__global__ void convert(const float *from, void *to, size_t n, int type) {
  for (size_t i = blockIdx.x * (size_t)blockDim.x + threadIdx.x; i < n; i += (size_t)gridDim.x * blockDim.x) experts_write(to, i, type, from[i]);
}
// What a packed matrix stands for.
__global__ void unpack(const void *from, const float *scales, float *to, size_t rows, int width, int pitch, int storage) {
  for (size_t i = blockIdx.x * (size_t)blockDim.x + threadIdx.x; i < rows * width; i += (size_t)gridDim.x * blockDim.x) {
    const size_t r = i / width, at = r * pitch + i % width;
    float v;
    if (storage == HALF) v = __half2float(((const __half *)from)[at]);
    else if (storage == BFLOAT16) v = __bfloat162float(((const bf16 *)from)[at]);
    else if (storage == INT8) v = ((const signed char *)from)[at] * scales[r];
    else v = ((const float *)from)[at];
    to[i] = v;
  }
}

struct Shape {
  int d, hidden, size, d_out;
  bool gated;
  int activation = 1, router = 0;  // width of the router, 0 for none
  int experts() const { return hidden / size; }
};

static int elements(int storage) { return storage == INT8 ? 16 : storage >= TF32 ? 4 : 8; }
static int pitch_of(int width, int storage) { return (width + elements(storage) - 1) / elements(storage) * elements(storage); }
static size_t bytes_of(size_t rows, int width, int storage) { return rows * pitch_of(width, storage) * 16 / elements(storage); }

// One layer's weights, packed, and on demand what they stand for in float32.
struct Weights {
  void *up = nullptr, *gate = nullptr, *down = nullptr, *router_hidden = nullptr, *router_output = nullptr;
  float *scales = nullptr, *up_bias, *gate_bias = nullptr, *down_bias;
  void *up_bias16, *down_bias16;  // cuBLASLt's
  float *plain_up = nullptr, *plain_gate = nullptr, *plain_down = nullptr, *plain_router_hidden = nullptr, *plain_router_output = nullptr;
  size_t bytes = 0;
};

static void pack(const float *from, void *to, float *scales, size_t rows, int width, int storage) {
  const int pitch = pitch_of(width, storage);
  if (storage == HALF) experts_pack_f16<<<1024, 256>>>(from, to, scales, rows, width, pitch);
  else if (storage == BFLOAT16) experts_pack_bf16<<<1024, 256>>>(from, to, scales, rows, width, pitch);
  else if (storage == INT8) experts_pack_int8<<<1024, 256>>>(from, to, scales, rows, width, pitch);
  else experts_pack_f32<<<1024, 256>>>(from, to, scales, rows, width, pitch);
  CHECK(cudaGetLastError());
}

static Weights make_weights(const Shape &s, int storage, unsigned seed, bool plain, bool biases = true) {
  Weights w;
  const size_t most = (size_t)std::max({s.hidden, s.router, s.experts()}) * std::max({s.d, s.d_out, s.router});
  float *scratch = device<float>(most);
  w.scales = device<float>(3 * (size_t)s.hidden);
  auto matrix = [&](size_t rows, int width, int kind, float scale, float *scales, float **as_plain) {
    fill<<<1024, 256>>>(scratch, rows * width, seed++, scale);
    char *packed = device<char>(bytes_of(rows, width, kind));
    pack(scratch, packed, scales, rows, width, kind);
    w.bytes += bytes_of(rows, width, kind);
    if (plain) {
      *as_plain = device<float>(rows * width);
      unpack<<<1024, 256>>>(packed, scales, *as_plain, rows, width, pitch_of(width, kind), kind);
    }
    CHECK(cudaDeviceSynchronize());
    return (void *)packed;
  };
  const float scale = 2.5f / std::sqrt((float)s.d);
  w.up = matrix(s.hidden, s.d, storage, scale, w.scales, &w.plain_up);
  if (s.gated) w.gate = matrix(s.hidden, s.d, storage, scale, w.scales + s.hidden, &w.plain_gate);
  w.down = matrix(s.hidden, s.d_out, storage, 1.0f / std::sqrt((float)s.hidden), w.scales + 2 * (size_t)s.hidden, &w.plain_down);
  if (s.router) {
    const int kind = storage >= INT8 ? HALF : storage;
    w.router_hidden = matrix(s.router, s.d, kind, scale, nullptr, &w.plain_router_hidden);
    w.router_output = matrix(s.experts(), s.router, kind, 1, nullptr, &w.plain_router_output);
  }
  w.up_bias = device<float>(s.hidden), w.down_bias = device<float>(s.d_out);
  fill<<<64, 256>>>(w.up_bias, s.hidden, seed++, 0.5f), fill<<<64, 256>>>(w.down_bias, s.d_out, seed++, 0.5f);
  w.up_bias16 = device<char>(s.hidden * 2), w.down_bias16 = device<char>(s.d_out * 2);
  convert<<<64, 256>>>(w.up_bias, w.up_bias16, s.hidden, storage == BFLOAT16 ? 1 : 2);
  convert<<<64, 256>>>(w.down_bias, w.down_bias16, s.d_out, storage == BFLOAT16 ? 1 : 2);
  if (s.gated) {
    w.gate_bias = device<float>(s.hidden);
    fill<<<64, 256>>>(w.gate_bias, s.hidden, seed++, 0.5f);
  }
  CHECK(cudaDeviceSynchronize());
  CHECK(cudaFree(scratch));
  if (!biases) w.up_bias = w.gate_bias = w.down_bias = nullptr;
  return w;
}

// round(density · n) experts a row, drawn without replacement.
static std::vector<unsigned char> random_mask(int rows, int n, double density, std::mt19937 &random) {
  std::vector<unsigned char> mask((size_t)rows * n);
  const int k = std::max(1, (int)std::lround(density * n));
  for (int r = 0; r < rows; r++) {
    std::vector<int> all(n);
    for (int i = 0; i < n; i++) all[i] = i;
    std::shuffle(all.begin(), all.end(), random);
    for (int i = 0; i < k; i++) mask[(size_t)r * n + all[i]] = 1;
  }
  return mask;
}

// ---- The reference, in float64 -----------------------------------------------------------------------------------------

__device__ double reference_activate(double x, int kind) {
  if (kind == 0) return x > 0 ? x : 0;
  if (kind == 1) return 0.5 * x * (1 + erf(x / sqrt(2.0)));
  if (kind == 2) return 0.5 * x * (1 + tanh(0.7978845608028654 * (x + 0.044715 * x * x * x)));
  return x / (1 + exp(-x));
}
__global__ void reference_hidden(const float *x, Weights w, Shape s, int rows, const unsigned char *mask, double *hidden) {
  const size_t warp = (blockIdx.x * (size_t)blockDim.x + threadIdx.x) / 32, lane = threadIdx.x % 32;
  if (warp >= (size_t)rows * s.hidden) return;
  const int r = warp / s.hidden, j = warp % s.hidden;
  double u = 0, v = 0;
  for (int k = lane; k < s.d; k += 32) {
    u += (double)x[(size_t)r * s.d + k] * w.plain_up[(size_t)j * s.d + k];
    if (s.gated) v += (double)x[(size_t)r * s.d + k] * w.plain_gate[(size_t)j * s.d + k];
  }
  u = warp_sum(u), v = warp_sum(v);
  if (w.up_bias) u += w.up_bias[j];
  if (s.gated && w.gate_bias) v += w.gate_bias[j];
  const double h = s.gated ? reference_activate(v, s.activation) * u : reference_activate(u, s.activation);
  if (lane == 0) hidden[warp] = mask[(size_t)r * (s.hidden / s.size) + j / s.size] ? h : 0;
}
__global__ void reference_out(const double *hidden, Weights w, Shape s, int rows, double *out) {
  const size_t i = blockIdx.x * (size_t)blockDim.x + threadIdx.x;
  if (i >= (size_t)rows * s.d_out) return;
  double sum = w.down_bias ? w.down_bias[i % s.d_out] : 0;
  for (int j = 0; j < s.hidden; j++) sum += hidden[i / s.d_out * s.hidden + j] * w.plain_down[(size_t)j * s.d_out + i % s.d_out];
  out[i] = sum;
}

static std::vector<float> host(const float *from, size_t n) {
  std::vector<float> v(n);
  CHECK(cudaMemcpy(v.data(), from, n * 4, cudaMemcpyDeviceToHost));
  return v;
}

// What three runs of a path gave.
struct Outcome {
  cudaError_t error = cudaSuccess;
  bool repeatable = true, outside = false;  // equal bits; wrote past the end
  double relative = 0, bar = 0;             // the first run's error, and the most that it may be
  bool fails() const { return error != cudaSuccess || !repeatable || outside || !(relative <= bar); }
};

// `run` writes as many numbers of out_type as `right` has.
static Outcome judge(const std::vector<double> &right, int storage, int out_type, const std::function<void(char *)> &run) {
  Outcome outcome;
  outcome.bar = storage == BFLOAT16 || out_type == 1 ? 5e-3 : storage == FLOAT32 ? 1e-5 : 1e-3;
  const size_t bytes = right.size() * (out_type ? 2 : 4);
  char *out = device<char>(bytes + 256);
  std::vector<char> first, again(bytes), tail(256);
  for (int time = 0; time < 3; time++) {
    CHECK(cudaMemset(out, 0xff, bytes + 256));
    run(out);
    outcome.error = cudaDeviceSynchronize();
    if (outcome.error != cudaSuccess) return outcome;
    CHECK(cudaMemcpy(again.data(), out, bytes, cudaMemcpyDeviceToHost));
    CHECK(cudaMemcpy(tail.data(), out + bytes, 256, cudaMemcpyDeviceToHost));
    for (char c : tail) outcome.outside |= c != (char)0xff;
    if (first.empty()) first = again;
    outcome.repeatable &= first == again;
  }
  double d = 0, r = 0;
  for (size_t i = 0; i < right.size(); i++) {
    double got;
    if (out_type == 0) got = ((float *)first.data())[i];
    else if (out_type == 1) got = __bfloat162float(((bf16 *)first.data())[i]);
    else got = __half2float(((__half *)first.data())[i]);
    d += (got - right[i]) * (got - right[i]), r += right[i] * right[i];
  }
  outcome.relative = std::sqrt(d / r);
  CHECK(cudaFree(out));
  return outcome;
}

static int failures = 0, checks = 0;
static const char *const NAMES[] = {"fp16", "bf16", "tf32", "float32", "int8"};

// ---- The dense layer -------------------------------------------------------------------------------------------------

// out [m, n] = x [m, k] · w + bias, w being [n, k] (the up projection) or [k, n] (down), fp16 or bf16 throughout.
struct Dense {
  const CublasLt &lt;
  int m, n, k, type, epilogue;
  bool transposed;
  std::vector<Heuristic> found;
  int which = 0;
  void *left, *right, *result;

  Dense(const CublasLt &lt, int m, int n, int k, bool transposed, int epilogue, int storage) : lt(lt), m(m), n(n), k(k), type(storage == BFLOAT16 ? 14 : 2), epilogue(epilogue), transposed(transposed) {
    auto must = [](int status, const char *what) {
      if (status) printf("%s failed: %d\n", what, status), exit(2);
    };
    must(lt.layout_create(&left, type, transposed ? k : n, transposed ? n : k, transposed ? k : n), "layout");
    must(lt.layout_create(&right, type, k, m, k), "layout");
    must(lt.layout_create(&result, type, n, m, n), "layout");
    void *preference;
    must(lt.preference_create(&preference), "preference");
    const size_t bytes = CublasLt::WORKSPACE;
    must(lt.preference_set(preference, 1, &bytes, 8), "workspace");
    found.resize(16);
    int count = 0;
    void *desc = descriptor(nullptr);
    must(lt.heuristic(lt.handle, desc, left, right, result, result, preference, 16, found.data(), &count), "heuristic");
    found.resize(count);
  }
  // Each weight set has its own bias, and the bias is part of the descriptor.
  void *descriptor(const void *bias) const {
    void *desc;
    if (lt.desc_create(&desc, 68, 0)) exit(2);
    const int first = transposed, second = 0;
    lt.desc_set(desc, 3, &first, 4), lt.desc_set(desc, 4, &second, 4);
    if (epilogue != 1) {
      lt.desc_set(desc, 7, &epilogue, 4);
      if (bias) lt.desc_set(desc, 8, &bias, 8);
    }
    return desc;
  }
  bool run(void *desc, const void *x, const void *w, void *out, cudaStream_t stream) const {
    const float one = 1, zero = 0;
    return lt.matmul(lt.handle, desc, &one, w, left, x, right, &zero, out, result, out, result, found[which].algo, lt.workspace, CublasLt::WORKSPACE, stream) == 0;
  }
};

// act(gate) · up for [rows, hidden] of each.
__global__ void glu(const void *up, const void *gate, void *out, int n, int type, int activation) {
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) experts_write(out, i, type, experts_activate(experts_read(gate, i, type), activation) * experts_read(up, i, type));
}

// ---- Times -------------------------------------------------------------------------------------------------------------

// Median microseconds of a layer over replays of a graph of `layers` of them; negative where a layer cannot be enqueued.
static double graph_us(int layers, const std::function<bool(int, cudaStream_t)> &layer) {
  static cudaStream_t stream = nullptr;
  if (!stream) CHECK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  for (int i = 0; i < std::min(layers, 2); i++)
    if (!layer(i, stream)) return -1;
  CHECK(cudaStreamSynchronize(stream));
  cudaGraph_t graph;
  cudaGraphExec_t exec;
  CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeRelaxed));
  bool fine = true;
  for (int i = 0; i < layers && fine; i++) fine = layer(i, stream);
  CHECK(cudaStreamEndCapture(stream, &graph));
  if (!fine) return -1;
  CHECK(cudaGraphInstantiate(&exec, graph, 0));
  cudaEvent_t start, end;
  CHECK(cudaEventCreate(&start));
  CHECK(cudaEventCreate(&end));
  for (int i = 0; i < 3; i++) CHECK(cudaGraphLaunch(exec, stream));
  std::vector<double> times;
  for (int i = 0; i < 15; i++) {
    CHECK(cudaEventRecord(start, stream));
    CHECK(cudaGraphLaunch(exec, stream));
    CHECK(cudaEventRecord(end, stream));
    CHECK(cudaEventSynchronize(end));
    float ms;
    CHECK(cudaEventElapsedTime(&ms, start, end));
    times.push_back(ms * 1000 / layers);
  }
  std::sort(times.begin(), times.end());
  CHECK(cudaGraphExecDestroy(exec));
  CHECK(cudaGraphDestroy(graph));
  CHECK(cudaEventDestroy(start));
  CHECK(cudaEventDestroy(end));
  return times[times.size() / 2];
}

struct Sets {
  Shape shape;
  int storage, layers;
  std::vector<Weights> weights;
  Sets(const Shape &s, int storage) : shape(s), storage(storage) {
    weights.push_back(make_weights(s, storage, 1, false));
    const int count = (int)std::max<size_t>(3, (260u << 20) / weights[0].bytes + 1);
    for (int i = 1; i < count; i++) weights.push_back(make_weights(s, storage, 1 + 40 * i, false));
    layers = std::max(24, count);
  }
  ~Sets() {
    for (const Weights &w : weights)
      for (void *p : {w.up, w.gate, w.down, (void *)w.scales, w.router_hidden, w.router_output, (void *)w.up_bias, (void *)w.down_bias})
        if (p) cudaFree(p);
  }
  const Weights &of(int layer) const { return weights[layer % weights.size()]; }
};

struct Rows {
  std::vector<void *> x, out;
  Rows(int layers, int rows, int width, int out_width, int type) {
    float *plain = device<float>((size_t)rows * width);
    for (int i = 0; i < layers; i++) {
      fill<<<64, 256>>>(plain, (size_t)rows * width, 900 + i, 1.7f);
      x.push_back(device<char>((size_t)rows * width * 2)), out.push_back(device<char>((size_t)rows * out_width * 2));
      convert<<<64, 256>>>(plain, x.back(), (size_t)rows * width, type);
    }
    CHECK(cudaDeviceSynchronize());
    CHECK(cudaFree(plain));
  }
  ~Rows() {
    for (void *p : x) cudaFree(p);
    for (void *p : out) cudaFree(p);
  }
};

static double dense_us(const CublasLt &lt, const Sets &sets, int rows) {
  const Shape &s = sets.shape;
  const int type = sets.storage == BFLOAT16 ? 1 : 2;
  Rows io(sets.layers, rows, s.d, s.d_out, type);
  void *h = device<char>((size_t)rows * s.hidden * 2), *h2 = device<char>((size_t)rows * s.hidden * 2);
  // gelu and bias after up, bias after down; a gated FFN has its own kernel between.
  Dense up(lt, rows, s.hidden, s.d, true, s.gated ? 4 : 36, sets.storage), down(lt, rows, s.d_out, s.hidden, false, 4, sets.storage);
  std::vector<void *> up_desc, down_desc;
  for (int i = 0; i < sets.layers; i++) up_desc.push_back(up.descriptor(sets.of(i).up_bias16)), down_desc.push_back(down.descriptor(sets.of(i).down_bias16));
  auto choose = [&](Dense &dense, const std::function<bool(int, cudaStream_t)> &run) {
    double best = 1e30;
    int winner = 0;
    for (int i = 0; i < (int)dense.found.size(); i++) {
      dense.which = i;
      const double us = graph_us(sets.layers, run);
      if (us > 0 && us < best) best = us, winner = i;
    }
    dense.which = winner;
    return best;
  };
  const double first = choose(up, [&](int i, cudaStream_t stream) { return up.run(up_desc[i], io.x[i], sets.of(i).up, h, stream); });
  const double second = choose(down, [&](int i, cudaStream_t stream) { return down.run(down_desc[i], h, sets.of(i).down, io.out[i], stream); });
  const double us = graph_us(sets.layers, [&](int i, cudaStream_t stream) {
    bool fine = up.run(up_desc[i], io.x[i], sets.of(i).up, h, stream);
    if (s.gated) {
      fine &= up.run(up_desc[i], io.x[i], sets.of(i).gate, h2, stream);
      glu<<<std::min(4 * multiprocessors, (rows * s.hidden + 255) / 256), 256, 0, stream>>>(h, h2, h, rows * s.hidden, type, s.activation);
    }
    return down.run(down_desc[i], h, sets.of(i).down, io.out[i], stream) && fine;
  });
  printf("  dense: up %.1f us, down %.1f us alone; layer %.1f us\n", first, second, us);
  CHECK(cudaFree(h));
  CHECK(cudaFree(h2));
  return us;
}

// A gated layer's dense form with up and gate as one product.
static double dense_joined_us(const CublasLt &lt, const Sets &sets, int rows) {
  const Shape &s = sets.shape;
  const int type = sets.storage == BFLOAT16 ? 1 : 2;
  Rows io(sets.layers, rows, s.d, s.d_out, type);
  char *h = device<char>((size_t)rows * s.hidden * 4);
  const size_t bytes = bytes_of(s.hidden, s.d, sets.storage);
  std::vector<char *> joined;
  for (const Weights &w : sets.weights) {
    joined.push_back(device<char>(2 * bytes));
    CHECK(cudaMemcpy(joined.back(), w.up, bytes, cudaMemcpyDeviceToDevice));
    CHECK(cudaMemcpy(joined.back() + bytes, w.gate, bytes, cudaMemcpyDeviceToDevice));
  }
  Dense up(lt, rows, 2 * s.hidden, s.d, true, 1, sets.storage), down(lt, rows, s.d_out, s.hidden, false, 4, sets.storage);
  void *up_desc = up.descriptor(nullptr);
  std::vector<void *> down_desc;
  for (int i = 0; i < sets.layers; i++) down_desc.push_back(down.descriptor(sets.of(i).down_bias16));
  double best = 1e30;
  int winner = 0;
  for (int i = 0; i < (int)up.found.size(); i++) {
    up.which = i;
    const double us = graph_us(sets.layers, [&](int l, cudaStream_t stream) { return up.run(up_desc, io.x[l], joined[l % joined.size()], h, stream); });
    if (us > 0 && us < best) best = us, winner = i;
  }
  up.which = winner, best = 1e30, winner = 0;
  for (int i = 0; i < (int)down.found.size(); i++) {
    down.which = i;
    const double us = graph_us(sets.layers, [&](int l, cudaStream_t stream) { return down.run(down_desc[l], h, sets.of(l).down, io.out[l], stream); });
    if (us > 0 && us < best) best = us, winner = i;
  }
  down.which = winner;
  const double us = graph_us(sets.layers, [&](int i, cudaStream_t stream) {
    // Of each row the first half is up, the second gate; for a time the places are what matters.
    bool fine = up.run(up_desc, io.x[i], joined[i % joined.size()], h, stream);
    glu<<<std::min(4 * multiprocessors, (rows * s.hidden + 255) / 256), 256, 0, stream>>>(h, h + (size_t)rows * s.hidden * 2, h, rows * s.hidden, type, s.activation);
    return down.run(down_desc[i], h, sets.of(i).down, io.out[i], stream) && fine;
  });
  printf("  dense with up and gate as one product: layer %.1f us\n", us);
  for (char *p : joined) CHECK(cudaFree(p));
  CHECK(cudaFree(h));
  return us;
}

static int missed = 0;
