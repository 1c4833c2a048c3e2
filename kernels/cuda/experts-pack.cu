// Weights of an FFN as the expert op reads them: rows in a 16-bit type, in int8 or in float32, each padded with zeros to 16
// bytes. int8 rows have a scale of their own, by which their greatest weight is 127.
#include "experts.cuh"

// rows × width of float32 to rows × pitch elements; a warp a row.
template <int STORAGE> __device__ __forceinline__ void pack_rows(const float *from, void *to, float *scales, long long rows, int width, int pitch) {
  const int lane = threadIdx.x % 32, warps = gridDim.x * (blockDim.x / 32);
  for (long long r = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32; r < rows; r += warps) {
    const float *row = from + r * width;
    float inverse = 1;
    if (STORAGE == INT8) {
      float most = 0;
      for (int i = lane; i < width; i += 32) most = fmaxf(most, fabsf(row[i]));
      most = warp_max(most);
      inverse = most > 0 ? 127.0f / most : 0.0f;
      if (lane == 0) scales[r] = most / 127.0f;
    }
    for (int i = lane; i < pitch; i += 32) {
      const float v = i < width ? row[i] * inverse : 0.0f;
      const long long at = r * pitch + i;
      if (STORAGE == HALF) static_cast<__half *>(to)[at] = __float2half(v);
      if (STORAGE == BFLOAT16) static_cast<bf16 *>(to)[at] = __float2bfloat16(v);
      if (STORAGE == TF32 || STORAGE == FLOAT32) static_cast<float *>(to)[at] = v;
      if (STORAGE == INT8) static_cast<signed char *>(to)[at] = (signed char)fminf(fmaxf(rintf(v), -127.0f), 127.0f);
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
