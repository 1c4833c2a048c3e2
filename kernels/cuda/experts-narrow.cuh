// What the two launches of a narrow layer share: units of 128 consecutive neurons, and which experts they belong to.
#pragma once
#include "common.cuh"

// Most experts: a row's are the bits of a word. Most units.
constexpr int EXPERTS_NARROW_EXPERTS = 32, EXPERTS_NARROW_UNITS = 16, EXPERTS_NARROW_WIDTH = 128;

struct experts_narrow_units {
  int experts, size;
  __device__ __forceinline__ int count() const { return (experts * size + EXPERTS_NARROW_WIDTH - 1) / EXPERTS_NARROW_WIDTH; }
  // The bits of the experts that have neurons in a unit.
  __device__ __forceinline__ unsigned experts_of(int unit) const {
    const int first = unit * EXPERTS_NARROW_WIDTH / size, last = min(experts - 1, (unit * EXPERTS_NARROW_WIDTH + EXPERTS_NARROW_WIDTH - 1) / size);
    return ~0u >> (31 - last) & ~0u << first;
  }
};
