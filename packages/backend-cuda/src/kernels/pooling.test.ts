import * as tf from '@tensorflow/tfjs-core';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { errorAgainstCpu, type Input, input } from '../../testing/against-cpu.js';
import { emulated } from '../../testing/emulated.js';

const small = fc.integer({ min: 1, max: 3 });

const geometry = fc.record({
  seed: fc.integer({ min: 1, max: 2 ** 31 }),
  batch: small,
  height: fc.integer({ min: 3, max: 7 }),
  width: fc.integer({ min: 3, max: 7 }),
  channels: small,
  // Square: tfjs's maximum over volumes numbers its taps as if height and width were equal.
  filter: small,
  strides: fc.tuple(small, small),
  pad: fc.constantFrom('same' as const, 'valid' as const),
});

/** Few distinct values, so that maxima tie. */
function withTies({ values, shape }: Input): Input {
  return { values: values.map((v) => Math.round(v * 4)), shape };
}

emulated('pooling', () => {
  test('maxima and averages of images, and their gradients', async () => {
    await fc.assert(
      fc.asyncProperty(geometry, async (g) => {
        const x = withTies(input([g.batch, g.height, g.width, g.channels], g.seed));
        expect(
          await errorAgainstCpu([x], (a) => {
            const max = (p: tf.Tensor) =>
              tf.square(tf.maxPool(p as tf.Tensor4D, g.filter, g.strides, g.pad));
            const avg = (p: tf.Tensor) =>
              tf.square(tf.avgPool(p as tf.Tensor4D, g.filter, g.strides, g.pad));
            const t = a as tf.Tensor4D;
            const at = tf.maxPoolWithArgmax(t, g.filter, g.strides, g.pad, true);
            return [max(t), avg(t), tf.grad(max)(t), tf.grad(avg)(t), ...Object.values(at)];
          }),
        ).toBeLessThan(1e-5);
      }),
      { numRuns: 12 },
    );
  });

  test('maxima and averages of volumes, and their gradients', async () => {
    await fc.assert(
      fc.asyncProperty(geometry, async (g) => {
        const x = withTies(input([g.batch, 4, g.height, g.width, g.channels], g.seed));
        expect(
          await errorAgainstCpu([x], (a) => {
            const strides: [number, number, number] = [2, ...g.strides];
            const max = (p: tf.Tensor) =>
              tf.square(tf.maxPool3d(p as tf.Tensor5D, g.filter, strides, g.pad));
            const avg = (p: tf.Tensor) =>
              tf.square(tf.avgPool3d(p as tf.Tensor5D, g.filter, strides, g.pad));
            const t = a as tf.Tensor5D;
            return [max(t), avg(t), tf.grad(max)(t), tf.grad(avg)(t)];
          }),
        ).toBeLessThan(1e-5);
      }),
      { numRuns: 8 },
    );
  });

  test('dilation and its gradients', async () => {
    await fc.assert(
      fc.asyncProperty(geometry, async (g) => {
        const x = withTies(input([g.batch, g.height, g.width, g.channels], g.seed));
        const filter = withTies(input([g.filter, g.filter, g.channels], g.seed + 1));
        expect(
          await errorAgainstCpu([x, filter], (a, b) => {
            const f = (p: tf.Tensor, q: tf.Tensor) =>
              tf.dilation2d(p as tf.Tensor4D, q as tf.Tensor3D, g.strides, g.pad);
            return [f(a, b), ...tf.grads(f)([a, b])];
          }),
        ).toBeLessThan(1e-5);
      }),
      { numRuns: 8 },
    );
  });
});
