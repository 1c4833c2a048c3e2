// Tensor maps as the check programs make them, by the driver's own function: nothing but the driver has to be linked.
#pragma once
#include <cuda.h>
#include <dlfcn.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "../../kernels/cuda/hopper.cuh"

typedef CUresult (*EncodeTiled)(CUtensorMap *, CUtensorMapDataType, cuuint32_t, void *, const cuuint64_t *, const cuuint64_t *, const cuuint32_t *,
                                const cuuint32_t *, CUtensorMapInterleave, CUtensorMapSwizzle, CUtensorMapL2promotion, CUtensorMapFloatOOBfill);
static EncodeTiled find_encode_tiled() {
  void *driver = dlopen("libcuda.so.1", RTLD_NOW);
  const EncodeTiled found = driver ? (EncodeTiled)dlsym(driver, "cuTensorMapEncodeTiled") : nullptr;
  if (!found) printf("cuTensorMapEncodeTiled was not found in libcuda.so.1\n"), exit(2);
  return found;
}

// Of `items` row-major matrices [lines, length] of 16-bit values, which the copy engine moves as they are.
static hopper_map tensor_map(const void *at, long long length, long long lines, int box_length, int box_lines, int items = 1) {
  static const EncodeTiled encode_tiled = find_encode_tiled();
  CUtensorMap map;
  const cuuint64_t dims[3] = {(cuuint64_t)length, (cuuint64_t)lines, (cuuint64_t)items};
  const cuuint64_t strides[2] = {(cuuint64_t)length * 2, (cuuint64_t)(length * lines * 2)};
  const cuuint32_t box[3] = {(cuuint32_t)box_length, (cuuint32_t)box_lines, 1}, ones[3] = {1, 1, 1};
  const CUresult result =
      encode_tiled(&map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 3, const_cast<void *>(at), dims, strides, box, ones, CU_TENSOR_MAP_INTERLEAVE_NONE,
                   CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (result != CUDA_SUCCESS) printf("cuTensorMapEncodeTiled failed: %d\n", (int)result), exit(2);
  hopper_map bytes;
  static_assert(sizeof bytes == sizeof map, "a tensor map has 128 bytes");
  memcpy(&bytes, &map, sizeof map);
  return bytes;
}
