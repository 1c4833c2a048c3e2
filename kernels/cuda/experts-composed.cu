// What a masked dense FFN needs beside two or three matrix products, for shapes that no kernel of the expert op takes:
// packed weights as plain float32 matrices, and between the products biases, activation and mask.
#include "experts.cuh"

// rows × pitch packed elements to rows × width of float32.
template <int STORAGE>
__device__ __forceinline__ void composed_unpack(const void *from, const float *scales, float *to, long long rows, int width, int pitch) {
  for (GRID_LOOP(i, rows * width)) {
    const long long at = i / width * pitch + i % width;
    if (STORAGE == HALF) to[i] = __half2float(static_cast<const __half *>(from)[at]);
    if (STORAGE == BFLOAT16) to[i] = __bfloat162float(static_cast<const bf16 *>(from)[at]);
    if (STORAGE == FLOAT32) to[i] = static_cast<const float *>(from)[at];
    if (STORAGE == INT8) to[i] = (float)static_cast<const signed char *>(from)[at] * scales[i / width];
  }
}

#define COMPOSED_UNPACK(name, STORAGE)                                                                                       \
  KERNEL experts_unpack_##name(const void *from, const float *scales, float *to, long long rows, int width, int pitch) {     \
    composed_unpack<STORAGE>(from, scales, to, rows, width, pitch);                                                          \
  }
COMPOSED_UNPACK(f16, HALF)
COMPOSED_UNPACK(bf16, BFLOAT16)
COMPOSED_UNPACK(f32, FLOAT32)
COMPOSED_UNPACK(int8, INT8)

// up [rows, hidden] becomes the hidden activations, zeros where the row does not run the expert.
template <typename T>
__device__ __forceinline__ void composed_activate(T *up, const T *gate, const unsigned char *selection, const float *up_bias, const float *gate_bias,
                                                  long long rows, int experts, int size, int activation) {
  const int hidden = experts * size;
  for (GRID_LOOP(i, rows * hidden)) {
    const int j = (int)(i % hidden);
    float h = 0;
    if (selection[i / hidden * experts + j / size]) {
      const float u = to_float(up[i]) + up_bias[j];
      h = gate ? experts_activate(to_float(gate[i]) + gate_bias[j], activation) * u : experts_activate(u, activation);
    }
    up[i] = from_float<T>(h);
  }
}

#define COMPOSED_ACTIVATE(name, T)                                                                                           \
  KERNEL experts_activate_##name(T *up, const T *gate, const unsigned char *selection, const float *up_bias,                 \
                                 const float *gate_bias, long long rows, int experts, int size, int activation) {            \
    composed_activate<T>(up, gate, selection, up_bias, gate_bias, rows, experts, size, activation);                          \
  }
COMPOSED_ACTIVATE(f32, float)
COMPOSED_ACTIVATE(bf16, bf16)
COMPOSED_ACTIVATE(f16, __half)
