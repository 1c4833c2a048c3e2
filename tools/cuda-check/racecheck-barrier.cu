// Shows what compute-sanitizer's racecheck makes of a barrier that a part of a block waits at: behind it the tool no longer
// takes __syncthreads for what it is, and reports reads that come after it. Both kernels list numbers, wait for the block and
// add up the list; `part` has a barrier of eight of its twelve warps before, `whole` one of all.
//
//   nvcc -O3 -lineinfo -std=c++17 -arch=sm_90a -o /tmp/racecheck-barrier tools/cuda-check/racecheck-barrier.cu
//   compute-sanitizer --tool racecheck /tmp/racecheck-barrier
#include <cstdio>

constexpr int THREADS = 384, LISTING = 256;

template <bool PART> __device__ void list_and_add(int *out) {
  __shared__ int counts[LISTING / 32], list[LISTING];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const unsigned chosen = __ballot_sync(~0u, (threadIdx.x * 2654435761u >> 20) & 1);
  if (lane == 0 && threadIdx.x < LISTING) counts[warp] = __popc(chosen);
  if (!PART) __syncthreads();
  if (threadIdx.x < LISTING) {
    if (PART) asm volatile("bar.sync 1, 256;" ::: "memory");
    int before = 0;
    for (int w = 0; w < warp; w++) before += counts[w];
    if (chosen >> lane & 1) list[before + __popc(chosen & ((1u << lane) - 1))] = threadIdx.x;
  }
  __syncthreads();
  int count = 0, sum = 0;
  for (int w = 0; w < LISTING / 32; w++) count += counts[w];
  for (int i = 0; i < count; i++) sum += list[i];
  out[blockIdx.x * THREADS + threadIdx.x] = sum;
}

__global__ void part(int *out) { list_and_add<true>(out); }
__global__ void whole(int *out) { list_and_add<false>(out); }

int main() {
  int *out;
  cudaMalloc(&out, 8 * THREADS * sizeof(int));
  for (int turn = 0; turn < 20; turn++) {
    part<<<8, THREADS>>>(out);
    whole<<<8, THREADS>>>(out);
  }
  const cudaError_t state = cudaDeviceSynchronize();
  printf("%s\n", cudaGetErrorString(state));
  return state != cudaSuccess;
}
