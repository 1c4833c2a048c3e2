// Checks the expert op for many rows (kernels/cuda/experts-many and its kin) on a Hopper GPU against float64, then times
// it beside the dense layer through cuBLASLt. Needs no more than nvcc and the driver:
//
//   nvcc -O3 -std=c++17 -gencode arch=compute_90a,code=sm_90a -o /tmp/experts tools/cuda-check/experts.cu -ldl
//   /tmp/experts             both; /tmp/experts check or /tmp/experts time for one
//
// Each case goes through all variants (units in pairs or alone; sums by vector reductions or by a second pass; masked
// dense), so that one run tells which to keep. The last lines hold the best of each case to its bar. The exit code is 1
// if a check failed. D2DMOE_LIBCUBLASLT names cuBLASLt's file where the dynamic linker does not find it.
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

#include "../../kernels/cuda/experts-many-interleaved.sm90a.cu"
#include "../../kernels/cuda/experts-many.sm90a.cu"
#include "../../kernels/cuda/experts-masked.sm90a.cu"
#include "../../kernels/cuda/experts-segments.sm90a.cu"

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
// k of n experts for each row, without replacement.
__global__ void draw_masks(unsigned *mask, int rows, int words, int n, int k, unsigned seed) {
  for (int row = blockIdx.x * blockDim.x + threadIdx.x; row < rows; row += gridDim.x * blockDim.x) {
    unsigned *m = mask + (size_t)row * words;
    for (int w = 0; w < words; w++) m[w] = 0;
    int left = k;
    for (int i = 0; i < n; i++) {
      const unsigned r = (unsigned)(mix(((size_t)row * n + i + 1) * 0x9e3779b97f4a7c15ull + seed * 0xd1b54a32d192ed03ull) >> 33) % (unsigned)(n - i);
      if ((int)r < left) m[i / 32] |= 1u << i % 32, left--;
    }
  }
}

// The same as the op takes it, a byte an expert.
__global__ void draw_selection(unsigned char *selection, const unsigned *mask, int rows, int words, int n) {
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < rows * n; i += gridDim.x * blockDim.x)
    selection[i] = mask[(size_t)(i / n) * words + i % n / 32] >> i % n % 32 & 1;
}

// Rows `sample`, hidden then out, in float64. hidden [samples, experts · size].
template <typename T>
__global__ void reference_hidden(const T *x, const T *up, const T *gate, const float *up_bias, const float *gate_bias, const unsigned *mask, const int *sample,
                                 double *hidden, int d, int experts, int size, int words, int activation) {
  const int h = experts * size, row = sample[blockIdx.x];
  for (int j = threadIdx.x; j < h; j += blockDim.x) {
    double v = 0;
    if (mask[(size_t)row * words + j / size / 32] >> (j / size % 32) & 1) {
      double u = up_bias ? up_bias[j] : 0.0, w = gate_bias ? gate_bias[j] : 0.0;
      for (int i = 0; i < d; i++) {
        u += (double)to_float(x[(size_t)row * d + i]) * (double)to_float(up[(size_t)j * d + i]);
        if (gate) w += (double)to_float(x[(size_t)row * d + i]) * (double)to_float(gate[(size_t)j * d + i]);
      }
      const double z = gate ? w : u;
      double a = z > 0 ? z : 0;
      if (activation == 1) a = 0.5 * z * (1 + erf(z * 0.70710678118654752));
      if (activation == 2) a = 0.5 * z * (1 + tanh(0.79788456080286536 * (z + 0.044715 * z * z * z)));
      if (activation == 3) a = z / (1 + exp(-z));
      v = gate ? a * u : a;
    }
    hidden[(size_t)blockIdx.x * h + j] = v;
  }
}
template <typename T>
__global__ void reference_out(const double *hidden, const T *down, const float *bias, double *out, int h, int d_out) {
  for (int c = threadIdx.x; c < d_out; c += blockDim.x) {
    double sum = bias ? bias[c] : 0.0;
    for (int j = 0; j < h; j++) {
      const double a = hidden[(size_t)blockIdx.x * h + j];
      if (a != 0) sum += a * (double)to_float(down[(size_t)j * d_out + c]);
    }
    out[(size_t)blockIdx.x * d_out + c] = sum;
  }
}
// Sums of squares of difference and reference; a NaN anywhere makes the first NaN.
template <typename T> __global__ void distance(const T *out, const double *right, const int *sample, int d_out, double *sums) {
  double d = 0, r = 0;
  for (int c = threadIdx.x; c < d_out; c += blockDim.x) {
    const double y = right[(size_t)blockIdx.x * d_out + c], e = (double)to_float(out[(size_t)sample[blockIdx.x] * d_out + c]) - y;
    d += e * e, r += y * y;
  }
  atomicAdd(sums, d), atomicAdd(sums + 1, r);
}
template <typename T> static T *device(size_t count) {
  void *p;
  CHECK(cudaMalloc(&p, count * sizeof(T) + 8192));
  return (T *)p;
}

