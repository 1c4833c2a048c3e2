// Units: what the many-rows path executes at once. A unit is `per_unit` whole experts (where an expert has fewer neurons
// than a tile is wide), or one of an expert's `parts`. Its neurons are consecutive. A token's units go in segments of one
// or two: one row of one tile each.
#pragma once
#include "common.cuh"

__device__ __forceinline__ float to_float(__half x) { return __half2float(x); }
template <> __device__ __forceinline__ __half from_float<__half>(float x) { return __float2half(x); }

// Four bytes' bits: whether each is not zero, the first the lowest.
__device__ __forceinline__ unsigned experts_four_bits(unsigned bytes) {
  const unsigned high = (bytes | ((bytes & 0x7f7f7f7fu) + 0x7f7f7f7fu)) & 0x80808080u;
  return (high >> 7) * 0x01020408u >> 24 & 15u;
}
__device__ __forceinline__ unsigned experts_sixteen_bits(const uint4 &bytes) {
  return experts_four_bits(bytes.x) | experts_four_bits(bytes.y) << 4 | experts_four_bits(bytes.z) << 8 | experts_four_bits(bytes.w) << 12;
}
// The bits of 32 experts of a row, or of fewer at its end: the one of that number first. Takes 16, 8 or 4 bytes at a time
// where rows of n experts begin at such places.
__device__ __forceinline__ unsigned experts_selected(const unsigned char *selection, long long row, int n, int first) {
  const int count = min(n - first, 32);
  const unsigned char *from = selection + row * n + first;
  unsigned word = 0;
  if (n % 16 == 0) {
    for (int e = 0; e < count; e += 16) word |= experts_sixteen_bits(*reinterpret_cast<const uint4 *>(from + e)) << e;
  } else if (n % 8 == 0) {
    for (int e = 0; e < count; e += 8) {
      const uint2 b = *reinterpret_cast<const uint2 *>(from + e);
      word |= (experts_four_bits(b.x) | experts_four_bits(b.y) << 4) << e;
    }
  } else if (n % 4 == 0) {
    for (int e = 0; e < count; e += 4) word |= experts_four_bits(*reinterpret_cast<const unsigned *>(from + e)) << e;
  } else {
    for (int e = 0; e < count; e++) word |= (unsigned)(from[e] != 0) << e;
  }
  return word;
}

struct experts_units {
  int experts, size, per_unit, parts, width;  // width: neurons that a tile has room for in one unit

  __device__ __forceinline__ int count() const { return (experts + per_unit - 1) / per_unit * parts; }
  __device__ __forceinline__ int first_expert(int unit) const { return unit / parts * per_unit; }
  __device__ __forceinline__ int first_neuron(int unit) const { return first_expert(unit) * size + unit % parts * width; }
  __device__ __forceinline__ int neurons(int unit) const {
    if (parts > 1) return min(width, size - unit % parts * width);
    return min(per_unit, experts - first_expert(unit)) * size;
  }
  // Which of the unit's experts a token runs, from its mask's words.
  __device__ __forceinline__ unsigned chosen(const unsigned *mask, int words, int unit) const {
    const int expert = first_expert(unit), word = expert / 32, shift = expert % 32;
    unsigned bits = mask[word] >> shift;
    if (shift + per_unit > 32 && word + 1 < words) bits |= mask[word + 1] << (32 - shift);
    return per_unit == 32 ? bits : bits & ((1u << per_unit) - 1);
  }
  // Calls `each` with the units that a token runs, in order.
  template <typename F> __device__ __forceinline__ void visit(const unsigned *mask, int words, F each) const {
    int last = -1;
    for (int word = 0; word < words; word++) {
      for (unsigned bits = mask[word]; bits != 0; bits &= bits - 1) {
        const int expert = word * 32 + __ffs(bits) - 1;
        const int unit = expert / per_unit * parts;
        if (unit == last) continue;
        last = unit;
        for (int part = 0; part < parts; part++) each(unit + part);
      }
    }
  }
  // Calls `each` with the token's segments, first and second unit, -1 for none, and their number from 0. Units pair up
  // within the first half and within the second, what is left of both last: of an odd number, none is left but a single
  // one, and rows meet in half as many groups as if any two could pair up.
  template <typename F>
  __device__ __forceinline__ void segments(const unsigned *mask, int words, int paired, F each) const {
    const int half = count() / 2;
    int low = -1, high = -1, number = 0;
    visit(mask, words, [&](int unit) {
      if (!paired) return each(unit, -1, number++);
      int &pending = unit < half ? low : high;
      if (pending >= 0) each(pending, unit, number++);
      pending = pending >= 0 ? -1 : unit;
    });
    if (low >= 0 || high >= 0) each(low >= 0 ? low : high, low >= 0 ? high : -1, number);
  }
};

// Segments of the same units are a group: pairs (a < b) first, then single units.
__device__ __forceinline__ int experts_pairs(int units, int paired) { return paired ? units * (units - 1) / 2 : 0; }
__device__ __forceinline__ int experts_group(int a, int b, int pairs) { return b < 0 ? pairs + a : b * (b - 1) / 2 + a; }
// In a tile's number of rows: of rows that have no other segment.
constexpr int EXPERTS_ONLY = 1 << 16;
