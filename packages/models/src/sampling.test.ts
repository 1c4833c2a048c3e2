import '@tensorflow/tfjs-backend-cpu';
import '@tensorflow/tfjs-backend-wasm';
import { Random } from '@d2dmoe/core';
import * as tf from '@tensorflow/tfjs-core';
import * as fc from 'fast-check';
import { beforeAll, describe, expect, test } from 'vitest';
import { refusal } from '../testing/refusal.js';
import { checkSampling, chooseTokens, type SamplingOptions } from './sampling.js';

/** The distribution that is drawn from, likeliest token first, in float64. */
function distribution(
  logits: readonly number[],
  seen: readonly number[],
  { temperature = 1, topK = 50, topP = 1, repetitionPenalty: penalty = 1 }: SamplingOptions,
): { token: number; probability: number }[] {
  const scores = logits.map((logit, token) => {
    const penalised = logit < 0 ? logit * penalty : logit / penalty;
    return (seen.includes(token) ? penalised : logit) / temperature;
  });
  const tokens = scores.map((_, token) => token).sort((a, b) => scores[b]! - scores[a]!);
  if (topK > 0) tokens.length = Math.min(topK, tokens.length);
  const weights = tokens.map((token) => Math.exp(scores[token]! - scores[tokens[0]!]!));
  const total = weights.reduce((a, b) => a + b, 0);
  const kept: { token: number; probability: number }[] = [];
  let sum = 0;
  for (const [i, token] of tokens.entries()) {
    if (sum >= topP) break;
    const probability = weights[i]! / total;
    sum += probability;
    kept.push({ token, probability });
  }
  return kept.map(({ token, probability }) => ({ token, probability: probability / sum }));
}

const options = fc.record({
  temperature: fc.double({ min: 0.2, max: 3, noNaN: true }),
  topK: fc.integer({ min: 0, max: 12 }),
  topP: fc.oneof(fc.constant(1), fc.double({ min: 0.05, max: 1, noNaN: true })),
  repetitionPenalty: fc.double({ min: 0.5, max: 2, noNaN: true }),
});
const rows = fc.integer({ min: 2, max: 10 }).chain((vocabulary) =>
  fc.array(
    fc.tuple(
      fc.uniqueArray(fc.integer({ min: -600, max: 600 }), {
        minLength: vocabulary,
        maxLength: vocabulary,
      }),
      fc.array(fc.nat(vocabulary - 1), { maxLength: 3 }),
    ),
    { minLength: 1, maxLength: 3 },
  ),
);

function choose(data: [number[], number[]][], settings: SamplingOptions): number[] {
  return tf.tidy(() => {
    const logits = tf.tensor2d(data.map(([row]) => row));
    const sequences = data.map(([, seen]) => seen);
    return [...chooseTokens(logits, sequences, settings).dataSync()];
  });
}

describe.each(['cpu', 'wasm'])('on the %s backend', (backend) => {
  beforeAll(async () => {
    await tf.setBackend(backend);
    await tf.ready();
  });

  test('a draw is the token where the cumulative float64 distribution passes it', () => {
    let compared = 0;
    fc.assert(
      fc.property(rows, options, fc.nat(), (hundredths, settings, seed) => {
        const data = hundredths.map(([row, seen]): [number[], number[]] => [
          row.map((hundredth) => hundredth / 100),
          seen,
        ]);
        const chosen = choose(data, { ...settings, doSample: true, random: new Random(seed) });
        const random = new Random(seed);
        for (const [row, [logits, seen]] of data.entries()) {
          const u = random.uniform();
          const kept = distribution(logits, seen, settings);
          // Without sorting the tokens are passed in the vocabulary's order.
          const unsorted =
            (settings.topK === 0 || settings.topK >= logits.length) && settings.topP === 1;
          if (unsorted) kept.sort((a, b) => a.token - b.token);
          let sum = 0;
          let expected: number | undefined;
          let close = false;
          for (const { token, probability } of kept) {
            sum += probability;
            close ||= Math.abs(sum - u) < 1e-4;
            if (expected === undefined && sum > u) expected = token;
          }
          // Within rounding of a boundary, of a tie or of the nucleus's end either choice is right.
          const all = distribution(logits, seen, { ...settings, topP: 1 });
          const tied = all.some((kept, i) => {
            const after = all[i + 1];
            return after !== undefined && kept.probability < after.probability * (1 + 1e-5);
          });
          let nucleus = 0;
          for (const { probability } of all) {
            nucleus += probability;
            close ||= settings.topP < 1 && Math.abs(nucleus - settings.topP) < 1e-4;
          }
          if (close || tied) continue;
          expect(chosen[row]).toBe(expected);
          compared++;
        }
      }),
      { numRuns: 200, seed: 1 },
    );
    expect(compared).toBeGreaterThan(100);
  });

  test('greedy takes the largest score after the penalty', () => {
    expect(choose([[[1, 3, 2], [1]]], {})).toEqual([1]);
    expect(choose([[[1, 3, 2], [1]]], { repetitionPenalty: 2 })).toEqual([2]);
    expect(
      choose(
        [
          [
            [-3, -1, -1.5],
            [1, 1],
          ],
        ],
        { repetitionPenalty: 2 },
      ),
    ).toEqual([2]);
    const two: [number[], number[]][] = [
      [[0, 1, 0.9], [1]],
      [[0, 1, 0.9], []],
    ];
    expect(choose(two, { repetitionPenalty: 1.5 })).toEqual([2, 1]);
  });
});

test('drawn frequencies are the probabilities, over the whole vocabulary and sorted', () => {
  const probabilities = [0.1, 0.2, 0.3, 0.4];
  const logits = probabilities.map(Math.log);
  for (const topP of [1, 0.65]) {
    const random = new Random(3);
    const counts = [0, 0, 0, 0];
    const batch = Array.from({ length: 2000 }, (): [number[], number[]] => [logits, []]);
    for (const token of choose(batch, { doSample: true, topP, random })) counts[token]! += 1;
    const expected = topP === 1 ? probabilities : [0, 0, 3 / 7, 4 / 7];
    for (const [token, probability] of expected.entries()) {
      expect(Math.abs(counts[token]! / 2000 - probability)).toBeLessThan(0.04);
      expect(counts[token]! > 0).toBe(probability > 0);
    }
  }
});

test.each([
  [{ temperature: 0 }, /temperature must be a number greater than 0, not 0/],
  [{ topK: 1.5 }, /topK must be a whole number/],
  [{ topP: 0 }, /topP must be a number greater than 0 and at most 1, not 0/],
  [{ repetitionPenalty: Number.NaN }, /repetitionPenalty must be .* not NaN/],
  [{ random: undefined }, /doSample needs a Random/],
  [{ doSample: false, topP: 0.5 }, /topP has no effect on greedy generation/],
])('%o is refused', (wrong, message) => {
  const right = { doSample: true, random: new Random(1) };
  expect(() => checkSampling(right)).not.toThrow();
  expect(() => checkSampling({ ...right, ...wrong } as SamplingOptions)).toThrow(
    refusal('GENERATION_INVALID', message),
  );
});