// ---- A layer, and the ways to run it -------------------------------------------------------------------------------

struct Shape {
  int rows, d, d_out, experts, size;
  bool gated = false;
  int activation = 0;
  int hidden() const { return experts * size; }
  int words() const { return (experts + 31) / 32; }
  double dense_operations() const { return 2.0 * rows * hidden() * ((gated ? 2.0 : 1.0) * d + d_out); }
};
struct Variant {
  int width = 128, pools = 2, mode = EXPERTS_ADD;
  bool interleaved = true;  // down's columns, first
  const char *name() const {
    static char text[80];
    const char *modes[] = {"add", "rows + combine"};
    snprintf(text, sizeof text, "units %d in %d pools, %s%s", width, pools, modes[mode], interleaved ? "" : ", down as stored");
    return text;
  }
};

// Programmatic, as the backend does it: begins while what is before it ends.
template <typename... Parameters, typename... Arguments>
static void launch(void (*kernel)(Parameters...), int blocks, int threads, int shared, const Arguments &...arguments) {
  cudaLaunchAttribute programmatic;
  programmatic.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  programmatic.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(blocks), config.blockDim = dim3(threads), config.dynamicSmemBytes = shared, config.stream = stream;
  config.attrs = &programmatic, config.numAttrs = 1;
  CHECK(cudaLaunchKernelEx(&config, kernel, (Parameters)arguments...));
}

