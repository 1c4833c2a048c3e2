import '@tensorflow/tfjs-backend-cpu';
import '@tensorflow/tfjs-backend-wasm';
import { Random } from '@d2dmoe/core';
import { feedForward } from '@d2dmoe/kernels';
import * as tf from '@tensorflow/tfjs-core';
import { beforeAll, describe, expect, test } from 'vitest';
import { disposeReplacement, planted } from '../testing/planted.js';
import { createReplacement, imitationError, OutputMoments } from './index.js';

/** The error of a new replacement on the outputs that it was made from. */
async function startError(
  { weight, bias, input, output }: ReturnType<typeof planted>,
  hidden: number,
  margin?: number,
): Promise<number> {
  const moments = new OutputMoments();
  moments.add(output);
  const replacement = await createReplacement({
    weight,
    bias,
    moments: await moments.read(),
    hidden,
    expertSize: 1,
    random: new Random(2),
    ...(margin !== undefined && { margin }),
  });
  moments.dispose();
  expect(replacement.up.shape).toEqual([hidden, weight.shape[1]]);
  expect(replacement.down.shape).toEqual([hidden, weight.shape[0]]);
  const error = tf.tidy(() => imitationError(feedForward(input, replacement), output).arraySync());
  disposeReplacement(replacement);
  return error;
}

describe.each(['cpu', 'wasm'])('on %s', (backend) => {
  beforeAll(async () => {
    await tf.setBackend(backend);
  });

  test.each([true, false])(
    'far from every threshold it is the best approximation of its rank, with bias: %s',
    async (bias) => {
      // Variances 1, 1/4, 1/16, …: what rank 3 leaves over is known.
      const scales = [1, 0.5, 0.25, 0.125, 0.0625, 0.03125];
      const projection = planted({ dIn: 9, scales, tokens: 4000, bias });
      const squares = scales.map((scale) => scale ** 2);
      const total = squares.reduce((a, b) => a + b);
      const tail = (rank: number) => squares.slice(rank).reduce((a, b) => a + b, 0) / total;
      for (const rank of [1, 3, 5]) {
        const error = await startError(projection, rank, 6);
        expect(error / tail(rank)).toBeGreaterThan(0.9);
        expect(error / tail(rank)).toBeLessThan(1.1);
      }
      expect(await startError(projection, 6, 6)).toBeLessThan(1e-6);
      // More neurons than outputs are of no use at first, and do no harm.
      expect(await startError(projection, 8, 6)).toBeLessThan(1e-6);
      tf.dispose([projection.weight, projection.input, projection.output]);
      projection.bias?.dispose();
    },
  );

  test('a smaller margin starts sparser and further off, as a normal distribution has it', async () => {
    const projection = planted({ dIn: 9, scales: [1, 1, 1, 1], tokens: 4000, bias: true });
    // With the best straight line through relu(Z + c), 1 − corr² of the variance is left: 0.266 at c = 0.
    expect(await startError(projection, 4, 0)).toBeCloseTo(0.266, 1);
    const errors = [0, 0.5, 1, 2, 3].map((margin) => startError(projection, 4, margin));
    const values = await Promise.all(errors);
    expect(values).toEqual([...values].sort((a, b) => b - a));
    expect(values.at(-1)).toBeLessThan(1e-3);
    tf.dispose([projection.weight, projection.input, projection.output]);
    projection.bias?.dispose();
  });

  test('experts of more neurons are centred: each is what a token deviates from the mean by', async () => {
    const scales = [1, 0.5, 0.25, 0.125, 0.0625, 0.03125];
    const projection = planted({ dIn: 9, scales, tokens: 4000, bias: true });
    const { weight, bias, input, output } = projection;
    const moments = new OutputMoments();
    moments.add(output);
    const expertSize = 3;
    const settings = { weight, bias, moments: await moments.read(), expertSize };
    const random = new Random(2);
    const replacement = await createReplacement({ ...settings, hidden: 9, random, margin: 6 });
    moments.dispose();
    tf.tidy(() => {
      expect(imitationError(feedForward(input, replacement), output).arraySync()).toBeLessThan(
        1e-5,
      );
      const { up, upBias, down, downBias } = replacement;
      const activations = tf.relu(tf.add(tf.matMul(input, up, false, true), upBias));
      // Two directions an expert, and a constant.
      for (const expert of [0, 1, 2]) {
        const own = tf.matMul(
          tf.slice(activations, [0, expert * expertSize], [-1, expertSize]) as tf.Tensor2D,
          tf.slice(down, [expert * expertSize, 0], [expertSize, -1]) as tf.Tensor2D,
        );
        const square = (scales[2 * expert] ?? 0) ** 2 + (scales[2 * expert + 1] ?? 0) ** 2;
        const means = tf.mean(own, 0).arraySync() as number[];
        for (const mean of means) expect(Math.abs(mean)).toBeLessThan(1e-3);
        expect(tf.mean(tf.sum(tf.square(own), 1)).arraySync()).toBeCloseTo(square, 1);
      }
      const mean = tf.mean(output, 0).arraySync() as number[];
      const offset = downBias.arraySync();
      for (const [o, value] of mean.entries()) expect(offset[o]).toBeCloseTo(value, 4);
    });
    disposeReplacement(replacement);
    tf.dispose([weight, input, output]);
    bias?.dispose();
  });

  test('outputs of widely spread variance are not centred: every neuron is worth more', async () => {
    const scales = [1, 1, 1, 1, 1, 1];
    const { weight, bias, input, output } = planted({ dIn: 9, scales, tokens: 4000, bias: true });
    const moments = new OutputMoments();
    moments.add(output);
    const settings = { weight, bias, moments: await moments.read(), expertSize: 3 };
    const random = new Random(2);
    const replacement = await createReplacement({ ...settings, hidden: 6, random, margin: 6 });
    moments.dispose();
    tf.tidy(() => {
      expect(imitationError(feedForward(input, replacement), output).arraySync()).toBeLessThan(
        1e-5,
      );
    });
    disposeReplacement(replacement);
    tf.dispose([weight, input, output]);
    bias?.dispose();
  });

  test('outputs that do not vary are kept, and nothing but the four variables stays in memory', async () => {
    const weight = tf.zeros<tf.Rank.R2>([3, 2]);
    const bias = tf.tensor1d([1, -2, 3]);
    const input = tf.randomNormal<tf.Rank.R2>([5, 2], 0, 1, 'float32', 1);
    const moments = { mean: Float64Array.of(1, -2, 3), covariance: new Float64Array(9) };
    for (const expertSize of [1, 2]) {
      const before = tf.memory().numTensors;
      const random = new Random(1);
      const settings = { weight, bias, moments, hidden: 4, expertSize, random };
      const replacement = await createReplacement(settings);
      expect(tf.memory().numTensors).toBe(before + 4);
      const output = feedForward(input, replacement);
      expect(output.arraySync()[0]).toEqual([1, -2, 3].map((value) => expect.closeTo(value, 5)));
      disposeReplacement(replacement);
      output.dispose();
    }
    tf.dispose([weight, bias, input]);
  });
});
