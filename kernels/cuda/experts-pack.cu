// Weights of an FFN as the expert op reads them: rows in a 16- or 8-bit type or in float32, each padded with zeros to 16
// bytes. 8-bit rows have a scale of their own, by which their greatest weight is the type's greatest number.
#include "experts.cuh"

// The nearest e4m3 number, of at most 448.
__device__ __forceinline__ unsigned char pack_e4m3(float x) {
  const float size = fminf(fabsf(x), 448.0f);
  unsigned bits;
  if (size < 0.015625f) {
    bits = (unsigned)rintf(size * 512.0f);  // subnormals, in steps of 2^-9
  } else {
    bits = __float_as_uint(size);
    bits = ((bits + 0x7ffffu + (bits >> 20 & 1u)) >> 20) - (120u << 3);
  }
  return (unsigned char)(bits | (x < 0 ? 0x80u : 0u));
}

// rows × width of float32 to rows × pitch elements; a warp a row.
template <int STORAGE> __device__ __forceinline__ void pack_rows(const float *from, void *to, float *scales, long long rows, int width, int pitch) {
  const int lane = threadIdx.x % 32, warps = gridDim.x * (blockDim.x / 32);
  for (long long r = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32; r < rows; r += warps) {
    const float *row = from + r * width;
    float inverse = 1;
    if (STORAGE == INT8 || STORAGE == FP8) {
      float most = 0;
      for (int i = lane; i < width; i += 32) most = fmaxf(most, fabsf(row[i]));
      most = warp_max(most);
      const float top = STORAGE == INT8 ? 127.0f : 448.0f;
      inverse = most > 0 ? top / most : 0.0f;
      if (lane == 0) scales[r] = most / top;
    }
    for (int i = lane; i < pitch; i += 32) {
      const float v = i < width ? row[i] * inverse : 0.0f;
      const long long at = r * pitch + i;
      if (STORAGE == HALF) static_cast<__half *>(to)[at] = __float2half(v);
      if (STORAGE == BFLOAT16) static_cast<bf16 *>(to)[at] = __float2bfloat16(v);
      if (STORAGE == TF32 || STORAGE == FLOAT32) static_cast<float *>(to)[at] = v;
      if (STORAGE == INT8) static_cast<signed char *>(to)[at] = (signed char)fminf(fmaxf(rintf(v), -127.0f), 127.0f);
      if (STORAGE == FP8) static_cast<unsigned char *>(to)[at] = pack_e4m3(v);
    }
  }
}

#define PACK_ROWS(name, STORAGE)                                                                                               \
  KERNEL experts_pack_##name(const float *from, void *to, float *scales, long long rows, int width, int pitch) {               \
    pack_rows<STORAGE>(from, to, scales, rows, width, pitch);                                                                  \
  }

PACK_ROWS(f16, HALF)
PACK_ROWS(bf16, BFLOAT16)
PACK_ROWS(f32, FLOAT32)
PACK_ROWS(int8, INT8)
PACK_ROWS(fp8, FP8)
