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
#include <cuda.h>
#include <cuda_runtime.h>
#include <dlfcn.h>
#include <glob.h>
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

#include "../../kernels/cuda/experts-few.cu"
#include "../../kernels/cuda/experts-pack.cu"

#define CHECK(call)                                                                   \
  do {                                                                                \
    cudaError_t error = (call);                                                       \
    if (error != cudaSuccess) {                                                       \
      printf("%s:%d %s: %s\n", __FILE__, __LINE__, #call, cudaGetErrorString(error)); \
      exit(2);                                                                        \
    }                                                                                 \
  } while (0)

// Other block sizes, to compare.
#define EXPERTS_FEW_256(name, STORAGE)                                                                                                  \
  KERNEL __launch_bounds__(256, 2) experts_few_plain_256_##name(const experts_few_args a) { experts_few<STORAGE, false, 256>(a); } \
  KERNEL __launch_bounds__(256, 2) experts_few_gated_256_##name(const experts_few_args a) { experts_few<STORAGE, true, 256>(a); }
EXPERTS_FEW_256(f16, HALF)
EXPERTS_FEW_256(bf16, BFLOAT16)

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

// The router's experts by its own scores, its hidden layer rounded as the kernel does.
// `margin` is the least relative distance between the last that runs and the first that does not.
static std::vector<unsigned char> reference_route(const Shape &s, const Weights &w, const float *x, int rows, int storage, float share, double &margin) {
  margin = 1;
  const std::vector<float> xs = host(x, (size_t)rows * s.d), wh = host(w.plain_router_hidden, (size_t)s.router * s.d), wo = host(w.plain_router_output, (size_t)s.experts() * s.router);
  const int n = s.experts(), k = (int)std::max(1.0f, std::round(share * n));
  std::vector<unsigned char> mask((size_t)rows * n);
  for (int r = 0; r < rows; r++) {
    std::vector<double> h(s.router), norm(n);
    for (int j = 0; j < s.router; j++) {
      double sum = 0;
      for (int i = 0; i < s.d; i++) sum += (double)xs[(size_t)r * s.d + i] * wh[(size_t)j * s.d + i];
      const float v = (float)std::max(0.0, sum);
      h[j] = storage == BFLOAT16 ? (double)__bfloat162float(__float2bfloat16(v)) : storage == TF32 || storage == FLOAT32 ? (double)v : (double)__half2float(__float2half(v));
    }
    for (int e = 0; e < n; e++) {
      double sum = 0;
      for (int j = 0; j < s.router; j++) sum += h[j] * wo[(size_t)e * s.router + j];
      norm[e] = std::fabs(sum);
    }
    for (int e = 0; e < n; e++) {
      int place = 0;
      for (int o = 0; o < n; o++) place += norm[o] > norm[e] || (norm[o] == norm[e] && o < e);
      mask[(size_t)r * n + e] = place < k;
    }
    std::vector<double> sorted = norm;
    std::sort(sorted.rbegin(), sorted.rend());
    if (k < n) margin = std::min(margin, 1 - sorted[k] / sorted[k - 1]);
  }
  return mask;
}

static int failures = 0, checks = 0;
static const char *const NAMES[] = {"fp16", "bf16", "tf32", "float32", "int8"};

static void check_one(const Shape &s, int storage, int rows, double density, Variant v, bool biases, int x_type, int out_type) {
  static unsigned seed = 1;
  static std::mt19937 random(5);
  seed += 40;
  const Weights w = make_weights(s, storage, seed, true, biases);
  float *x = device<float>((size_t)rows * s.d), *x32 = device<float>((size_t)rows * s.d);
  char *x16 = device<char>((size_t)rows * s.d * 4);
  // The reference reads what the kernel reads.
  const int rounding = x_type ? x_type : storage == BFLOAT16 ? 1 : storage == TF32 || storage == FLOAT32 ? 0 : 2;
  std::vector<unsigned char> mask = random_mask(rows, s.experts(), density, random);
  for (int turn = 0; turn < 300; turn++) {
    fill<<<64, 256>>>(x, (size_t)rows * s.d, seed + 30 + 1000 * turn, 1.7f);
    convert<<<64, 256>>>(x, x16, (size_t)rows * s.d, rounding);
    unpack<<<64, 256>>>(x16, nullptr, x32, rows, s.d, s.d, rounding == 1 ? (int)BFLOAT16 : rounding == 2 ? (int)HALF : (int)FLOAT32);
    CHECK(cudaDeviceSynchronize());
    if (!s.router) break;
    // Another rounding of the router's sums must not change the selection.
    double margin;
    mask = reference_route(s, w, x32, rows, storage, density, margin);
    if (margin > 1.5e-3) break;
  }
  unsigned char *selection = device<unsigned char>(mask.size());
  CHECK(cudaMemcpy(selection, mask.data(), mask.size(), cudaMemcpyHostToDevice));
  double *hidden = device<double>((size_t)rows * s.hidden), *expected = device<double>((size_t)rows * s.d_out);
  reference_hidden<<<((size_t)rows * s.hidden + 7) / 8, 256>>>(x32, w, s, rows, selection, hidden);
  reference_out<<<((size_t)rows * s.d_out + 255) / 256, 256>>>(hidden, w, s, rows, expected);
  std::vector<double> right((size_t)rows * s.d_out);
  CHECK(cudaMemcpy(right.data(), expected, right.size() * 8, cudaMemcpyDeviceToHost));
  Few few(s, storage, rows, x_type, out_type, v);
  const size_t out_bytes = right.size() * (out_type ? 2 : 4);
  char *out = device<char>(out_bytes + 256);
  std::vector<char> first, again(out_bytes), tail(256);
  bool repeatable = true, outside = false;
  cudaError_t error = cudaSuccess;
  for (int time = 0; time < 3 && error == cudaSuccess; time++) {
    CHECK(cudaMemset(out, 0xff, out_bytes + 256));
    few.run(w, x_type ? (const void *)x16 : x, s.router ? nullptr : selection, density, out, 0);
    error = cudaDeviceSynchronize();
    if (error != cudaSuccess) break;
    CHECK(cudaMemcpy(again.data(), out, out_bytes, cudaMemcpyDeviceToHost));
    CHECK(cudaMemcpy(tail.data(), out + out_bytes, 256, cudaMemcpyDeviceToHost));
    for (char c : tail) outside |= c != (char)0xff;
    if (first.empty()) first = again;
    repeatable &= first == again;
  }
  double d = 0, r = 0;
  for (size_t i = 0; i < right.size() && error == cudaSuccess; i++) {
    double got;
    if (out_type == 0) got = ((float *)first.data())[i];
    else if (out_type == 1) got = __bfloat162float(((bf16 *)first.data())[i]);
    else got = __half2float(((__half *)first.data())[i]);
    d += (got - right[i]) * (got - right[i]), r += right[i] * right[i];
  }
  const double relative = std::sqrt(d / r);
  const double bar = storage == BFLOAT16 || out_type == 1 ? 5e-3 : storage == FLOAT32 ? 1e-5 : 1e-3;
  checks++;
  if (error != cudaSuccess || !repeatable || outside || !(relative <= bar)) {
    failures++;
    printf("FAILED %s %s d %d hidden %d e %d d_out %d%s act %d rows %d density %.2f router %d x %d out %d bias %d: %s %.2e, bar %.0e%s%s\n", v.name, NAMES[storage], s.d, s.hidden, s.size, s.d_out,
           s.gated ? " gated" : "", s.activation, rows, density, s.router, x_type, out_type, biases, error == cudaSuccess ? "error" : cudaGetErrorString(error), relative, bar, repeatable ? "" : ", not repeatable",
           outside ? ", wrote past the end" : "");
    if (error != cudaSuccess) exit(1);
  }
  for (void *p : {(void *)x, (void *)x32, (void *)x16, (void *)selection, (void *)hidden, (void *)expected, (void *)out, w.up, w.gate, w.down, (void *)w.scales, (void *)w.plain_up, (void *)w.plain_gate, (void *)w.plain_down, w.router_hidden, w.router_output})
    if (p) CHECK(cudaFree(p));
}

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

// ---- cuBLASLt, by the same numbers that the binding for Node uses ------------------------------------------------------

struct Heuristic {
  unsigned long long algo[8];
  size_t workspace;
  int state;
  float waves;
  int reserved[4];
};
struct CublasLt {
  void *library = nullptr, *handle = nullptr, *workspace = nullptr;
  int (*create)(void **);
  int (*desc_create)(void **, int, int);
  int (*desc_set)(void *, int, const void *, size_t);
  int (*layout_create)(void **, int, unsigned long long, unsigned long long, long long);
  int (*preference_create)(void **);
  int (*preference_set)(void *, int, const void *, size_t);
  int (*heuristic)(void *, void *, void *, void *, void *, void *, void *, int, Heuristic *, int *);
  int (*matmul)(void *, void *, const void *, const void *, void *, const void *, void *, const void *, const void *, void *, void *, void *, const unsigned long long *, void *, size_t, void *);
  static constexpr size_t WORKSPACE = 64u << 20;

  bool open() {
    std::vector<std::string> names;
    if (const char *named = getenv("D2DMOE_LIBCUBLASLT")) names.push_back(named);
    for (const char *name : {"libcublasLt.so.13", "libcublasLt.so.12"}) names.push_back(name);
    for (const char *pattern : {"/usr/local/cuda*/lib64/libcublasLt.so.1[23]", "/opt/*/.venv/lib/python3*/site-packages/nvidia/*/lib/libcublasLt.so.1[23]",
                                "/usr/lib/python3*/site-packages/nvidia/*/lib/libcublasLt.so.1[23]", "/usr/local/lib/python3*/*-packages/nvidia/*/lib/libcublasLt.so.1[23]"}) {
      glob_t found;
      if (glob(pattern, 0, nullptr, &found) == 0)
        for (size_t i = 0; i < found.gl_pathc; i++) names.push_back(found.gl_pathv[i]);
      globfree(&found);
    }
    for (const std::string &name : names)
      if ((library = dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL))) {
        printf("cuBLASLt: %s\n", name.c_str());
        break;
      }
    if (!library) return false;
    auto get = [&](const char *name) { return dlsym(library, name); };
    create = (decltype(create))get("cublasLtCreate");
    desc_create = (decltype(desc_create))get("cublasLtMatmulDescCreate");
    desc_set = (decltype(desc_set))get("cublasLtMatmulDescSetAttribute");
    layout_create = (decltype(layout_create))get("cublasLtMatrixLayoutCreate");
    preference_create = (decltype(preference_create))get("cublasLtMatmulPreferenceCreate");
    preference_set = (decltype(preference_set))get("cublasLtMatmulPreferenceSetAttribute");
    heuristic = (decltype(heuristic))get("cublasLtMatmulAlgoGetHeuristic");
    matmul = (decltype(matmul))get("cublasLtMatmul");
    CHECK(cudaMalloc(&workspace, WORKSPACE));
    return create(&handle) == 0;
  }
};

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
