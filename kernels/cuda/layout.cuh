// Index arithmetic that the kernels on layout and indexing share.
#pragma once

// Division by a number that the host knows: a high multiplication, an addition and a shift
// (Granlund and Montgomery 1994), for dividends below 2^31. The host computes `factor` and `shift`.
struct Divider {
  unsigned divisor, factor, shift;
  __device__ unsigned quotient(unsigned n) const {
    return ((unsigned)(((unsigned long long)n * factor) >> 32) + n) >> shift;
  }
};

// The same interface for element counts past 2^31.
struct WideDivider {
  long long divisor;
  __device__ unsigned long long quotient(unsigned long long n) const { return n / divisor; }
};

// Elements are moved, never computed with: a kernel knows their width only.
typedef unsigned char Bytes1;
typedef unsigned short Bytes2;
typedef unsigned int Bytes4;
typedef uint2 Bytes8;
typedef uint4 Bytes16;
