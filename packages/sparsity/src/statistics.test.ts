import '@tensorflow/tfjs-backend-cpu';
import '@tensorflow/tfjs-backend-wasm';
import * as tf from '@tensorflow/tfjs-core';
import * as fc from 'fast-check';
import { beforeAll, describe, expect, test } from 'vitest';
import { activationStatistics, SparsityStatistics } from './index.js';

/** Shares of zeros and below max/10, /100, /1000 of their token, counted one activation at a time. */
function counted(rows: number[][]): number[] {
  const neurons = rows.flat().length;
  const below = (fraction: number) =>
    rows.reduce((sum, row) => {
      const bound = Math.max(...row.map(Math.abs)) * fraction;
      return sum + row.filter((a) => a === 0 || Math.abs(a) < bound).length;
    }, 0) / neurons;
  return [rows.flat().filter((a) => a === 0).length / neurons, ...[0.1, 0.01, 0.001].map(below)];
}

/** Magnitudes 2^i·3^j: no two are in the ratio of a bound, 10, 100 or 1000, where rounding would decide. */
const activation = fc.oneof(
  fc.constant(0),
  fc
    .tuple(fc.constantFrom(-1, 1), fc.integer({ min: -12, max: 3 }), fc.integer({ min: 0, max: 3 }))
    .map(([sign, twos, threes]) => sign * 2 ** twos * 3 ** threes),
);

describe.each(['cpu', 'wasm'])('on %s', (backend) => {
  beforeAll(async () => {
    await tf.setBackend(backend);
  });

  test('the shares are those counted one by one, over batches and masks', async () => {
    const batches = fc.integer({ min: 1, max: 6 }).chain((neurons) =>
      fc.array(
        fc.array(
          fc.record({
            row: fc.array(activation, { minLength: neurons, maxLength: neurons }),
            counts: fc.boolean(),
          }),
          { minLength: 1, maxLength: 5 },
        ),
        { minLength: 1, maxLength: 3 },
      ),
    );
    await fc.assert(
      fc.asyncProperty(batches, async (drawn) => {
        const rows = drawn.flat().flatMap(({ row, counts }) => (counts ? [row] : []));
        fc.pre(rows.length > 0);
        const statistics = new SparsityStatistics();
        for (const batch of drawn) {
          tf.tidy(() =>
            statistics.add(tf.tensor2d(batch.map(({ row }) => row)), {
              mask: tf.tensor1d(batch.map(({ counts }) => Number(counts))),
            }),
          );
        }
        const { tokens, zero, belowTenth, belowHundredth, belowThousandth } =
          await statistics.result();
        statistics.dispose();
        expect(tokens).toBe(rows.length);
        const actual = [zero, belowTenth, belowHundredth, belowThousandth];
        for (const [i, share] of counted(rows).entries()) expect(actual[i]).toBeCloseTo(share, 5);
      }),
      { numRuns: 50 },
    );
  });

  test('a token without activity counts as zeros and below every bound; rank 3 works', async () => {
    expect(await activationStatistics(tf.zeros([1, 2, 3]))).toEqual({
      tokens: 2,
      zero: 1,
      belowTenth: 1,
      belowHundredth: 1,
      belowThousandth: 1,
    });
  });

  test('the accumulator holds one tensor, and none when disposed', async () => {
    const x = tf.ones([3, 4]);
    const before = tf.memory().numTensors;
    const statistics = new SparsityStatistics();
    statistics.add(x);
    statistics.add(x);
    await statistics.result();
    expect(tf.memory().numTensors).toBe(before + 1);
    statistics.dispose();
    expect(tf.memory().numTensors).toBe(before);
    x.dispose();
  });
});

test('statistics of no token are refused', async () => {
  await expect(new SparsityStatistics().result()).rejects.toThrow(/seen no token/);
  await expect(activationStatistics(tf.ones([2, 3]), { mask: tf.zeros([2]) })).rejects.toThrow(
    /seen no token/,
  );
});
