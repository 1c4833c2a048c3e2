import * as tf from '@tensorflow/tfjs-core';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { valuesOf } from '../../testing/against-cpu.js';
import { emulated } from '../../testing/emulated.js';

/** The definition, in float64. */
function transformOf(real: Float32Array, imag: Float32Array): { real: number[]; imag: number[] } {
  const n = real.length;
  const out = {
    real: Array.from({ length: n }, () => 0),
    imag: Array.from({ length: n }, () => 0),
  };
  for (let k = 0; k < n; k++) {
    for (let j = 0; j < n; j++) {
      const angle = (-2 * Math.PI * ((j * k) % n)) / n;
      const [re, im] = [real[j] as number, imag[j] as number];
      out.real[k] = (out.real[k] as number) + re * Math.cos(angle) - im * Math.sin(angle);
      out.imag[k] = (out.imag[k] as number) + re * Math.sin(angle) + im * Math.cos(angle);
    }
  }
  return out;
}

function distance(a: ArrayLike<number>, b: ArrayLike<number>): number {
  let greatest = 0;
  for (let i = 0; i < a.length; i++) {
    const d = Math.abs((a[i] as number) - (b[i] as number));
    if (!(d <= greatest)) greatest = d;
  }
  return greatest;
}

emulated('Fourier transforms', () => {
  test('rows of any length are transformed, and transformed back', async () => {
    const lengths = fc.oneof(
      fc.constantFrom(1, 2, 8, 64, 97, 128),
      fc.integer({ min: 1, max: 120 }),
    );
    await fc.assert(
      fc.asyncProperty(lengths, fc.integer({ min: 1, max: 1e6 }), async (n, seed) => {
        const rows = 2;
        const real = valuesOf(rows * n, seed);
        const imag = valuesOf(rows * n, seed + 1);
        const x = tf.complex(tf.tensor(real, [rows, n]), tf.tensor(imag, [rows, n]));
        const y = tf.spectral.fft(x);
        const back = tf.spectral.ifft(y);
        for (let row = 0; row < rows; row++) {
          const part = (v: ArrayLike<number>) => Array.from(v).slice(row * n, row * n + n);
          const expected = transformOf(
            real.subarray(row * n, row * n + n),
            imag.subarray(row * n, row * n + n),
          );
          expect(distance(part(await tf.real(y).data()), expected.real)).toBeLessThan(
            1e-6 * n + 1e-6,
          );
          expect(distance(part(await tf.imag(y).data()), expected.imag)).toBeLessThan(
            1e-6 * n + 1e-6,
          );
        }
        expect(distance(await tf.real(back).data(), real)).toBeLessThan(2e-6);
        expect(distance(await tf.imag(back).data(), imag)).toBeLessThan(2e-6);
      }),
      { numRuns: 12 },
    );
  });
});
