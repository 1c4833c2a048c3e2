// Units: what the many-rows path executes at once. A unit is `per_unit` whole experts (where an expert has fewer neurons
// than a tile is wide), or one of an expert's `parts`. Its neurons are consecutive. A token's units go in segments of one
// or two: one row of one tile each.
#pragma once
#include "common.cuh"

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

// A bit for each two neighbours, whether any of them is set, in the low half.
__device__ __forceinline__ unsigned experts_halved(unsigned bits) {
  bits = (bits | bits >> 1) & 0x55555555u;
  bits = (bits | bits >> 1) & 0x33333333u;
  bits = (bits | bits >> 2) & 0x0f0f0f0fu;
  bits = (bits | bits >> 4) & 0x00ff00ffu;
  return (bits | bits >> 8) & 0x0000ffffu;
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
  // Of the 32 units of a word, those that a token runs. `mask` gives a word of its experts' bits.
  template <typename M> __device__ __forceinline__ unsigned bits(M mask, int words, int word) const {
    if (per_unit == 1 && parts == 1) return mask(word);
    unsigned bits = 0;
    if (parts == 1 && (per_unit & (per_unit - 1)) == 0) {
      for (int i = 0; i < per_unit && word * per_unit + i < words; i++) {
        unsigned experts = mask(word * per_unit + i);
        for (int size = per_unit; size > 1; size /= 2) experts = experts_halved(experts);
        bits |= experts << i * (32 / per_unit);
      }
      return bits;
    }
    const int first = first_expert(word * 32), last = min(experts, first_expert(word * 32 + 31) + per_unit) - 1;
    for (int i = first / 32; i <= last / 32; i++) {
      for (unsigned some = mask(i); some != 0; some &= some - 1) {
        const int unit = (i * 32 + __ffs(some) - 1) / per_unit * parts - word * 32;
        for (int part = max(0, -unit); part < parts && unit + part < 32; part++) bits |= 1u << (unit + part);
      }
    }
    return bits;
  }
};

// How a token's units go in segments. Units pair up within `pools` of neighbours: the fewer kinds of pairs there are, the
// nearer to each other in the batch are the rows of a tile. Of two pools what is left pairs up last, so that of an odd
// number nothing is left but a single unit; of more, which have at most 32 units each, it stays single. Without pools all do.
struct experts_pairing {
  int units, pools, pool, pairs;  // pool: units of one; pairs: kinds of them, which come before the single units
  __device__ __forceinline__ experts_pairing(int units, int pools) : units(units), pools(pools), pool(pools == 0 ? units : (units + pools - 1) / pools) {
    pairs = pools == 0 ? 0 : pools == 2 ? pairs_of(units) : pools * pairs_of(pool);
  }
  __device__ __forceinline__ static int pairs_of(int n) { return n * (n - 1) / 2; }
  // The units a < b of a kind, or one and -1.
  __device__ __forceinline__ void units_of(int kind, int &a, int &b) const {
    a = kind - pairs, b = -1;
    if (a >= 0) return;
    const int number = pools == 2 ? 0 : kind / pairs_of(pool), left = kind - number * pairs_of(pool);
    b = (int)((1.0f + sqrtf(1.0f + 8.0f * left)) / 2.0f);
    while (pairs_of(b) > left) b--;
    while (pairs_of(b + 1) <= left) b++;
    a = number * pool + left - pairs_of(b), b += number * pool;
  }
  // Calls `each` with the kinds of a token's segments. `bits` gives a word of the units that it runs.
  template <typename B, typename F> __device__ __forceinline__ void segments(B bits, F each) const {
    if (pools > 2) return segments_within(bits, each);
    int odd = -1, left = -1;
    for (int word = 0, end = pool; word * 32 < units; word++) {
      unsigned all = bits(word);
      for (bool more = true; more;) {
        const int room = end - word * 32;
        unsigned some = room < 32 ? all & ((1u << room) - 1) : all;
        all ^= some;
        auto take = [&] {
          const int unit = word * 32 + __ffs(some) - 1;
          some &= some - 1;
          return unit;
        };
        while (some != 0) {
          const int a = odd >= 0 ? odd : take();
          odd = -1;
          if (pools == 0) each(a);
          else if (some == 0) odd = a;
          else each(pairs_of(take()) + a);
        }
        more = room < 32 && end < units;
        if (room > 32 && (word + 1) * 32 < units) continue;
        // The pool's end.
        if (odd >= 0 && left >= 0) each(pairs_of(odd) + left), left = -1;
        else if (odd >= 0) left = odd;
        odd = -1, end += pool;
      }
    }
    if (left >= 0) each(pairs + left);
  }

 private:
  // The same where what is left of a pool, of at most 32 units, stays single: the lanes of a warp go through the pools
  // together, and through one place in the code for every segment.
  template <typename B, typename F> __device__ __forceinline__ void segments_within(B bits, F each) const {
    unsigned low = bits(0), high = units > 32 ? bits(1) : 0;
    for (int number = 0, word = 0, first = 0; number < pools; number++, first += pool) {
      if (first / 32 > word) word++, low = high, high = (word + 1) * 32 < units ? bits(word + 1) : 0;
      unsigned some = __funnelshift_r(low, high, first % 32);
      if (pool < 32) some &= (1u << pool) - 1;
      auto take = [&] {
        const int unit = __ffs(some) - 1;
        some &= some - 1;
        return unit;
      };
      while (some != 0) {
        const int a = take(), b = take();
        each(b < 0 ? pairs + first + a : number * pairs_of(pool) + pairs_of(b) + a);
      }
    }
  }
};
// In a tile's number of rows: of rows that have no other segment.
constexpr int EXPERTS_ONLY = 1 << 16;
// What the table of tiles begins with: how many there are; how many are taken beyond the first of each block.
enum { EXPERTS_TILES, EXPERTS_TAKEN, EXPERTS_HEADER };
