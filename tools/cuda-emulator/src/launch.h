// Runs one launch of a kernel on the calling thread.
#pragma once

#define EMULATOR_DRIVER
#include "../include/engine.h"

namespace emulator {

constexpr size_t sharedMemoryLimit = 232448;

/** The kernel of this name, or null. */
const Kernel* findKernel(const char* name);
bool moduleExists(const char* module);

/** Runs every block, one after the other. Returns a CUresult; what went wrong is said on stderr. */
int runLaunch(const Kernel& kernel, dim3 grid, dim3 threads, unsigned sharedBytes, void** arguments);

}  // namespace emulator
