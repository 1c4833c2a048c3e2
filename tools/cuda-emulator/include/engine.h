// What kernels and the driver share: the thread that runs, barriers, warp operations, and the table of kernels.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include <type_traits>
#include <utility>

#ifdef EMULATOR_DRIVER
struct dim3 {
  unsigned int x = 1, y = 1, z = 1;
};
struct uint3 {
  unsigned int x, y, z;
};
#endif

#pragma GCC visibility push(hidden)
namespace emulator {

extern uint3 thread, block;
extern dim3 blockSize, gridSize;

/** Where dynamic shared memory lies, in every launch. */
extern char sharedMemory[];

/** How many threads of the block reached a barrier, and for how many of them the predicate held. */
struct BarrierResult {
  int count, threads;
};
BarrierResult barrier(int predicate);

enum class WarpOp { sync, shuffle, ballot, match, add, max, min };
uint64_t warp(WarpOp op, unsigned mask, uint64_t value, int source);
unsigned liveLanes();
int lane();
long long clock();
[[noreturn]] void trap();
/** Lets the block's other threads go on, for a thread that waits for what one of them will write. */
void yield();

/** What cuTensorMapEncodeTiled puts into a tensor map: matrices of 16-bit values in boxes whose lines are swizzled. */
struct TensorMap {
  uint64_t address, dimensions[3], strides[2];
  uint32_t box[3];
};

/** Makes the block's next thread the running one; false where all have begun. */
bool nextThread();
/** The running thread has returned from the kernel. */
void finishThread();

struct Parameter {
  unsigned size, alignment;
  bool pointer;
};

struct Kernel {
  const char* name;
  const char* module;
  /** Runs threads of the block until all have begun. */
  void (*run)(void** arguments);
  const Parameter* parameters;
  int parameterCount;
};

struct Registration {
  Registration(const Kernel& kernel);
};

template <auto function>
struct Entry;

template <class... A, void (*function)(A...)>
struct Entry<function> {
  static constexpr Parameter parameters[] = {
      {sizeof(A), alignof(A), std::is_pointer<A>::value}..., {0, 1, false}};
  template <size_t... I>
  static void call(void** arguments, std::index_sequence<I...>) {
    function(*static_cast<std::remove_cv_t<A>*>(arguments[I])...);
  }
  static void run(void** arguments) {
    while (nextThread()) {
      call(arguments, std::index_sequence_for<A...>());
      finishThread();
    }
  }
  static Kernel kernel(const char* name, const char* module) {
    return {name, module, run, parameters, (int)sizeof...(A)};
  }
};

}  // namespace emulator
#pragma GCC visibility pop
