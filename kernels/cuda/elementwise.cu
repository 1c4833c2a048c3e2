// Everything that computes one output element from one element of each operand: functions of one tensor, functions of two
// with broadcasting, selection, conversion of types, filling. An operation is a line of a list below; two templates, `map`
// and `zip`, do the reading and writing for all of them.
//
// How the memory's bandwidth is reached: a thread moves 16 bytes at a time and issues the loads of UNROLL vectors before it
// computes with the first, so that a multiprocessor has enough of them under way; a block handles THREADS * UNROLL vectors
// and ends. Functions with many instructions are called, not inlined at every vector element: bandwidth does not depend on
// them, the time that the driver needs to load the module does.
//
// Semantics are those of JavaScript numbers that are stored in typed arrays: int32 results wrap, and what is not finite
// becomes 0 as an integer; comparisons with NaN are false; maximum, minimum and relu hand NaN on.
#include "common.cuh"

#define THREADS 256
#define UNROLL 2
#ifdef D2DMOE_EMULATED
#define __grid_constant__
#endif
#define HEAVY static __device__ __noinline__

// N elements that are read or written at once, in 16 bytes or less where they fit.
template <typename T, int N> struct alignas(sizeof(T) * N < 16 ? sizeof(T) * N : 16) Pack { T v[N]; };

// bf16 is a storage type: functions see float.
template <typename T> __device__ __forceinline__ T read(T x) { return x; }
__device__ __forceinline__ float read(bf16 x) { return __bfloat162float(x); }
template <typename T> struct Write { static __device__ __forceinline__ T of(T x) { return x; } };
template <> struct Write<bf16> { static __device__ __forceinline__ bf16 of(float x) { return __float2bfloat16(x); } };

// A number as a typed array of int32 stores it: truncated, modulo 2^32, 0 where it is not finite.
__device__ __forceinline__ int to_int32(double x) {
  if (fabs(x) < 2147483648.0) return (int)x;
  if (!(fabs(x) < 9223372036854775808.0)) return 0;  // NaN, infinite, or a multiple of 2^32 if it was a float
  return (int)(unsigned)(unsigned long long)(long long)x;
}
__device__ __forceinline__ int to_int32(float x) { return fabsf(x) < 2147483648.0f ? (int)x : to_int32((double)x); }

// ---------------------------------------------------------------------------------------------------------------------
// One operand

// y[i] = f(x[i]); a grid of max(1, ceil(n / (N * THREADS * UNROLL))) blocks.
template <int N, typename In, typename Out, typename F>
__device__ __forceinline__ void map(const In *__restrict__ x, Out *__restrict__ y, long long n, F f) {
  const Pack<In, N> *xs = reinterpret_cast<const Pack<In, N> *>(x);
  Pack<Out, N> *ys = reinterpret_cast<Pack<Out, N> *>(y);
  const long long packs = n / N;
  const long long first = blockIdx.x * (long long)(THREADS * UNROLL) + threadIdx.x;
  Pack<In, N> in[UNROLL];
#pragma unroll
  for (int u = 0; u < UNROLL; u++)
    if (first + u * THREADS < packs) in[u] = xs[first + u * THREADS];
#pragma unroll
  for (int u = 0; u < UNROLL; u++) {
    if (first + u * THREADS >= packs) break;
    Pack<Out, N> out;
#pragma unroll
    for (int k = 0; k < N; k++) out.v[k] = Write<Out>::of(f(read(in[u].v[k])));
    ys[first + u * THREADS] = out;
  }
  const long long rest = packs * N + threadIdx.x;
  if (blockIdx.x == 0 && rest < n) y[rest] = Write<Out>::of(f(read(x[rest])));
}

