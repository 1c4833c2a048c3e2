// The threads of a block run on fibers. A worker fiber takes thread after thread of the block; where one must wait, at
// a barrier or for its warp, that fiber is set aside and another goes on. A kernel that never waits runs all its
// threads on one fiber, as a plain loop.
#include "launch.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include <map>
#include <string>
#include <set>

#include "fiber.h"

namespace emulator {

uint3 thread, block;
dim3 blockSize, gridSize;
alignas(1024) char sharedMemory[sharedMemoryLimit + 1024];

namespace {

constexpr int maximumThreads = 1024;
constexpr char sharedCanary = (char)0xa5;
constexpr int illegalAddress = 700, misalignedAddress = 716, launchFailed = 719;

struct Warp {
  unsigned alive, waiting;
  WarpOp ops[32];
  unsigned masks[32];
  uint64_t values[32];
  int sources[32];
  uint64_t results[32];
  Fiber* fibers[32];
};

std::map<std::string, Kernel>& kernels() {
  static std::map<std::string, Kernel> table;
  return table;
}

Fiber workers[maximumThreads];
Fiber scheduler;
Fiber* current;
Fiber* idle[maximumThreads];
int idleCount;
Fiber* ready[maximumThreads];
unsigned readyHead, readyTail;
Fiber* atBarrier[maximumThreads];
int barrierCount, barrierPredicates;
BarrierResult barrierResult;
Warp warps[maximumThreads / 32];
unsigned threadCount, nextIndex, aliveThreads;

const Kernel* running;
void** runningArguments;
int failure;

void pushReady(Fiber* fiber) { ready[readyTail++ % maximumThreads] = fiber; }
Fiber* popReady() { return readyHead == readyTail ? nullptr : ready[readyHead++ % maximumThreads]; }

void setThread(unsigned index) {
  unsigned x = blockSize.x, y = blockSize.y;
  if (index < x) {
    thread = {index, 0, 0};
  } else {
    thread = {index % x, index / x % y, index / x / y};
  }
}

/** Ends the launch from within a kernel. */
[[noreturn]] void fail(int code) {
  failure = code;
  switchFiber(current, &scheduler);
  abort();
}

void worker() {
  for (;;) {
    running->run(runningArguments);
    Fiber* self = current;
    idle[idleCount++] = self;
    Fiber* next = popReady();
    if (next == nullptr) {
      switchFiber(self, &scheduler);
    } else {
      current = next;
      switchFiber(self, next);
    }
  }
}

/** Leaves the running fiber until somebody makes it ready. */
void suspend() {
  Fiber* self = current;
  Fiber* next = popReady();
  if (next == nullptr && nextIndex < threadCount) next = idle[--idleCount];
  if (next == nullptr) {
    switchFiber(self, &scheduler);
  } else {
    current = next;
    switchFiber(self, next);
  }
  setThread(self->thread);
}

void releaseBarrier(Fiber* last) {
  barrierResult = {barrierPredicates, barrierCount};
  for (int i = 0; i < barrierCount; ++i) {
    if (atBarrier[i] != last) pushReady(atBarrier[i]);
  }
  barrierCount = barrierPredicates = 0;
}

/** Lets the lanes go on that wait together with `lane`, if all of them have come. */
bool releaseWarp(Warp& warp, int first, Fiber* last) {
  unsigned lanes = warp.masks[first] & warp.alive;
  if ((lanes & ~warp.waiting) != 0) return false;
  WarpOp op = warp.ops[first];
  uint64_t combined = 0;
  bool begun = false;
  for (unsigned rest = lanes; rest != 0; rest &= rest - 1) {
    int lane = __builtin_ctz(rest);
    if (warp.ops[lane] != op || (warp.masks[lane] & warp.alive) != lanes) {
      fprintf(stderr, "emulated CUDA: kernel %s: lanes %d and %d of a warp wait at different operations or with different masks\n",
              running->name, first, lane);
      fail(launchFailed);
    }
    uint64_t value = warp.values[lane];
    switch (op) {
      case WarpOp::ballot: combined |= value << lane; break;
      case WarpOp::add: combined += value; break;
      case WarpOp::max: combined = !begun || (int64_t)value > (int64_t)combined ? value : combined; break;
      case WarpOp::min: combined = !begun || (int64_t)value < (int64_t)combined ? value : combined; break;
      default: break;
    }
    begun = true;
  }
  for (unsigned rest = lanes; rest != 0; rest &= rest - 1) {
    int lane = __builtin_ctz(rest);
    uint64_t result = combined;
    if (op == WarpOp::shuffle) {
      int source = warp.sources[lane];
      // What a lane reads from one that takes no part is undefined on the card, and NaN here.
      result = source >= 0 && source < 32 && (lanes >> source & 1) ? warp.values[source] : ~(uint64_t)0;
    } else if (op == WarpOp::match) {
      result = 0;
      for (unsigned others = lanes; others != 0; others &= others - 1) {
        int other = __builtin_ctz(others);
        if (warp.values[other] == warp.values[lane]) result |= 1u << other;
      }
    }
    warp.results[lane] = result;
    if (warp.fibers[lane] != last) pushReady(warp.fibers[lane]);
  }
  warp.waiting &= ~lanes;
  return true;
}

/** Runs one block; 0 or a CUresult. */
int runBlock() {
  threadCount = aliveThreads = blockSize.x * blockSize.y * blockSize.z;
  nextIndex = 0;
  for (unsigned w = 0; w * 32 < threadCount; ++w) {
    unsigned lanes = threadCount - w * 32;
    warps[w].alive = lanes >= 32 ? ~0u : (1u << lanes) - 1;
    warps[w].waiting = 0;
  }
  while (nextIndex < threadCount && failure == 0) {
    current = idle[--idleCount];
    switchFiber(&scheduler, current);
  }
  if (failure == 0 && aliveThreads > 0) {
    fprintf(stderr, "emulated CUDA: kernel %s: %u of %u threads wait for ones that never come (%d at a barrier)\n",
            running->name, aliveThreads, threadCount, barrierCount);
    failure = launchFailed;
  }
  return failure;
}

void resetFibers() {
  readyHead = readyTail = 0;
  barrierCount = barrierPredicates = 0;
  idleCount = 0;
  // The first is taken first: few stacks stay warm.
  for (int i = maximumThreads - 1; i >= 0; --i) {
    if (workers[i].stack != nullptr || i == 0) startFiber(&workers[i], (unsigned)i, worker);
    idle[idleCount++] = &workers[i];
  }
}

void ensureFibers(unsigned count) {
  static unsigned made = 0;
  if (made == 0) resetFibers(), made = 1;
  for (; made < count; ++made) startFiber(&workers[made], made, worker);
}

struct sigaction oldSegmentationHandler, oldBusHandler;

void onFault(int signal, siginfo_t* info, void* context) {
  if (running != nullptr) {
    fprintf(stderr, "emulated CUDA: kernel %s touched the address %p in block (%u, %u, %u), thread (%u, %u, %u)\n",
            running->name, info->si_addr, block.x, block.y, block.z, thread.x, thread.y, thread.z);
    fail(illegalAddress);
  }
  struct sigaction& old = signal == SIGBUS ? oldBusHandler : oldSegmentationHandler;
  if (old.sa_flags & SA_SIGINFO) {
    old.sa_sigaction(signal, info, context);
  } else if (old.sa_handler == SIG_DFL || old.sa_handler == SIG_IGN) {
    sigaction(signal, &old, nullptr);
  } else {
    old.sa_handler(signal);
  }
}

void catchFaults() {
  static bool done = false;
  if (done) return;
  done = true;
  struct sigaction action = {};
  action.sa_sigaction = onFault;
  // Not deferred: the handler leaves for the scheduler's stack and never returns.
  action.sa_flags = SA_SIGINFO | SA_NODEFER;
  sigaction(SIGSEGV, &action, &oldSegmentationHandler);
  sigaction(SIGBUS, &action, &oldBusHandler);
}

}  // namespace

Registration::Registration(const Kernel& kernel) { kernels()[kernel.name] = kernel; }

const Kernel* findKernel(const char* name) {
  auto found = kernels().find(name);
  return found == kernels().end() ? nullptr : &found->second;
}

bool moduleExists(const char* module) {
  for (auto& [name, kernel] : kernels()) {
    if (strcmp(kernel.module, module) == 0) return true;
  }
  return false;
}

bool nextThread() {
  if (nextIndex >= threadCount) return false;
  current->thread = nextIndex;
  setThread(nextIndex++);
  return true;
}

void finishThread() {
  unsigned index = current->thread;
  Warp& warp = warps[index / 32];
  warp.alive &= ~(1u << index % 32);
  --aliveThreads;
  // Those that wait no longer wait for this one.
  for (unsigned rest = warp.waiting; rest != 0; rest &= warp.waiting & (rest - 1)) {
    releaseWarp(warp, __builtin_ctz(rest), nullptr);
  }
  if (barrierCount > 0 && (unsigned)barrierCount == aliveThreads) releaseBarrier(nullptr);
}

BarrierResult barrier(int predicate) {
  atBarrier[barrierCount++] = current;
  barrierPredicates += predicate;
  if ((unsigned)barrierCount == aliveThreads) {
    releaseBarrier(current);
  } else {
    suspend();
  }
  return barrierResult;
}

uint64_t warp(WarpOp op, unsigned mask, uint64_t value, int source) {
  unsigned index = current->thread;
  int lane = (int)(index % 32);
  Warp& warp = warps[index / 32];
  if (!(mask >> lane & 1)) {
    fprintf(stderr, "emulated CUDA: kernel %s: lane %d takes part in a warp operation whose mask leaves it out\n", running->name, lane);
    fail(launchFailed);
  }
  warp.ops[lane] = op;
  warp.masks[lane] = mask;
  warp.values[lane] = value;
  warp.sources[lane] = source;
  warp.fibers[lane] = current;
  warp.waiting |= 1u << lane;
  if (!releaseWarp(warp, lane, current)) suspend();
  return warp.results[lane];
}

unsigned liveLanes() { return warps[current->thread / 32].alive; }

int lane() { return (int)(current->thread % 32); }

long long clock() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * 1000000000ll + now.tv_nsec;
}

