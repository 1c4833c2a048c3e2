import { layerNorm, rmsNorm } from '@d2dmoe/kernels';
import '@tensorflow/tfjs-layers';
import * as tf from '@tensorflow/tfjs-core';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { valuesOf } from '../../../testing/against-cpu.js';
import { emulated } from '../../../testing/emulated.js';
import { relativeError } from '../../../../kernels/testing/closeness.js';

const epsilon = 1e-5;

/** The norm of each row and the gradients of x, scale and shift, as their formulas have it. */
function reference(
  x: Float32Array,
  scale: Float32Array,
  shift: Float32Array,
  dy: Float32Array,
  centred: boolean,
) {
  const d = scale.length;
  const y = new Float64Array(x.length);
  const dx = new Float64Array(x.length);
  const dscale = new Float64Array(d);
  const dshift = new Float64Array(d);
  const mean = (values: number[]) => values.reduce((sum, value) => sum + value, 0) / d;
  for (let start = 0; start < x.length; start += d) {
    const row = Array.from(x.subarray(start, start + d));
    const middle = centred ? mean(row) : 0;
    const inverse = 1 / Math.sqrt(mean(row.map((v) => (v - middle) ** 2)) + epsilon);
    const normal = row.map((v) => (v - middle) * inverse);
    const g = normal.map((_, i) => (dy[start + i] as number) * (scale[i] as number));
    const across = centred ? mean(g) : 0;
    const along = mean(g.map((v, i) => v * (normal[i] as number)));
    for (const [i, n] of normal.entries()) {
      const given = dy[start + i] as number;
      y[start + i] = n * (scale[i] as number) + (centred ? (shift[i] as number) : 0);
      dx[start + i] = inverse * ((g[i] as number) - across - n * along);
      dscale[i] = (dscale[i] as number) + given * n;
      dshift[i] = (dshift[i] as number) + given;
    }
  }
  return centred ? [y, dx, dscale, dshift] : [y, dx, dscale];
}

// Each of the kernels for a width: of a warp, of a block, any.
const widths = fc.constantFrom(4, 13, 128, 192, 300, 768, 1024, 1030, 2048, 4100);

emulated('layer norm', (cuda) => {
  test('output and gradients equal float64’s at every width', () => {
    fc.assert(
      fc.property(
        widths,
        fc.integer({ min: 1, max: 20 }),
        fc.boolean(),
        fc.integer({ min: 1, max: 1e6 }),
        (d, rows, centred, seed) => {
          // A mean far from 0, beside which the deviation is small.
          const x = valuesOf(rows * d, seed).map((v) => v + 3);
          const [scale, shift] = [valuesOf(d, seed + 1), valuesOf(d, seed + 2)];
          const dy = valuesOf(rows * d, seed + 3);
          const got = tf.tidy(() => {
            const op = (x: tf.Tensor, scale: tf.Tensor, shift?: tf.Tensor) =>
              shift ? layerNorm(x, scale, shift, epsilon) : rmsNorm(x, scale, epsilon);
            const inputs = [tf.tensor2d(x, [rows, d]), tf.tensor1d(scale)] as tf.Tensor[];
            if (centred) inputs.push(tf.tensor1d(shift));
            const apply = (...t: tf.Tensor[]) => op(t[0] as tf.Tensor, t[1] as tf.Tensor, t[2]);
            const gradients = tf.grads(apply)(inputs, tf.tensor2d(dy, [rows, d]));
            return [apply(...inputs), ...gradients].map((t) => t.dataSync().slice());
          });
          const expected = reference(x, scale, shift, dy, centred);
          expect(got.length).toBe(expected.length);
          for (const [i, values] of got.entries()) {
            expect(relativeError(values, expected[i] as Float64Array)).toBeLessThan(1e-5);
          }
        },
      ),
      { numRuns: 16, seed: 1 },
    );
  });

  test('sums of many rows keep float32’s accuracy', () => {
    const [rows, d] = [3000, 8];
    const x = valuesOf(rows * d, 1);
    const [scale, dy] = [valuesOf(d, 2), valuesOf(rows * d, 3).map((v) => v + 1)];
    const got = tf.tidy(() => {
      const gradients = tf.grads((x, scale, shift) => layerNorm(x, scale, shift, epsilon))(
        [tf.tensor2d(x, [rows, d]), tf.tensor1d(scale), tf.zeros([d])],
        tf.tensor2d(dy, [rows, d]),
      );
      return gradients.map((t) => t.dataSync().slice());
    });
    const expected = reference(x, scale, new Float32Array(d), dy, true).slice(1);
    for (const [i, values] of got.entries()) {
      expect(relativeError(values, expected[i] as Float64Array)).toBeLessThan(1e-6);
    }
  });

  test('reads rows and gradients in 16 bits', () => {
    const backend = cuda();
    const [rows, d] = [5, 64];
    const half = (seed: number) => {
      const t = backend.output16([rows, d]);
      const full = tf.tensor2d(valuesOf(rows * d, seed), [rows, d]);
      backend.copy(t.pointer, backend.pointer16(full), rows * d * 2);
      return tf.engine().makeTensorFromTensorInfo(t);
    };
    tf.tidy(() => {
      const [x, dy] = [half(1), half(2)];
      const [scale, shift] = [tf.tensor1d(valuesOf(d, 3)), tf.tensor1d(valuesOf(d, 4))];
      const y = layerNorm(x, scale, shift, epsilon);
      const gradients = tf.grads((x, scale, shift) => layerNorm(x, scale, shift, epsilon))(
        [x, scale, shift],
        dy,
      );
      expect(backend.isOnly16(dy)).toBe(true);
      const values = (t: tf.Tensor) => t.dataSync<'float32'>();
      const expected = reference(values(x), values(scale), values(shift), values(dy), true);
      for (const [i, t] of [y, ...gradients].entries()) {
        expect(relativeError(values(t), expected[i] as Float64Array)).toBeLessThan(1e-5);
      }
    });
  });
});