template <typename T> struct Layer {
  static constexpr bool BF16 = std::is_same<T, bf16>::value;
  Shape s;
  int sets, k = 0;
  std::vector<T *> x, out;
  std::vector<unsigned *> mask;             // what is drawn
  std::vector<unsigned char *> selection;  // the same in bytes
  unsigned *bits;                           // and again in bits, by the op
  T *up, *gate, *down, *interleaved, *partial = nullptr, *hidden = nullptr;
  float *up_bias, *gate_bias, *down_bias;
  T *up_bias16, *down_bias16, *rounded_bias;  // rounded by the op
  int *counts, *offsets, *header;
  unsigned *list;
  int4 *tiles;
  std::vector<void *> owned;

  template <typename U> U *own(size_t n) {
    U *p = device<U>(n);
    owned.push_back(p);
    return p;
  }
  int interleaved_width() const { return (s.d_out + 31) / 32 * 32; }
  Layer(const Shape &s, int sets) : s(s), sets(sets) {
    const size_t h = s.hidden(), nx = (size_t)s.rows * s.d, no = (size_t)s.rows * s.d_out;
    for (int i = 0; i < sets; i++) {
      x.push_back(own<T>(nx)), out.push_back(own<T>(no)), mask.push_back(own<unsigned>((size_t)s.rows * s.words()));
      selection.push_back(own<unsigned char>((size_t)s.rows * s.experts));
      fill<<<1024, 256>>>(x[i], nx, 11 + i, 1.0f);
    }
    bits = own<unsigned>((size_t)s.rows * s.words());
    up = own<T>(h * s.d), down = own<T>(h * s.d_out), gate = s.gated ? own<T>(h * s.d) : nullptr;
    up_bias = own<float>(h), gate_bias = s.gated ? own<float>(h) : nullptr, down_bias = own<float>(s.d_out);
    up_bias16 = own<T>(h), down_bias16 = own<T>(s.d_out), rounded_bias = own<T>(s.d_out);
    fill<<<256, 256>>>(up, h * s.d, 21, 1.7f / std::sqrt((float)s.d)), fill<<<256, 256>>>(down, h * s.d_out, 22, 1.7f / std::sqrt((float)s.size * 8));
    fill<<<8, 256>>>(up_bias, h, 23, 0.5f), fill<<<8, 256>>>(down_bias, s.d_out, 24, 0.5f);
    fill<<<8, 256>>>(up_bias16, h, 23, 0.5f), fill<<<8, 256>>>(down_bias16, s.d_out, 24, 0.5f);
    if (s.gated) fill<<<256, 256>>>(gate, h * s.d, 25, 1.7f / std::sqrt((float)s.d)), fill<<<8, 256>>>(gate_bias, h, 26, 0.5f);
    interleaved = own<T>(h * interleaved_width());
    const int tables = 1 << 16;
    counts = own<int>(tables), offsets = own<int>((size_t)5000 * multiprocessors * 4), header = own<int>(EXPERTS_HEADER);
    CHECK(cudaMemset(counts, 0, tables * sizeof(int)));
    const size_t most = (size_t)s.rows * (s.hidden() / 64 + 1);
    list = own<unsigned>(most), tiles = own<int4>(most / 64 + 5000);
    CHECK(cudaDeviceSynchronize());
  }
  ~Layer() {
    for (void *p : owned) cudaFree(p);
  }
  void draw(int k_, unsigned seed) {
    k = k_;
    for (int i = 0; i < sets; i++) {
      draw_masks<<<256, 256>>>(mask[i], s.rows, s.words(), s.experts, k, seed + i);
      draw_selection<<<256, 256>>>(selection[i], mask[i], s.rows, s.words(), s.experts);
    }
    CHECK(cudaDeviceSynchronize());
  }

  struct Units {
    int per_unit, parts, count, groups;
  };
  Units units(const Variant &v) const {
    Units u;
    u.per_unit = s.size < v.width ? std::min(32, v.width / s.size) : 1;
    u.parts = (s.size + v.width - 1) / v.width;
    u.count = (s.experts + u.per_unit - 1) / u.per_unit * u.parts;
    const int pool = v.pools ? (u.count + v.pools - 1) / v.pools : 0;
    u.groups = u.count + (v.pools == 2 ? u.count * (u.count - 1) / 2 : v.pools * pool * (pool - 1) / 2);
    return u;
  }
  // Segments of a row, about.
  double segments(const Variant &v) const {
    const Units u = units(v);
    const double needed = u.count * (1 - std::pow(1 - (double)k / s.experts, u.per_unit));
    return v.pools ? (needed + v.pools / 4.0) / 2 : needed;
  }
  // Beyond some segments their sums, rounded each time, are not what a plan would choose.
  bool takes(const Variant &v) const {
    const Units u = units(v);
    if (s.gated && (v.pools || v.width != 128)) return false;
    if (v.pools > 2 && v.mode != EXPERTS_ADD) return false;
    if (u.groups > 2500) return false;
    return v.mode != EXPERTS_ADD || segments(v) <= (BF16 ? 9 : 40);
  }
  bool has_only_kinds(const Variant &v) const { return v.mode == EXPERTS_ADD && v.width == 128 && segments(v) < 1.5; }
  // `what`: bit 0 grouping, bit 1 the products, bit 2 the second pass.
  void run(const Variant &v, int set, int what = 7) {
    const Units u = units(v);
    const int w = s.words();
    if (what & 1) {
      const int only_kinds = has_only_kinds(v), kinds = u.groups * (only_kinds ? 2 : 1);
      const int blocks = std::min((s.rows + 255) / 256, multiprocessors * 3), chunks = kinds <= 1024 ? 16 : kinds <= 2048 ? 8 : 4;
      T *filled = v.mode == EXPERTS_ADD ? out[set] : nullptr;
      const bool is_filled = filled && !only_kinds;
      const int interleaving = v.interleaved ? multiprocessors : 0, filling = is_filled ? std::min(std::max((s.rows + 9) / 10, interleaving), multiprocessors * 4) : interleaving;
      const int shared = std::max((9 + kinds) * 4, is_filled ? experts_segments_image_rows(s.d_out) * s.d_out * 2 : 0);
      typedef void (*Group)(const unsigned char *, unsigned *, int, int, int, int, int, int, int, int, int, int, int, int *, int *, unsigned *, int4 *, int *, const float *, void *, void *, const void *, void *, int, int);
      launch((Group)(BF16 ? (const void *)experts_segments_bf16 : (const void *)experts_segments_f16), blocks + EXPERTS_BINS + filling, 256, shared, selection[set], bits, s.rows, w, s.experts, s.size, u.per_unit, u.parts,
             v.width, v.pools, only_kinds, blocks, chunks, counts, offsets, list, tiles, header, down_bias, rounded_bias, filled, down, v.interleaved ? interleaved : nullptr, s.d_out,
             EXPERTS_GROUP_COUNT | EXPERTS_GROUP_PLACE);
    }
    if (what & 2) {
      // Alone, the products take tiles from the first on again.
      if (what == 2) CHECK(cudaMemsetAsync(header + EXPERTS_TAKEN, 0, 4, stream));
      typedef void (*Kernel)(hopper_map, hopper_map, hopper_map, const void *, const int4 *, const unsigned *, int *, const unsigned *, const float *,
                             const float *, const void *, void *, void *, int, int, int, int, int, int, int, int, int, int, int);
      const Kernel stored = s.gated          ? (BF16 ? experts_many_bf16_gated : experts_many_f16_gated)
                            : v.width == 128 ? (BF16 ? experts_many_bf16_128 : experts_many_f16_128)
                                             : (BF16 ? experts_many_bf16_64 : experts_many_f16_64);
      const Kernel by_lanes = s.gated          ? (BF16 ? experts_many_bf16_gated_interleaved : experts_many_f16_gated_interleaved)
                              : v.width == 128 ? (BF16 ? experts_many_bf16_128_interleaved : experts_many_f16_128_interleaved)
                                               : (BF16 ? experts_many_bf16_64_interleaved : experts_many_f16_64_interleaved);
      const Kernel kernel = v.interleaved ? by_lanes : stored;
      const int shared = EXPERTS_MANY_SHARED;
      CHECK(cudaFuncSetAttribute((const void *)kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared));
      const hopper_map map_up = tensor_map(up, s.d, s.hidden(), 64, v.width), map_gate = s.gated ? tensor_map(gate, s.d, s.hidden(), 64, v.width) : map_up;
      const hopper_map map_down = v.interleaved ? tensor_map(interleaved, interleaved_width(), s.hidden(), 64, 64) : tensor_map(down, s.d_out, s.hidden(), 64, 64);
      if (v.mode == EXPERTS_STORE && !partial) partial = own<T>((size_t)s.rows * s.d_out * (s.hidden() / 64 + 1));
      launch(kernel, multiprocessors, 384, shared, map_up, map_gate, map_down, x[set], tiles, list, header, bits, up_bias, gate_bias, rounded_bias, out[set], partial, s.rows, s.d,
                                               s.d, s.d_out, w, s.experts, s.size, u.per_unit, u.parts, s.activation, v.mode);
    }
    if (what & 4) {
      const int blocks = (int)std::min<size_t>(((size_t)s.rows * s.d_out / 8 + 255) / 256, (size_t)multiprocessors * 32);
      if (v.mode == EXPERTS_STORE) {
        auto combine = BF16 ? (const void *)experts_segments_combine_bf16 : (const void *)experts_segments_combine_f16;
        launch((void (*)(const unsigned *, int, int, int, int, int, int, int, int, const T *, T *, const float *, int))combine, blocks, 256, 0,
            bits, s.rows, w, s.experts, s.size, u.per_unit, u.parts, v.width, v.pools, partial, out[set], down_bias, s.d_out);
      }
    }
    CHECK(cudaGetLastError());
  }
  // Masked dense. `parts`: which of the two products.
  void masked(int set) {
    if (!hidden) hidden = own<T>((size_t)s.rows * s.hidden());
    experts_masked_launch<T>(set);
  }
  template <typename U> void experts_masked_launch(int set) {
    typedef void (*Kernel)(hopper_map, hopper_map, hopper_map, hopper_map, const float *, const float *, const unsigned char *, const unsigned *, int, int, int, int, int, int);
    const int shared = EXPERTS_MASKED_SHARED;
    const Kernel first = s.gated ? (BF16 ? experts_masked_gated_bf16 : experts_masked_gated_f16) : (BF16 ? experts_masked_up_bf16 : experts_masked_up_f16);
    const Kernel second = BF16 ? experts_masked_down_bf16 : experts_masked_down_f16;
    for (const Kernel k : {first, second}) CHECK(cudaFuncSetAttribute((const void *)k, cudaFuncAttributeMaxDynamicSharedMemorySize, shared));
    const int wide = s.gated ? 128 : 256;
    const bool by_bytes = s.experts % 16 == 0 && wide % s.size == 0 && wide / s.size % 16 == 0;
    const hopper_map map_x = tensor_map(x[set], s.d, s.rows, 64, 128), map_up = tensor_map(up, s.d, s.hidden(), 64, wide);
    const hopper_map map_gate = s.gated ? tensor_map(gate, s.d, s.hidden(), 64, wide) : map_up;
    const hopper_map map_hidden = tensor_map(hidden, s.hidden(), s.rows, 64, 128), map_down = tensor_map(down, s.d_out, s.hidden(), 64, 64);
    const hopper_map to_hidden = tensor_map(hidden, s.hidden(), s.rows, 64, 16), to_out = tensor_map(out[set], s.d_out, s.rows, 64, 16);
    const int row_tiles = (s.rows + 127) / 128;
    if (parts & 1)
      launch(first, std::min(row_tiles * ((s.hidden() + wide - 1) / wide), multiprocessors), 384, shared, map_x, map_up, map_gate, to_hidden, up_bias, gate_bias, by_bytes ? selection[set] : nullptr, mask[set],
                                                                                                  s.rows, s.hidden(), s.d, s.size, s.words(), s.activation);
    if (parts & 2)
      launch(second, std::min(row_tiles * ((s.d_out + 255) / 256), multiprocessors), 384, shared, map_hidden, map_down, map_down, to_out, down_bias, nullptr, nullptr, nullptr,
                                                                                             s.rows, s.d_out, s.hidden(), 0, 0, 0);
    CHECK(cudaGetLastError());
  }
  int parts = 3;

  // Relative error of up to 384 rows, spread over the batch and at its ends.
  double error(int set) {
    const int samples = std::min(s.rows, 384);
    std::vector<int> which(samples);
    for (int i = 0; i < samples; i++) which[i] = (int)((long long)i * (s.rows - 1) / std::max(1, samples - 1));
    int *sample = device<int>(samples);
    double *h = device<double>((size_t)samples * s.hidden()), *right = device<double>((size_t)samples * s.d_out), *sums = device<double>(2), host[2];
    CHECK(cudaMemcpy(sample, which.data(), samples * 4, cudaMemcpyHostToDevice));
    CHECK(cudaMemset(sums, 0, 16));
    reference_hidden<<<samples, 256>>>(x[set], up, gate, up_bias, gate_bias, mask[set], sample, h, s.d, s.experts, s.size, s.words(), s.activation);
    reference_out<<<samples, 256>>>(h, down, down_bias, right, s.hidden(), s.d_out);
    distance<<<samples, 256>>>(out[set], right, sample, s.d_out, sums);
    CHECK(cudaMemcpy(host, sums, 16, cudaMemcpyDeviceToHost));
    cudaFree(sample), cudaFree(h), cudaFree(right), cudaFree(sums);
    return std::sqrt(host[0] / host[1]);
  }
  bool judge(const char *what, const std::function<void()> &run) {
    const size_t bytes = (size_t)s.rows * s.d_out * 2;
    CHECK(cudaMemset(out[0], 0xff, bytes + 4096));
    run();
    settle(stream, what);
    std::vector<unsigned char> tail(4096);
    CHECK(cudaMemcpy(tail.data(), (char *)out[0] + bytes, 4096, cudaMemcpyDeviceToHost));
    bool outside = false;
    for (unsigned char c : tail) outside |= c != 0xff;
    const double e = error(0), bar = BF16 ? 5e-3 : 1e-3;
    checks++;
    const bool good = e <= bar && !outside;
    if (!good) failures++;
    printf("  %s %-36s N %5d d %4d -> %4d, %3d x %3d, %3d run%s, %s: relative error %.2e%s\n", good ? "ok    " : "FAILED", what, s.rows, s.d, s.d_out, s.experts, s.size, k,
           s.gated ? ", gated" : "", BF16 ? "bf16" : "fp16", e, outside ? ", wrote past the end" : "");
    fflush(stdout);
    return good;
  }
};