#define MAP(name, In, Out, N, A, expression)                                                                         \
  struct name##_op {                                                                                                 \
    A a, b;                                                                                                          \
    template <typename T> __device__ __forceinline__ auto operator()(T x) const { return expression; }               \
  };                                                                                                                 \
  KERNEL __launch_bounds__(THREADS) name(const In *x, Out *y, long long n, A a, A b) {                               \
    map<N, In, Out>(x, y, n, name##_op{a, b});                                                                       \
  }

HEAVY float acos_of(float x) { return acosf(x); }
HEAVY float acosh_of(float x) { return acoshf(x); }
HEAVY float asin_of(float x) { return asinf(x); }
HEAVY float asinh_of(float x) { return asinhf(x); }
HEAVY float atan_of(float x) { return atanf(x); }
HEAVY float atanh_of(float x) { return atanhf(x); }
HEAVY float cos_of(float x) { return cosf(x); }
HEAVY float cosh_of(float x) { return coshf(x); }
HEAVY float expm1_of(float x) { return expm1f(x); }
HEAVY float log1p_of(float x) { return log1pf(x); }
HEAVY float sin_of(float x) { return sinf(x); }
HEAVY float sinh_of(float x) { return sinhf(x); }
// In double: near the poles, where values are large, an error of a few units in the last place is a large number.
HEAVY float tan_of(float x) { return (float)tan((double)x); }
// exp(x) below, x above the range where both terms of log(1 + exp(x)) count in float32.
HEAVY float softplus_of(float x) {
  const float threshold = 13.942385f;  // -(log(2^-23) + 2)
  if (x > threshold) return x;
  const float e = expf(x);
  return x < -threshold ? e : log1pf(e);
}

__device__ __forceinline__ float sigmoid_of(float x) { return 1.0f / (1.0f + expf(-x)); }

// GELU, x * Phi(x), with the normal distribution's Phi by erf, or by the tanh approximation of Hendrycks and Gimpel 2016,
// written with the sigmoid: (1 + tanh(u)) / 2 = sigmoid(2 u).
__device__ __forceinline__ float gelu_erf_of(float x) { return 0.5f * x * (1.0f + erff(x * 0.70710678118654752f)); }
__device__ __forceinline__ float gelu_erf_slope(float x) {
  const float phi = 0.39894228040143268f * expf(-0.5f * x * x);
  return 0.5f * (1.0f + erff(x * 0.70710678118654752f)) + x * phi;
}
#define GELU_TWO_C 1.5957691216057308f  // 2 sqrt(2 / pi)
__device__ __forceinline__ float gelu_tanh_of(float x) { return x * sigmoid_of(GELU_TWO_C * (x + 0.044715f * x * x * x)); }
__device__ __forceinline__ float gelu_tanh_slope(float x) {
  const float s = sigmoid_of(GELU_TWO_C * (x + 0.044715f * x * x * x));
  return s + x * s * (1.0f - s) * GELU_TWO_C * (1.0f + 0.134145f * x * x);
}
__device__ __forceinline__ float silu_of(float x) { return x * sigmoid_of(x); }
__device__ __forceinline__ float silu_slope(float x) {
  const float s = sigmoid_of(x);
  return s * (1.0f + x * (1.0f - s));
}

#define UNARY_F32(name, expression) MAP(unary_##name##_f32, float, float, 4, float, expression)
UNARY_F32(abs, fabsf(x))
UNARY_F32(acos, acos_of(x))
UNARY_F32(acosh, acosh_of(x))
UNARY_F32(asin, asin_of(x))
UNARY_F32(asinh, asinh_of(x))
UNARY_F32(atan, atan_of(x))
UNARY_F32(atanh, atanh_of(x))
UNARY_F32(ceil, ceilf(x))
UNARY_F32(clip, x > b ? b : x < a ? a : x)
UNARY_F32(cos, cos_of(x))
UNARY_F32(cosh, cosh_of(x))
UNARY_F32(elu, x >= 0.0f ? x : expm1_of(x))
UNARY_F32(erf, erff(x))
UNARY_F32(exp, expf(x))
UNARY_F32(expm1, expm1_of(x))
UNARY_F32(floor, floorf(x))
UNARY_F32(gelu_erf, gelu_erf_of(x))
UNARY_F32(gelu_tanh, gelu_tanh_of(x))
UNARY_F32(leakyrelu, x < 0.0f ? a * x : x)
UNARY_F32(log, logf(x))
UNARY_F32(log1p, log1p_of(x))
UNARY_F32(neg, -x)
UNARY_F32(reciprocal, 1.0f / x)
UNARY_F32(relu, x < 0.0f ? 0.0f : x)
UNARY_F32(relu6, x < 0.0f ? 0.0f : x > 6.0f ? 6.0f : x)
UNARY_F32(round, rintf(x))
UNARY_F32(rsqrt, 1.0f / sqrtf(x))
UNARY_F32(selu, x >= 0.0f ? 1.0507009873554805f * x : 1.7580993408473768f * expm1_of(x))
UNARY_F32(sigmoid, sigmoid_of(x))
UNARY_F32(sign, x < 0.0f ? -1.0f : x > 0.0f ? 1.0f : 0.0f)
UNARY_F32(silu, silu_of(x))
UNARY_F32(sin, sin_of(x))
UNARY_F32(sinh, sinh_of(x))
UNARY_F32(softplus, softplus_of(x))
UNARY_F32(sqrt, sqrtf(x))
UNARY_F32(square, x *x)
UNARY_F32(step, x > 0.0f ? 1.0f : x <= 0.0f ? a : x)
UNARY_F32(tan, tan_of(x))
UNARY_F32(tanh, tanhf(x))

#define UNARY_BF16(name, expression) MAP(unary_##name##_bf16, bf16, bf16, 8, float, expression)
UNARY_BF16(gelu_erf, gelu_erf_of(x))
UNARY_BF16(gelu_tanh, gelu_tanh_of(x))
UNARY_BF16(relu, x < 0.0f ? 0.0f : x)
UNARY_BF16(silu, silu_of(x))

#define UNARY_I32(name, expression) MAP(unary_##name##_i32, int, int, 4, int, expression)
UNARY_I32(abs, x < 0 ? (int)(0u - (unsigned)x) : x)
UNARY_I32(clip, x > b ? b : x < a ? a : x)
UNARY_I32(neg, (int)(0u - (unsigned)x))
UNARY_I32(relu, x < 0 ? 0 : x)
UNARY_I32(relu6, x < 0 ? 0 : x > 6 ? 6 : x)
UNARY_I32(sign, (x > 0) - (x < 0))
UNARY_I32(square, (int)((unsigned)x * (unsigned)x))

// expf is off by up to one unit in the last place, and for an integer the right float32 is expected.
MAP(unary_exp_i32, int, float, 4, int, (float)exp((double)x))

#define TEST(name, In, expression) MAP(name, In, unsigned char, 4, float, (unsigned char)(expression))
TEST(test_isnan_f32, float, x != x)
TEST(test_isinf_f32, float, fabsf(x) == INFINITY)
TEST(test_isfinite_f32, float, fabsf(x) < INFINITY)
TEST(test_not_bool, unsigned char, x == 0)

#define CAST(name, In, Out, expression) MAP(cast_##name, In, Out, 4, float, expression)
CAST(float32_int32, float, int, to_int32(x))
CAST(float32_bool, float, unsigned char, (unsigned char)(x != 0.0f))
CAST(int32_float32, int, float, (float)x)
CAST(int32_bool, int, unsigned char, (unsigned char)(x != 0))
CAST(bool_float32, unsigned char, float, (float)x)
CAST(bool_int32, unsigned char, int, (int)x)

// ---------------------------------------------------------------------------------------------------------------------
// Two operands

struct Dims {
  int v[6];
};

// Where an output element's operands lie: the output's shape after neighbouring dimensions were merged, innermost last, and
// each operand's step along each dimension, 0 where it is broadcast. The innermost steps are 0 or 1.
struct Layout {
  int rank;
  const Dims &shape, &a, &b;  // parameters of the kernel, read where they lie
  __device__ __forceinline__ void locate(unsigned long long index, long long &offsetA, long long &offsetB) const {
    offsetA = 0;
    offsetB = 0;
#pragma unroll 1
    for (int d = rank - 1; d > 0; d--) {
      const unsigned long long next = index / (unsigned)shape.v[d];
      const int at = (int)(index - next * (unsigned)shape.v[d]);
      offsetA += (long long)at * a.v[d];
      offsetB += (long long)at * b.v[d];
      index = next;
    }
    offsetA += (long long)index * a.v[0];
    offsetB += (long long)index * b.v[0];
  }
};

template <int N, typename T>
__device__ __forceinline__ Pack<T, N> read_pack(const T *__restrict__ x, long long offset, int step) {
  if (step == 1) return *reinterpret_cast<const Pack<T, N> *>(x + offset);
  Pack<T, N> pack;
  const T value = x[offset];
#pragma unroll
  for (int k = 0; k < N; k++) pack.v[k] = value;
  return pack;
}

// out[i] = f(a[i], b[i]) for the first packs * N elements.
template <int N, typename A, typename B, typename Out, typename F>
__device__ __forceinline__ void zip_flat(const A *__restrict__ a, const B *__restrict__ b, Out *__restrict__ out,
                                         long long packs, F f) {
  const Pack<A, N> *as = reinterpret_cast<const Pack<A, N> *>(a);
  const Pack<B, N> *bs = reinterpret_cast<const Pack<B, N> *>(b);
  Pack<Out, N> *outs = reinterpret_cast<Pack<Out, N> *>(out);
  const long long first = blockIdx.x * (long long)(THREADS * UNROLL) + threadIdx.x;
  Pack<A, N> inA[UNROLL];
  Pack<B, N> inB[UNROLL];
#pragma unroll
  for (int u = 0; u < UNROLL; u++) {
    if (first + u * THREADS >= packs) break;
    inA[u] = as[first + u * THREADS];
    inB[u] = bs[first + u * THREADS];
  }
#pragma unroll
  for (int u = 0; u < UNROLL; u++) {
    if (first + u * THREADS >= packs) break;
    Pack<Out, N> result;
#pragma unroll
    for (int k = 0; k < N; k++) result.v[k] = Write<Out>::of(f(read(inA[u].v[k]), read(inB[u].v[k])));
    outs[first + u * THREADS] = result;
  }
}

// The same with broadcasting: packs lie within a row. The loop is not unrolled: occupancy keeps enough loads under way, and
// the module stays small.
template <int N, typename A, typename B, typename Out, typename F>
__device__ __forceinline__ void zip_broadcast(const A *__restrict__ a, const B *__restrict__ b, Out *__restrict__ out,
                                              long long packs, const Layout &layout, F f) {
  const int stepA = layout.a.v[layout.rank - 1], stepB = layout.b.v[layout.rank - 1];
#pragma unroll 1
  for (int u = 0; u < UNROLL; u++) {
    const long long i = (blockIdx.x * (long long)UNROLL + u) * THREADS + threadIdx.x;
    if (i >= packs) break;
    long long offsetA, offsetB;
    layout.locate((unsigned long long)i * N, offsetA, offsetB);
    const Pack<A, N> inA = read_pack<N>(a, offsetA, stepA);
    const Pack<B, N> inB = read_pack<N>(b, offsetB, stepB);
    Pack<Out, N> result;
#pragma unroll
    for (int k = 0; k < N; k++) result.v[k] = Write<Out>::of(f(read(inA.v[k]), read(inB.v[k])));
    reinterpret_cast<Pack<Out, N> *>(out)[i] = result;
  }
}

// mode 0: operands of the output's shape; 1: broadcasting, rows of whole packs or one dimension; 2: broadcasting, any.
template <int N, typename A, typename B, typename Out, typename F>
__device__ __forceinline__ void zip(const A *__restrict__ a, const B *__restrict__ b, Out *__restrict__ out, long long n,
                                    int mode, const Layout &layout, F f) {
  if (mode == 2) {
    zip_broadcast<1>(a, b, out, n, layout, f);
    return;
  }
  const long long packs = n / N;
  if (mode == 0) zip_flat<N>(a, b, out, packs, f);
  else zip_broadcast<N>(a, b, out, packs, layout, f);
  const long long rest = packs * N + threadIdx.x;
  if (blockIdx.x != 0 || rest >= n) return;
  // What is left of a single dimension.
  const long long offsetA = mode == 0 ? rest : rest * layout.a.v[0];
  const long long offsetB = mode == 0 ? rest : rest * layout.b.v[0];
  out[rest] = Write<Out>::of(f(read(a[offsetA]), read(b[offsetB])));
}

#define ZIP(name, A, B, Out, N, expression)                                                                          \
  struct name##_op {                                                                                                 \
    template <typename X, typename Y> __device__ __forceinline__ auto operator()(X a, Y b) const { return expression; } \
  };                                                                                                                 \
  KERNEL __launch_bounds__(THREADS)                                                                                  \
  name(const A *a, const B *b, Out *out, long long n, int mode, int rank, const __grid_constant__ Dims shape,        \
       const __grid_constant__ Dims stepsA, const __grid_constant__ Dims stepsB) {                                   \
    zip<N>(a, b, out, n, mode, Layout{rank, shape, stepsA, stepsB}, name##_op());                                    \
  }

HEAVY float atan2_of(float a, float b) { return atan2f(a, b); }
HEAVY float hypot_of(float a, float b) { return hypotf(a, b); }
// Math.pow differs from C's pow where the exponent is NaN, or infinite on a base of magnitude 1: NaN in both cases.
HEAVY float pow_of(float a, float b) {
  if (b != b || (fabsf(a) == 1.0f && fabsf(b) == INFINITY)) return NAN;
  return powf(a, b);
}
HEAVY int pow_of(int a, int b) { return to_int32(pow((double)a, (double)b)); }
// The quotient in double: rounded to float32 it could reach the next integer.
HEAVY int floordiv_of(float a, float b) { return to_int32(floor((double)a / (double)b)); }
HEAVY int floordiv_of(int a, int b) { return to_int32(floor((double)a / (double)b)); }
HEAVY int quotient_of(int a, int b) { return to_int32((double)a / (double)b); }
HEAVY float mod_of(float a, float b) {
  const float rest = fmodf(a, b);
  return (a < 0.0f && b < 0.0f) || (a >= 0.0f && b >= 0.0f) ? rest : fmodf(rest + b, b);
}
HEAVY int mod_of(int a, int b) {
  if (b == 0) return 0;
  const long long rest = (long long)a % b;
  return (int)((a < 0) == (b < 0) ? rest : (rest + b) % b);
}

#define BINARY_F32(name, expression) ZIP(binary_##name##_f32, float, float, float, 4, expression)
BINARY_F32(add, a + b)
BINARY_F32(sub, a - b)
BINARY_F32(mul, a *b)
BINARY_F32(div, a / b)
BINARY_F32(mod, mod_of(a, b))
BINARY_F32(max, a > b || a != a ? a : b)
BINARY_F32(min, a < b || a != a ? a : b)
BINARY_F32(pow, pow_of(a, b))
BINARY_F32(sqdiff, (a - b) * (a - b))
BINARY_F32(atan2, atan2_of(a, b))
BINARY_F32(hypot, hypot_of(a, b))
BINARY_F32(prelu, a < 0.0f ? b * a : a)
BINARY_F32(elugrad, b >= 0.0f ? a : a * (b + 1.0f))  // dy, y
BINARY_F32(gelugrad_erf, b *gelu_erf_slope(a))       // x, dy
BINARY_F32(gelugrad_tanh, b *gelu_tanh_slope(a))     // x, dy
BINARY_F32(silugrad, b *silu_slope(a))               // x, dy
ZIP(binary_floordiv_f32, float, float, int, 4, floordiv_of(a, b))

// bf16: activations between matrix products. Sums keep float32 where one side has it at full size.
#define BINARY_BF16(name, expression) ZIP(binary_##name##_bf16, bf16, bf16, bf16, 8, expression)
BINARY_BF16(add, a + b)
BINARY_BF16(mul, a *b)
BINARY_BF16(gelugrad_erf, b *gelu_erf_slope(a))
BINARY_BF16(gelugrad_tanh, b *gelu_tanh_slope(a))
BINARY_BF16(silugrad, b *silu_slope(a))
ZIP(binary_add_bf16_f32_bf16, bf16, float, bf16, 8, a + b)
ZIP(binary_add_bf16_f32_f32, bf16, float, float, 4, a + b)

#define BINARY_I32(name, expression) ZIP(binary_##name##_i32, int, int, int, 4, expression)
BINARY_I32(add, (int)((unsigned)a + (unsigned)b))
BINARY_I32(sub, (int)((unsigned)a - (unsigned)b))
BINARY_I32(mul, (int)((unsigned)a * (unsigned)b))
BINARY_I32(div, quotient_of(a, b))
BINARY_I32(floordiv, floordiv_of(a, b))
BINARY_I32(mod, mod_of(a, b))
BINARY_I32(max, a > b ? a : b)
BINARY_I32(min, a < b ? a : b)
BINARY_I32(pow, pow_of(a, b))
BINARY_I32(sqdiff, (int)(((unsigned)a - (unsigned)b) * ((unsigned)a - (unsigned)b)))
BINARY_I32(and, a &b)

#define COMPARE(name, expression)                                                      \
  ZIP(compare_##name##_f32, float, float, unsigned char, 4, (unsigned char)(expression)) \
  ZIP(compare_##name##_i32, int, int, unsigned char, 4, (unsigned char)(expression))
COMPARE(equal, a == b)
COMPARE(notequal, a != b)
COMPARE(greater, a > b)
COMPARE(greaterequal, a >= b)
COMPARE(less, a < b)
COMPARE(lessequal, a <= b)
ZIP(logical_and_bool, unsigned char, unsigned char, unsigned char, 4, (unsigned char)(a != 0 && b != 0))
ZIP(logical_or_bool, unsigned char, unsigned char, unsigned char, 4, (unsigned char)(a != 0 || b != 0))

// ---------------------------------------------------------------------------------------------------------------------
// Selection, filling, sequences

// y[i] = condition[i / inner] ? t[i] : e[i], by size of the elements.
template <typename T>
__device__ __forceinline__ void select(const unsigned char *__restrict__ condition, const T *__restrict__ t,
                                       const T *__restrict__ e, T *__restrict__ y, long long n, long long inner) {
  for (GRID_LOOP(i, n)) {
    const long long c = inner == 1 ? i : (long long)((unsigned long long)i / (unsigned long long)inner);
    y[i] = condition[c] ? t[i] : e[i];
  }
}
KERNEL select_32(const unsigned char *condition, const int *t, const int *e, int *y, long long n, long long inner) {
  select(condition, t, e, y, n, inner);
}
KERNEL select_8(const unsigned char *condition, const unsigned char *t, const unsigned char *e, unsigned char *y,
                long long n, long long inner) {
  select(condition, t, e, y, n, inner);
}

// y[i] = value, given as its bits.
template <int N, typename T> __device__ __forceinline__ void fill(T *__restrict__ y, long long n, T value) {
  Pack<T, N> pack;
#pragma unroll
  for (int k = 0; k < N; k++) pack.v[k] = value;
  for (GRID_LOOP(i, n / N)) reinterpret_cast<Pack<T, N> *>(y)[i] = pack;
  const long long rest = n / N * N + threadIdx.x;
  if (blockIdx.x == 0 && rest < n) y[rest] = value;
}
KERNEL fill_32(int *y, long long n, int bits) { fill<4>(y, n, bits); }
KERNEL fill_8(unsigned char *y, long long n, int bits) { fill<16>(y, n, (unsigned char)bits); }

// start + i * step
KERNEL range_f32(float *y, long long n, double start, double step) {
  for (GRID_LOOP(i, n)) y[i] = (float)(start + (double)i * step);
}
KERNEL range_i32(int *y, long long n, double start, double step) {
  for (GRID_LOOP(i, n)) y[i] = to_int32(start + (double)i * step);
}
