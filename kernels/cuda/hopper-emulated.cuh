// hopper.cuh's operations for the emulator: everything happens when it is asked for, so that what a kernel computes is
// checked there, and what it forgets to wait for is not.
#pragma once
#include "common.cuh"

// Addresses in shared memory count from its beginning.
inline unsigned hopper_address(const void *p) { return (unsigned)(static_cast<const char *>(p) - emulator::sharedMemory); }
template <typename T> inline T &hopper_at(unsigned address) { return *reinterpret_cast<T *>(emulator::sharedMemory + address); }
// Where the byte at an address of a swizzled tile really lies.
inline unsigned hopper_swizzled(unsigned address) { return address ^ (address >> 7 & 7) << 4; }

struct hopper_barrier {
  unsigned short arrivals, pending;
  int bytes : 24;
  unsigned phase : 8;
  void settle() {
    if (pending == 0 && bytes == 0) phase ^= 1, pending = arrivals;
  }
};
inline void hopper_init(unsigned barrier, int arrivals) {
  hopper_at<hopper_barrier>(barrier) = {(unsigned short)arrivals, (unsigned short)arrivals, 0, 0};
}
inline void hopper_init_done() {}
inline void hopper_sync(int number, int threads) {
  static int arrived[16];
  static unsigned turns[16];
  const unsigned turn = turns[number];
  if (++arrived[number] == threads) arrived[number] = 0, turns[number]++;
  for (int waits = 0; turns[number] == turn; waits++) {
    if (waits == 10000000) emulator::trap();  // nobody will come
    emulator::yield();
  }
}
inline void hopper_launch_next() {}
inline void hopper_wait_launch() {}
// Blocks run one after the other: there are no clusters.
inline void hopper_cluster_arrive() {}
inline void hopper_cluster_arrive_relaxed() {}
inline void hopper_cluster_wait() {}
inline void hopper_cluster_store(unsigned, int, float4) {}
inline void hopper_prefetch_line(const void *) {}
inline void hopper_prefetch(const void *, long long) {}
inline void hopper_arrive(unsigned barrier) {
  hopper_barrier &b = hopper_at<hopper_barrier>(barrier);
  if (b.pending == 0) emulator::trap();  // an arrival too many
  b.pending--;
  b.settle();
}
inline void hopper_expect(unsigned barrier, int bytes) {
  hopper_at<hopper_barrier>(barrier).bytes += bytes;
  hopper_arrive(barrier);
}
inline void hopper_wait(unsigned barrier, unsigned parity) {
  for (int turns = 0; hopper_at<hopper_barrier>(barrier).phase == parity; turns++) {
    if (turns == 10000000) emulator::trap();  // nobody will come
    emulator::yield();
  }
}

// Bytes that the barrier expects are there.
inline void hopper_landed(unsigned barrier, int bytes) {
  hopper_barrier &b = hopper_at<hopper_barrier>(barrier);
  b.bytes -= bytes;
  b.settle();
}
inline void hopper_copy(unsigned to, const void *from, int bytes, unsigned barrier) {
  memcpy(&hopper_at<char>(to), from, bytes);
  hopper_landed(barrier, bytes);
}
inline void hopper_copy_passing(unsigned to, const void *from, int bytes, unsigned barrier) { hopper_copy(to, from, bytes, barrier); }
inline void hopper_cluster_send(unsigned address, unsigned barrier, int, const unsigned (&w)[4]) { hopper_copy(address, w, 16, barrier); }
inline void hopper_cluster_wait_sent(unsigned barrier, unsigned parity) { hopper_wait(barrier, parity); }

// Calls `each` with every element of a box, where it lies in shared memory and in the matrix, nullptr outside that.
// Returns the box's bytes.
template <typename F> inline int hopper_each_of_box(const hopper_map *map, unsigned shared, int x, int y, int z, F each) {
  emulator::TensorMap m;
  memcpy(&m, map, sizeof m);
  if (shared % 1024 != 0) emulator::trap();
  const unsigned lines = m.box[1] * m.box[2];
  for (unsigned line = 0; line < lines; line++) {
    const long long row = y + (long long)(line % m.box[1]), matrix = z + (long long)(line / m.box[1]);
    for (unsigned i = 0; i < m.box[0]; i++) {
      const long long column = x + (long long)i;
      const bool in = column >= 0 && row >= 0 && column < (long long)m.dimensions[0] && row < (long long)m.dimensions[1] && matrix < (long long)m.dimensions[2];
      const unsigned long long from = m.address + (unsigned long long)row * m.strides[0] + (unsigned long long)matrix * m.strides[1];
      each(hopper_at<unsigned short>(hopper_swizzled(shared + line * 128 + i * 2)), in ? reinterpret_cast<unsigned short *>(from) + column : nullptr);
    }
  }
  return (int)(m.box[0] * lines * 2);
}
inline void hopper_copy_box(unsigned to, const hopper_map *map, unsigned barrier, int x, int y, int z = 0) {
  const int bytes = hopper_each_of_box(map, to, x, y, z, [](unsigned short &here, const unsigned short *there) { here = there ? *there : 0; });
  hopper_landed(barrier, bytes);
}
inline void hopper_prefetch_box(const hopper_map *, int, int) {}
inline void hopper_store_box(const hopper_map *map, unsigned from, int x, int y) {
  hopper_each_of_box(map, from, x, y, 0, [](unsigned short here, unsigned short *there) {
    if (there) *there = here;
  });
}
inline void hopper_store(void *to, unsigned from, int bytes) { memcpy(to, &hopper_at<char>(from), bytes); }
inline void hopper_store_passing(void *to, unsigned from, int bytes) { hopper_store(to, from, bytes); }
inline void hopper_stores_commit() {}
inline void hopper_stores_read() {}
inline void hopper_stores_written() {}
inline void hopper_shared_store(unsigned to, unsigned word) { hopper_at<unsigned>(to) = word; }
inline void hopper_shared_store(unsigned to, float2 v) { hopper_at<float2>(to) = v; }
inline uint4 hopper_shared_load16(unsigned from) { return hopper_at<uint4>(from); }
inline void hopper_copy16(unsigned to, const void *from, int bytes) {
  for (int i = 0; i < 8; i++) (&hopper_at<unsigned short>(to))[i] = i * 2 < bytes ? static_cast<const unsigned short *>(from)[i] : 0;
}
inline void hopper_copy16_passing(unsigned to, const void *from, int bytes) { hopper_copy16(to, from, bytes); }
inline void hopper_copy16_passing(unsigned to, const void *from) { hopper_copy16(to, from, 16); }
template <typename T> inline void hopper_kept(const T *&) {}
inline void hopper_arrive_copied(unsigned barrier) { hopper_arrive(barrier); }
inline void hopper_proxy_fence() {}

