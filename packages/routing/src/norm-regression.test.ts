import '@tensorflow/tfjs-backend-cpu';
import '@tensorflow/tfjs-backend-wasm';
import '@tensorflow/tfjs-layers';
import { Random } from '@d2dmoe/core';
import * as tf from '@tensorflow/tfjs-core';
import * as fc from 'fast-check';
import { beforeAll, describe, expect, test } from 'vitest';
import { normRegressionGradients, normRegressionLoss, predictNorms } from './index.js';

/** mean over tokens and experts of (|O·relu(H·x)| − t)², in float64. */
function reference(
  { tokens, dIn, width, experts }: Shape,
  { input, targets, hidden, output }: Record<'input' | 'targets' | 'hidden' | 'output', number[]>,
): number {
  const at = (values: number[], i: number) => values[i] ?? Number.NaN;
  let sum = 0;
  for (let t = 0; t < tokens; t++) {
    for (let i = 0; i < experts; i++) {
      let score = 0;
      for (let j = 0; j < width; j++) {
        let z = 0;
        for (let k = 0; k < dIn; k++) z += at(hidden, j * dIn + k) * at(input, t * dIn + k);
        score += at(output, i * width + j) * Math.max(0, z);
      }
      sum += (Math.abs(score) - at(targets, t * experts + i)) ** 2;
    }
  }
  return sum / (tokens * experts);
}

interface Shape {
  tokens: number;
  dIn: number;
  width: number;
  experts: number;
}

describe.each(['cpu', 'wasm'])('on %s', (backend) => {
  beforeAll(async () => {
    await tf.setBackend(backend);
  });

  test('the written-out gradient is that of the float64 formula, by finite differences', () => {
    const size = fc.integer({ min: 1, max: 5 });
    fc.assert(
      fc.property(
        fc.record({ tokens: size, dIn: size, width: size, experts: size }),
        fc.integer(),
        (shape, seed) => {
          const { tokens, dIn, width, experts } = shape;
          const random = new Random(seed);
          const draw = (n: number) => Array.from({ length: n }, () => Math.fround(random.normal()));
          const numbers = {
            input: draw(tokens * dIn),
            targets: draw(tokens * experts).map(Math.abs),
            hidden: draw(width * dIn),
            output: draw(experts * width),
          };
          const step = 1e-6;
          const difference = (name: 'hidden' | 'output') =>
            numbers[name].map((value, i) => {
              const at = (delta: number) =>
                reference(shape, { ...numbers, [name]: numbers[name].with(i, value + delta) });
              return (at(step) - at(-step)) / (2 * step);
            });
          tf.tidy(() => {
            const { loss, hidden, output } = normRegressionGradients(
              tf.tensor2d(numbers.input, [tokens, dIn]),
              tf.tensor2d(numbers.targets, [tokens, experts]),
              {
                hidden: tf.tensor2d(numbers.hidden, [width, dIn]),
                output: tf.tensor2d(numbers.output, [experts, width]),
              },
            );
            const expected = reference(shape, numbers);
            expect(Math.abs(loss.arraySync() - expected)).toBeLessThan(1e-5 * (1 + expected));
            expect([hidden.shape, output.shape]).toEqual([
              [width, dIn],
              [experts, width],
            ]);
            expectClose(hidden.dataSync(), difference('hidden'));
            expectClose(output.dataSync(), difference('output'));
          });
        },
      ),
      // One seed: a draw within a step of a kink, rare as it is, would fail.
      { numRuns: 40, seed: 20 },
    );
  });

  test('autodiff through predictNorms and normRegressionLoss gives the same', () => {
    const input = tf.randomNormal<tf.Rank.R2>([7, 5], 0, 1, 'float32', 1);
    const targets = tf.abs(tf.randomNormal<tf.Rank.R2>([7, 4], 0, 1, 'float32', 2));
    const hidden = tf.randomNormal<tf.Rank.R2>([6, 5], 0, 1, 'float32', 3);
    const output = tf.randomNormal<tf.Rank.R2>([4, 6], 0, 1, 'float32', 4);
    const written = normRegressionGradients(input, targets, { hidden, output });
    const { value, grads } = tf.valueAndGrads((h, o) =>
      normRegressionLoss(
        predictNorms(input, { hidden: h as tf.Tensor2D, output: o as tf.Tensor2D }),
        targets,
      ),
    )([hidden, output]);
    expect(written.loss.arraySync()).toBeCloseTo(value.arraySync(), 5);
    expectClose(written.hidden.dataSync(), grads[0]?.dataSync() ?? []);
    expectClose(written.output.dataSync(), grads[1]?.dataSync() ?? []);
  });

  test('a token counts as much as its weight', () => {
    tf.tidy(() => {
      const predicted = tf.tensor2d([1, 2, 3, 4, 50, 60], [3, 2]);
      const targets = tf.tensor2d([0, 2, 1, 1, 0, 0], [3, 2]);
      const loss = (...weights: number[]) =>
        normRegressionLoss(predicted, targets, tf.tensor1d(weights)).arraySync();
      expect(loss(1, 0, 0)).toBeCloseTo(0.5, 6);
      expect(loss(3, 1, 0)).toBeCloseTo((3 * 0.5 + 6.5) / 4, 6);
      expect(loss(0, 0, 0)).toBe(0);
      expect(loss(1, 1, 1)).toBeCloseTo(normRegressionLoss(predicted, targets).arraySync(), 3);
    });
  });
});

function expectClose(actual: ArrayLike<number>, expected: ArrayLike<number>): void {
  expect(actual.length).toBe(expected.length);
  const norm = Math.hypot(...Array.from(expected));
  const error = Math.hypot(...Array.from(expected, (e, i) => e - (actual[i] ?? Number.NaN)));
  expect(error).toBeLessThan(1e-4 * Math.max(norm, 1e-2));
}
