import * as tf from '@tensorflow/tfjs-core';
import { expect, test } from 'vitest';
import { errorAgainstCpu, input } from '../../testing/against-cpu.js';
import { emulated } from '../../testing/emulated.js';

emulated('cumulative sums and products', () => {
  test.each([
    { shape: [7], axis: 0 },
    { shape: [3, 1100], axis: 1 },
    { shape: [2, 10_000], axis: 1 },
    { shape: [2, 50, 3], axis: 1 },
    { shape: [500, 33], axis: 0 },
    { shape: [2, 0, 3], axis: 2 },
  ])('$shape along $axis', async ({ shape, axis }) => {
    for (const [exclusive, reverse] of [
      [false, false],
      [true, false],
      [false, true],
      [true, true],
    ] as const) {
      const compute = (x: tf.Tensor) => [
        tf.cumsum(x, axis, exclusive, reverse),
        tf.cumsum(tf.cast(tf.mul(x, 5), 'int32'), axis, exclusive, reverse),
        tf.cumprod(tf.add(tf.mul(x, 0.01), 1), axis, exclusive, reverse),
        tf.cumprod(tf.sign(tf.cast(tf.mul(x, 5), 'int32')), axis, exclusive, reverse),
      ];
      // The cpu backend rounds every partial result to float32.
      expect(await errorAgainstCpu([input(shape, 3)], compute)).toBeLessThan(1e-4);
    }
  });
});