static std::vector<Variant> variants() {
  std::vector<Variant> all;
  for (int width : {128, 64})
    for (int pools : {2, 4, 0})
      for (int mode : {EXPERTS_ADD, EXPERTS_STORE})
        for (bool interleaved : {true, false}) {
          Variant v;
          v.width = width, v.pools = pools, v.mode = mode, v.interleaved = interleaved;
          all.push_back(v);
        }
  return all;
}

template <typename T> static void check_shape(const Shape &s, int k) {
  Layer<T> layer(s, 1);
  layer.draw(k, 100 + checks);
  for (const Variant &v : variants())
    if (layer.takes(v)) layer.judge(v.name(), [&] { layer.run(v, 0); });
  layer.judge("masked dense", [&] { layer.masked(0); });
}

static void check_all() {
  printf("Checks (relative error against float64; bars 5e-3 bf16, 1e-3 fp16)\n");
  check_shape<bf16>({128, 64, 64, 2, 128}, 2);       // one tile, one step
  check_shape<bf16>({197, 768, 768, 24, 128}, 10);
  check_shape<__half>({1000, 768, 768, 24, 128}, 5);
  check_shape<bf16>({1000, 768, 768, 24, 128}, 2);   // rows of one segment
  check_shape<__half>({1500, 256, 264, 48, 32}, 3);  // rows of one segment or two
  check_shape<bf16>({700, 256, 512, 24, 128}, 1);
  check_shape<__half>({300, 200, 136, 6, 24}, 3);    // over every edge, units of several experts
  check_shape<bf16>({257, 320, 520, 5, 192}, 2);     // experts of more than one part
  check_shape<bf16>({700, 256, 512, 96, 32}, 19);
  check_shape<__half>({500, 128, 256, 128, 4}, 30);
  check_shape<bf16>({333, 256, 256, 12, 128, true, 3}, 4);
  check_shape<__half>({400, 136, 264, 20, 40, true, 1}, 4);
  check_shape<bf16>({9000, 768, 768, 24, 128, false, 2}, 10);
  printf("%d of %d checks failed\n\n", failures, checks);
}

