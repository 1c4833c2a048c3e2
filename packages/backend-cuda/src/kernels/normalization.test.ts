import * as tf from '@tensorflow/tfjs-core';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { errorAgainstCpu, input } from '../../testing/against-cpu.js';
import { emulated } from '../../testing/emulated.js';

const seed = fc.integer({ min: 1, max: 2 ** 31 });
const size = fc.integer({ min: 1, max: 5 });

emulated('normalization', () => {
  test('batch normalization, with and without offset and scale', async () => {
    await fc.assert(
      fc.asyncProperty(seed, size, size, fc.boolean(), async (s, width, channels, isFull) => {
        const shape = [2, 3, width, channels];
        const statistics = isFull ? shape : [channels];
        const inputs = [shape, statistics, statistics, statistics, statistics].map((each, i) =>
          input(each, s + i),
        );
        expect(
          await errorAgainstCpu(inputs, (x, mean, variance, offset, scale) => {
            const spread = tf.abs(variance as tf.Tensor1D);
            const m = mean as tf.Tensor1D;
            return [
              tf.batchNorm(x, m, spread),
              tf.batchNorm(x, m, spread, offset),
              tf.batchNorm(x, m, spread, offset, scale, 0.1),
            ];
          }),
        ).toBeLessThan(1e-5);
      }),
      { numRuns: 6 },
    );
  });

  test('local response normalization and its gradient', async () => {
    await fc.assert(
      fc.asyncProperty(seed, size, fc.integer({ min: 0, max: 3 }), async (s, channels, radius) => {
        expect(
          await errorAgainstCpu([input([2, 2, 3, channels], s)], (x) => {
            const f = (t: tf.Tensor) =>
              tf.localResponseNormalization(t as tf.Tensor4D, radius, 1.2, 0.7, 0.6);
            return [f(x), tf.grad(f)(x)];
          }),
        ).toBeLessThan(1e-5);
      }),
      { numRuns: 6 },
    );
  });
});