void yield() {
  Fiber* self = current;
  pushReady(self);
  Fiber* next = nextIndex < threadCount ? idle[--idleCount] : popReady();
  if (next == self) return;
  current = next;
  switchFiber(self, next);
  setThread(self->thread);
}

void trap() {
  fprintf(stderr, "emulated CUDA: kernel %s: __trap()\n", running->name);
  fail(launchFailed);
}

int runLaunch(const Kernel& kernel, dim3 grid, dim3 threads, unsigned sharedBytes, void** arguments) {
  ensureFibers(threads.x * threads.y * threads.z);
  catchFaults();
  blockSize = threads;
  gridSize = grid;
  runningArguments = arguments;
  failure = 0;
  running = &kernel;
  char* canary = sharedMemory + sharedBytes;
  memset(canary, sharedCanary, 64);
  for (block.z = 0; block.z < grid.z && failure == 0; ++block.z) {
    for (block.y = 0; block.y < grid.y && failure == 0; ++block.y) {
      for (block.x = 0; block.x < grid.x && failure == 0; ++block.x) {
        if (sharedBytes > 0) memset(sharedMemory, 0xff, sharedBytes);
        runBlock();
        for (int i = 0; i < 64 && failure == 0; ++i) {
          if (canary[i] != sharedCanary) {
            fprintf(stderr, "emulated CUDA: kernel %s wrote past its %u bytes of shared memory\n", kernel.name, sharedBytes);
            failure = illegalAddress;
          }
        }
      }
    }
  }
  running = nullptr;
  if (failure != 0) resetFibers();
  return failure;
}

}  // namespace emulator

// The kernels are compiled with -fsanitize=alignment,null,bounds; this is what the checks call.
namespace {

struct Location {
  const char* file;
  unsigned line, column;
};

[[noreturn]] void report(const Location* location, const char* what, int code) {
  using namespace emulator;
  fprintf(stderr, "emulated CUDA: kernel %s: %s at %s:%u in block (%u, %u, %u), thread (%u, %u, %u)\n",
          running->name, what, location->file, location->line, block.x, block.y, block.z, emulator::thread.x,
          emulator::thread.y, emulator::thread.z);
  fail(code);
}

}  // namespace

extern "C" __attribute__((visibility("hidden"))) void __ubsan_handle_type_mismatch_v1(Location* location, size_t address) {
  if (address == 0) report(location, "null is dereferenced", emulator::illegalAddress);
  report(location, "a misaligned address is dereferenced", emulator::misalignedAddress);
}

extern "C" __attribute__((visibility("hidden"))) void __ubsan_handle_out_of_bounds(Location* location, size_t) {
  report(location, "an index is out of its array's bounds", emulator::illegalAddress);
}

extern "C" __attribute__((visibility("hidden"))) void __ubsan_handle_pointer_overflow(Location*, size_t, size_t) {}
