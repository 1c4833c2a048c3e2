// float32 to bf16 (rounded to nearest even) and back: the two forms that a float32 tensor may have. Both read and write
// whole vectors; every allocation begins at a multiple of 256 bytes, so only the end needs single elements.
#include "common.cuh"

KERNEL convert_f32_to_bf16(const float *__restrict__ x, bf16 *__restrict__ y, long long n) {
  const long long vectors = n / 4;
  const float4 *x4 = reinterpret_cast<const float4 *>(x);
  bf16x4 *y4 = reinterpret_cast<bf16x4 *>(y);
  for (GRID_LOOP(i, vectors)) {
    const float4 v = x4[i];
    bf16x4 w;
    w.x = __float2bfloat16(v.x);
    w.y = __float2bfloat16(v.y);
    w.z = __float2bfloat16(v.z);
    w.w = __float2bfloat16(v.w);
    y4[i] = w;
  }
  const long long i = vectors * 4 + blockIdx.x * (long long)blockDim.x + threadIdx.x;
  if (i < n) y[i] = __float2bfloat16(x[i]);
}

KERNEL convert_bf16_to_f32(const bf16 *__restrict__ x, float *__restrict__ y, long long n) {
  const long long vectors = n / 4;
  const bf16x4 *x4 = reinterpret_cast<const bf16x4 *>(x);
  float4 *y4 = reinterpret_cast<float4 *>(y);
  for (GRID_LOOP(i, vectors)) {
    const bf16x4 v = x4[i];
    float4 w;
    w.x = __bfloat162float(v.x);
    w.y = __bfloat162float(v.y);
    w.z = __bfloat162float(v.z);
    w.w = __bfloat162float(v.w);
    y4[i] = w;
  }
  const long long i = vectors * 4 + blockIdx.x * (long long)blockDim.x + threadIdx.x;
  if (i < n) y[i] = __bfloat162float(x[i]);
}