// ---- Times ---------------------------------------------------------------------------------------------------------

// Median milliseconds of one call over some turns of about 3 ms; `run` gets the number of the input set to use.
static double median_ms(const std::function<void(int)> &run, int sets, double guess_ms, int outer = 11) {
  cudaEvent_t start, end;
  CHECK(cudaEventCreate(&start));
  CHECK(cudaEventCreate(&end));
  const int inner = std::max(sets, (int)(3.0 / guess_ms));
  for (int i = 0; i < std::max(3, inner); i++) run(i % sets);
  std::vector<double> times;
  for (int o = 0, set = 0; o < outer; o++) {
    CHECK(cudaEventRecord(start, stream));
    for (int i = 0; i < inner; i++) run(set++ % sets);
    CHECK(cudaEventRecord(end, stream));
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

static std::vector<std::string> summary;

struct Bar {
  int k;
  double most;
};

template <typename T> static void time_shape(const FusedLt &lt, const Shape &s, const std::vector<Bar> &bars) {
  constexpr bool BF16 = std::is_same<T, bf16>::value;
  Layer<T> layer(s, 3);
  layer.hidden = layer.template own<T>((size_t)s.rows * s.hidden());
  printf("\nd %d -> %d, %d experts of %d, N %d, %s: dense %.1f GFLOP\n", s.d, s.d_out, s.experts, s.size, s.rows, BF16 ? "bf16" : "fp16", s.dense_operations() * 1e-9);
  const double guess = std::max(0.01, s.dense_operations() / 600e9);
  double dense = 0, dense_second = 0;
  if (lt.handle) {
    FusedLt::Plan first = lt.plan(s.rows, s.hidden(), s.d, true, BF16 ? 14 : 2, true, layer.up_bias16), second = lt.plan(s.rows, s.d_out, s.hidden(), false, BF16 ? 14 : 2, false, layer.down_bias16);
    auto best = [&](FusedLt::Plan &p, const char *name, const std::function<int(int, int)> &go) {
      double least = 1e30;
      for (int i = 0; i < (int)p.found.size(); i++) {
        if (go(i, 0) != 0) continue;
        const double ms = median_ms([&](int set) { go(i, set); }, 3, guess / 2, 5);
        if (ms < least) least = ms, p.best = i;
      }
      printf("  cuBLASLt %-27s %8.4f ms %7.1f TFLOP/s (choice %d of %d)\n", name, least, s.dense_operations() / 2 / least * 1e-9, p.best, (int)p.found.size());
      return least;
    };
    best(first, "first product", [&](int i, int set) { return lt.run(first, i, layer.x[set], layer.up, layer.hidden, stream); });
    dense_second = best(second, "second product", [&](int i, int set) { return lt.run(second, i, layer.hidden, layer.down, layer.out[set], stream); });
    dense = median_ms([&](int set) { lt.run(first, first.best, layer.x[set], layer.up, layer.hidden, stream), lt.run(second, second.best, layer.hidden, layer.down, layer.out[set], stream); }, 3, guess);
    printf("  cuBLASLt %-27s %8.4f ms %7.1f TFLOP/s\n", "dense", dense, s.dense_operations() / dense * 1e-9);
  }
  bool masked_done = false;
  for (const Bar &bar : bars) {
    layer.draw(bar.k, 1000 + bar.k);
    const double share = (double)bar.k / s.experts;
    printf(" %d of %d (%.0f %%)\n", bar.k, s.experts, 100 * share);
    double best = 1e30;
    std::string winner;
    auto row = [&](const char *name, double ms, const char *more) {
      printf("  %-36s %8.4f ms  %5.3f x dense  %6.1f TFLOP/s executed%s\n", name, ms, dense > 0 ? ms / dense : 0, share * s.dense_operations() / ms * 1e-9, more);
      if (ms < best) best = ms, winner = name;
      fflush(stdout);
    };
    for (const Variant &v : variants()) {
      if (!layer.takes(v)) continue;
      // Variants that cannot win are left out, for time's sake.
      if ((share > 0.5 || s.rows > 10000) && !v.pools && !s.gated) continue;
      if (share > 0.5 && v.width == 64) continue;
      if (s.rows > 10000 && v.mode == EXPERTS_STORE && !v.interleaved) continue;
      if (v.width == 64 && s.size >= 128) continue;
      for (int set = 0; set < 3; set++) layer.run(v, set);
      settle(stream, v.name());
      const double e = layer.error(2), most = BF16 ? 5e-3 : 1e-3;
      checks++;
      if (!(e <= most)) failures++;
      const double all = median_ms([&](int set) { layer.run(v, set); }, 3, guess * share + 0.05);
      const double grouping = median_ms([&](int set) { layer.run(v, set, 1); }, 3, 0.05, 5);
      // The last grouping was of set 2 at the latest: the products alone run on that one.
      layer.run(v, 2, 1);
      const double products = median_ms([&](int) { layer.run(v, 2, 2); }, 1, guess * share + 0.02, 5);
      const double second = v.mode == EXPERTS_STORE ? median_ms([&](int set) { layer.run(v, set, 4); }, 3, 0.1, 5) : 0;
      int tiles;
      CHECK(cudaMemcpy(&tiles, layer.header, 4, cudaMemcpyDeviceToHost));
      char more[160];
      snprintf(more, sizeof more, "; grouping %.4f, products %.4f, second pass %.4f; %d tiles; error %.1e%s", grouping, products, second, tiles, e, e <= most ? "" : " FAILED");
      row(v.name(), all, more);
    }
    if (!masked_done || share > 0.5 || s.size < 32) {
      masked_done = true;
      layer.masked(2);
      settle(stream, "masked dense");
      const double e = layer.error(2), most = BF16 ? 5e-3 : 1e-3;
      checks++;
      if (!(e <= most)) failures++;
      const double both = median_ms([&](int set) { layer.masked(set); }, 3, guess);
      layer.parts = 1;
      const double one = median_ms([&](int set) { layer.masked(set); }, 3, guess / 2, 5);
      layer.parts = 2;
      const double two = median_ms([&](int set) { layer.masked(set); }, 3, guess / 2, 5);
      layer.parts = 3;
      char more[160];
      snprintf(more, sizeof more, "; first product %.4f, second %.4f; error %.1e%s", one, two, e, e <= most ? "" : " FAILED");
      row("masked dense", both, more);
      if (dense_second > 0) row("masked first, cuBLASLt second", one + dense_second, " (sum)");
    }
    char line[300];
    snprintf(line, sizeof line, "%-5s %3d x %3d, N %5d, %3.0f %%: %.4f ms, %.3f x dense (%.4f), bar %.2f %s  [%s]", BF16 ? "bf16" : "fp16", s.experts, s.size, s.rows, 100 * share, best,
             best / dense, dense, bar.most, best <= bar.most * dense ? "holds" : "MISSED", winner.c_str());
    summary.push_back(line);
  }
}

static void time_all() {
  FusedLt lt;
  if (!lt.open()) printf("cuBLASLt was not found: no ratios\n");
  time_shape<bf16>(lt, {50432, 768, 768, 24, 128}, {{10, 0.62}, {5, 0.36}, {2, 0.22}, {24, 1.15}, {14, 1.15}});
  time_shape<bf16>(lt, {50432, 768, 768, 96, 32}, {{19, 0.85}, {10, 0.5}});
  time_shape<bf16>(lt, {50432, 768, 768, 768, 4}, {{154, 1.1}});
  time_shape<__half>(lt, {50432, 768, 768, 24, 128}, {{10, 0.62}, {5, 0.36}, {2, 0.22}});
  time_shape<bf16>(lt, {6304, 768, 768, 24, 128}, {{10, 1.0}, {2, 1.0}});
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
