// Activations of results that are rounded to 16 bits: a few instructions each, within 2e-7 of the true value's scale.
#pragma once
#include "hopper.cuh"

// x times the logistic function of x (a + b x^2): silu, or gelu's tanh form.
struct experts_logistic {
  float a, b;
  __device__ __forceinline__ explicit experts_logistic(int activation) {
    // log2(e), and for gelu 2 sqrt(2 / pi) and 0.044715 times as much.
    a = -1.4426950408889634f * (activation == 2 ? 1.5957691216057308f : 1.0f);
    b = activation == 2 ? 0.044715f * a : 0.0f;
  }
  __device__ __forceinline__ float operator()(float x) const { return x * hopper_reciprocal(1.0f + hopper_exp2(x * (a + b * x * x))); }
};

// x times the normal distribution's cumulative function, by Abramowitz and Stegun 7.1.26 (error of erf below 1.5e-7).
__device__ __forceinline__ float experts_gelu(float x) {
  const float z = fabsf(x) * 0.70710678118654752f, k = hopper_reciprocal(1.0f + 0.3275911f * z);
  const float p = ((((1.061405429f * k - 1.453152027f) * k + 1.421413741f) * k - 0.284496736f) * k + 0.254829592f) * k;
  const float tail = 0.5f * p * hopper_exp2(-1.4426950408889634f * z * z);  // of the normal distribution, past |x|
  return x * (x > 0 ? 1.0f - tail : tail);
}
