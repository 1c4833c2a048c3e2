import * as tf from '@tensorflow/tfjs-core';
import { expect, test } from 'vitest';
import { errorAgainstCpu, input } from '../../testing/against-cpu.js';
import { emulated } from '../../testing/emulated.js';

emulated('order', () => {
  test.each([
    { shape: [5], k: 2 },
    { shape: [100, 8], k: 8 },
    { shape: [2, 3, 37], k: 1 },
    { shape: [3, 1024], k: 7 },
    { shape: [2, 5000], k: 3000 },
  ])('the $k greatest of $shape, the first of equal ones first', async ({ shape, k }) => {
    const compute = (x: tf.Tensor) => {
      // The cpu backend looks at all elements where k is the row's length only.
      const n = shape.at(-1) ?? 1;
      return [x, tf.round(tf.mul(x, 5)), tf.cast(tf.mul(x, 9), 'int32')].flatMap((t) => {
        const { values, indices } = tf.topk(t, tf.getBackend() === 'cpu' ? n : k);
        const size = [...shape.slice(0, -1), k];
        return [values, indices].map((u) =>
          tf.slice(
            u,
            shape.map(() => 0),
            size,
          ),
        );
      });
    };
    expect(await errorAgainstCpu([input(shape, 11)], compute)).toBe(0);
  });

  test('infinities and both zeros', async () => {
    const { values, indices } = tf.topk(tf.tensor1d([-0, 1, -Infinity, 0, Infinity, -2]), 6);
    expect([...(await values.data())]).toEqual([Infinity, 1, -0, 0, -2, -Infinity]);
    expect([...(await indices.data())]).toEqual([4, 1, 0, 3, 5, 2]);
  });

  test('places in sorted rows', async () => {
    const compute = (x: tf.Tensor, v: tf.Tensor) => {
      const sorted = tf.cumsum(tf.round(tf.mul(tf.abs(x), 2)), 1);
      const wanted = tf.round(tf.mul(v, 40));
      return [tf.lowerBound(sorted, wanted), tf.upperBound(sorted, wanted)];
    };
    expect(await errorAgainstCpu([input([3, 50], 1), input([3, 20], 2)], compute)).toBe(0);
  });

  test('distinct values', async () => {
    const compute = (x: tf.Tensor) => {
      const { values, indices } = tf.unique(tf.round(tf.mul(x, 2)));
      return [values, indices];
    };
    expect(await errorAgainstCpu([input([60], 1)], compute)).toBe(0);
  });

  test('draws have the frequencies of their distribution, and follow the seed', async () => {
    const p = tf.tensor2d([0.1, 0.2, 0.7, 0.5, 0, 0.5], [2, 3]);
    const draws = await (tf.multinomial(p, 4000, 3, true) as tf.Tensor2D).array();
    const again = await (tf.multinomial(tf.log(p), 4000, 3) as tf.Tensor2D).array();
    for (const rows of [draws, again]) {
      for (const [row, expected] of [
        [0.1, 0.2, 0.7],
        [0.5, 0, 0.5],
      ].entries()) {
        for (const [event, frequency] of expected.entries()) {
          const count = rows[row]?.filter((v) => v === event).length ?? NaN;
          // Five standard deviations of a binomial count.
          const spread = 5 * Math.sqrt(4000 * frequency * (1 - frequency));
          expect(Math.abs(count - 4000 * frequency)).toBeLessThanOrEqual(spread);
        }
      }
    }
    expect(await (tf.multinomial(p, 4000, 3, true) as tf.Tensor2D).array()).toEqual(draws);
    expect(await (tf.multinomial(p, 4000, 4, true) as tf.Tensor2D).array()).not.toEqual(draws);
  });

  test('sequences and filled tensors', async () => {
    const compute = () => [
      tf.range(3, -20, -3),
      tf.range(0, 9, 1, 'int32'),
      tf.linspace(-1, 2, 7),
      // oxlint-disable-next-line unicorn/no-array-fill-with-reference-type -- a tensor's shape, not an array's fill
      tf.fill([3, 7], 2.5),
      tf.onesLike(tf.tensor1d([3, 4, 5], 'bool')),
      tf.zerosLike(tf.tensor1d([3, 4, 5], 'int32')),
    ];
    expect(await errorAgainstCpu([], compute)).toBeLessThan(1e-6);
  });
});
