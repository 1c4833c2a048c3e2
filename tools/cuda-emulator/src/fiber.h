// A fiber is a stack of its own: `switchFiber` leaves one and goes on in another.
#pragma once

#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#ifndef __x86_64__
#include <ucontext.h>
#endif

namespace emulator {

struct Fiber {
#ifdef __x86_64__
  void* stackPointer = nullptr;
#else
  ucontext_t context;
#endif
  char* stack = nullptr;
  unsigned thread = 0;
};

constexpr size_t stackBytes = 128 << 10;

#ifdef __x86_64__
// Saves the registers that a callee must keep, changes stacks, and takes up the other's registers.
asm(R"(
.text
.p2align 4
.hidden emulatorSwitch
.globl emulatorSwitch
.type emulatorSwitch, @function
emulatorSwitch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size emulatorSwitch, .-emulatorSwitch
)");
extern "C" __attribute__((visibility("hidden"))) void emulatorSwitch(void** saved, void* next);

inline void switchFiber(Fiber* from, Fiber* to) {
  emulatorSwitch(&from->stackPointer, to->stackPointer);
}
#else
inline void switchFiber(Fiber* from, Fiber* to) { swapcontext(&from->context, &to->context); }
#endif

/** Makes the fiber begin in `body`, which must not return, at its next turn. */
inline void startFiber(Fiber* fiber, unsigned index, void (*body)()) {
  if (fiber->stack == nullptr) {
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    void* memory = mmap(nullptr, stackBytes + page, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) abort();
    mprotect(memory, page, PROT_NONE);
    fiber->stack = (char*)memory + page;
  }
#ifdef __x86_64__
  // Tops at different offsets, so that the stacks do not all fall into the same cache sets.
  size_t top = ((size_t)fiber->stack + stackBytes - (index % 64) * 448) & ~(size_t)63;
  void** frame = (void**)top;
  *--frame = nullptr;        // the address that `body` would return to
  *--frame = (void*)body;    // where the switch's `ret` goes
  frame -= 6;                // its six registers
  fiber->stackPointer = frame;
#else
  (void)index;
  getcontext(&fiber->context);
  fiber->context.uc_stack.ss_sp = fiber->stack;
  fiber->context.uc_stack.ss_size = stackBytes;
  fiber->context.uc_link = nullptr;
  makecontext(&fiber->context, body, 0);
#endif
}

}  // namespace emulator
