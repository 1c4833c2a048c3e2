// Waits for a stream, but not for ever. What fails or hangs is named, and the program ends.
#pragma once
#include <cuda_runtime.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <string>

static void settle(cudaStream_t stream, const std::string &what, int seconds = 8) {
  const auto start = std::chrono::steady_clock::now();
  for (;;) {
    const cudaError_t state = cudaStreamQuery(stream);
    if (state == cudaSuccess) return;
    const bool waits = state == cudaErrorNotReady;
    if (!waits || std::chrono::steady_clock::now() - start > std::chrono::seconds(seconds)) {
      printf("FAILED %s: %s\n", what.c_str(), waits ? "does not end" : cudaGetErrorString(state));
      fflush(stdout), _exit(waits ? 3 : 1);
    }
    usleep(50);
  }
}