inline unsigned long long hopper_descriptor(unsigned address, unsigned box_distance) {
  return (unsigned long long)((address & 0x3ffff) >> 4) | (unsigned long long)(box_distance >> 4) << 16;
}
inline void hopper_wgmma_fence() {}
inline void hopper_wgmma_commit() {}
template <int PENDING> inline void hopper_wgmma_wait() {}
template <int SUMS> inline void hopper_settled(float (&)[SUMS]) {}
template <int COUNT> inline void hopper_registers_more() {}
template <int COUNT> inline void hopper_registers_fewer() {}

// Element (s, i) of an operand: s along the sum, i across it.
template <typename T, int ACROSS> inline float hopper_element(unsigned long long descriptor, int s, int i) {
  const unsigned address = (unsigned)(descriptor & 0x3fff) << 4, distance = (unsigned)(descriptor >> 16 & 0x3fff) << 4;
  const unsigned at = ACROSS ? address + i / 64 * distance + s / 8 * 1024 + s % 8 * 128 + i % 64 * 2 : address + i / 8 * 1024 + i % 8 * 128 + s * 2;
  return (float)hopper_at<T>(hopper_swizzled(at));
}
// This thread's sums, from its two rows of a.
template <typename T, int ACROSS_B, int SUMS> inline void hopper_multiply(float (&d)[SUMS], const float (&a)[2][16], unsigned long long b, int add) {
  const int t = threadIdx.x % 4;
  for (int j = 0; j < SUMS / 4; j++) {
    for (int pair = 0; pair < 2; pair++) {
      float sum[2] = {0, 0};
      for (int s = 0; s < 16; s++) {
        const float y = hopper_element<T, ACROSS_B>(b, s, 8 * j + 2 * t + pair);
        sum[0] += a[0][s] * y, sum[1] += a[1][s] * y;
      }
      for (int half = 0; half < 2; half++) d[4 * j + 2 * half + pair] = (add ? d[4 * j + 2 * half + pair] : 0) + sum[half];
    }
  }
}
template <typename T, int ACROSS_A, int ACROSS_B, int SUMS>
inline void hopper_wgmma(float (&d)[SUMS], unsigned long long a, unsigned long long b, int add) {
  const int row = threadIdx.x / 32 % 4 * 16 + threadIdx.x % 32 / 4;
  float rows[2][16];
  for (int half = 0; half < 2; half++)
    for (int s = 0; s < 16; s++) rows[half][s] = hopper_element<T, ACROSS_A>(a, s, row + 8 * half);
  hopper_multiply<T, ACROSS_B>(d, rows, b, add);
}
template <typename T, int ACROSS_B, int SUMS>
inline void hopper_wgmma(float (&d)[SUMS], unsigned a0, unsigned a1, unsigned a2, unsigned a3, unsigned long long b, int add) {
  const unsigned mine[4] = {a0, a1, a2, a3};
  float rows[2][16];
  for (int i = 0; i < 4; i++) {
    for (int from = 0; from < 4; from++) {
      const unsigned pair = __shfl_sync(~0u, mine[i], threadIdx.x % 32 / 4 * 4 + from);
      T values[2];
      memcpy(values, &pair, 4);
      rows[i % 2][i / 2 * 8 + from * 2] = (float)values[0], rows[i % 2][i / 2 * 8 + from * 2 + 1] = (float)values[1];
    }
  }
  hopper_multiply<T, ACROSS_B>(d, rows, b, add);
}

template <typename T> inline unsigned hopper_pack(float low, float high) {
  const T pair[2] = {T(low), T(high)};
  unsigned bits;
  memcpy(&bits, pair, 4);
  return bits;
}
template <typename T> inline unsigned hopper_pack_relu(float low, float high) {
  return hopper_pack<T>(low < 0 ? 0.0f : low, high < 0 ? 0.0f : high);
}
inline void hopper_load16(unsigned (&w)[4], const void *from) { memcpy(w, from, 16); }
template <typename T> inline unsigned hopper_sum(unsigned a, unsigned b) {
  T x[2], y[2];
  memcpy(x, &a, 4), memcpy(y, &b, 4);
  return hopper_pack<T>((float)x[0] + (float)y[0], (float)x[1] + (float)y[1]);
}
template <typename T> inline void hopper_add16(void *to, const unsigned (&w)[4]) {
  for (int i = 0; i < 4; i++) static_cast<unsigned *>(to)[i] = hopper_sum<T>(static_cast<unsigned *>(to)[i], w[i]);
}
inline float hopper_exp2(float x) { return exp2f(x); }
inline float hopper_reciprocal(float x) { return 1.0f / x; }
