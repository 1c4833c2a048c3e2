// Discrete Fourier transforms of any length by Stockham's self-sorting passes of mixed radix. After
// passes whose radices multiply to L, the buffer holds at [j * L + k] term k of the L-point
// transform of the elements j, j + n / L, j + 2 n / L, ... of a row. A pass of radix r makes an
// (r L)-point transform from r of them; a thread computes one term, summing in float64. A prime
// length is one pass: the definition.
#include "common.cuh"

struct Complex {
  double re, im;
};

// roots[i] = exp(sign * 2 pi i sqrt(-1) / n).
KERNEL fourier_roots(Complex* __restrict__ roots, int n, int sign) {
  for (GRID_LOOP(i, n)) {
    double angle = sign * 6.283185307179586476925 * (double)i / n;
    roots[i].re = cos(angle);
    roots[i].im = sin(angle);
  }
}

// `done` is L before this pass; results are multiplied by `scale`. `total` is rows * n.
KERNEL fourier_pass(const float* __restrict__ real, const float* __restrict__ imag,
                    float* __restrict__ outReal, float* __restrict__ outImag,
                    const Complex* __restrict__ roots, int n, int radix, int done, double scale,
                    long long total) {
  int length = done * radix;
  int stride = n / length;
  for (GRID_LOOP(i, total)) {
    int at = (int)(i % n);
    size_t row = i - at;
    int j = at / length, k = at % length;
    double sumReal = 0.0, sumImag = 0.0;
    long long power = 0;  // q * k, modulo length
    for (int q = 0; q < radix; ++q) {
      size_t from = row + ((size_t)j + (size_t)q * stride) * done + k % done;
      Complex root = roots[power * stride];
      double re = real[from], im = imag[from];
      sumReal += re * root.re - im * root.im;
      sumImag += re * root.im + im * root.re;
      power += k;
      if (power >= length) power -= length;
    }
    outReal[i] = (float)(sumReal * scale);
    outImag[i] = (float)(sumImag * scale);
  }
}
