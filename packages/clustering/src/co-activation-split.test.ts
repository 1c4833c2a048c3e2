import { Random } from '@d2dmoe/core';
import * as fc from 'fast-check';
import { expect, test } from 'vitest';
import { expectAborts } from '../testing/abort.js';
import { bestSwapGain } from '../testing/best-swap.js';
import { coActivationSplit } from './co-activation-split.js';

/** The co-activation of all pairs of neurons, [count, count], straight from the definition. */
function coActivations(activations: Float32Array, count: number): Float64Array {
  const weights = new Float64Array(count * count);
  for (let start = 0; start < activations.length; start += count) {
    const active = activations.subarray(start, start + count).map((a) => Math.max(a, 0));
    for (const [n, a] of active.entries()) {
      for (const [m, b] of active.entries()) {
        weights[n * count + m] = (weights[n * count + m] as number) + a * b;
      }
    }
  }
  return weights;
}

/** The share of the pairs' weight that is inside experts. */
function shareInside(weights: Float64Array, order: Uint32Array, e: number) {
  const count = order.length;
  let inside = 0;
  let total = 0;
  for (let p = 0; p < count; p++) {
    for (let q = 0; q < p; q++) {
      const weight = weights[(order[p] as number) * count + (order[q] as number)] as number;
      total += weight;
      if (Math.floor(p / e) === Math.floor(q / e)) inside += weight;
    }
  }
  return total > 0 ? inside / total : 0;
}

test('finds groups of neurons that are active together', async () => {
  const [groups, expertSize, tokens] = [16, 12, 400];
  const count = groups * expertSize;
  const random = new Random(1);
  const groupOf = random.permutation(count).map((place) => place % groups);
  const activations = new Float32Array(tokens * count);
  for (let token = 0; token < tokens; token++) {
    const active = new Set([random.integer(groups), random.integer(groups)]);
    groupOf.forEach((group, n) => {
      const awake = active.has(group) ? random.uniform() < 0.8 : random.uniform() < 0.05;
      if (awake) activations[token * count + n] = random.uniform();
    });
  }
  const split = await coActivationSplit({ activations, tokens, count, expertSize, random });
  for (let start = 0; start < count; start += expertSize) {
    const expert = split.order.slice(start, start + expertSize);
    expect(new Set(Array.from(expert, (n) => groupOf[n])).size).toBe(1);
  }
});

test('every shape splits into equal experts; the objective is the share of co-activation inside, which no swap raises', async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.integer({ min: 1, max: 6 }),
      fc.integer({ min: 1, max: 6 }),
      fc.integer({ min: 1, max: 90 }),
      fc.nat(),
      async (experts, expertSize, tokens, seed) => {
        const count = experts * expertSize;
        const random = new Random(seed);
        const activations = Float32Array.from({ length: tokens * count }, () => random.normal());
        const options = { activations, tokens, count, expertSize };
        const split = await coActivationSplit({ ...options, random: new Random(seed) });
        expect(await coActivationSplit({ ...options, random: new Random(seed) })).toEqual(split);
        expect(split).toMatchObject({ experts, expertSize: expertSize });
        expect(Array.from(split.order).sort((a, b) => a - b)).toEqual(
          Array.from({ length: count }, (_, i) => i),
        );
        const weights = coActivations(activations, count);
        expect(split.objective).toBeCloseTo(shareInside(weights, split.order, expertSize), 5);
        const heaviest = weights.reduce((a, b) => Math.max(a, b));
        expect(bestSwapGain(weights, split.order, expertSize)).toBeLessThanOrEqual(1e-5 * heaviest);
      },
    ),
    { numRuns: 40 },
  );
});

test('by cosine a split does not depend on how strongly each neuron is active', async () => {
  const [count, expertSize, tokens] = [24, 4, 300];
  const random = new Random(3);
  const groups = Array.from({ length: tokens }, () => random.integer(count / expertSize));
  const activations = Float32Array.from({ length: tokens * count }, (_, i) => {
    const inGroup = Math.floor((i % count) / expertSize) === groups[Math.floor(i / count)];
    return random.uniform() < (inGroup ? 0.8 : 0.05) ? random.uniform() : 0;
  });
  // Powers of two, by which no rounding changes; the last neuron is never active.
  const scales = Array.from({ length: count }, () => 2 ** (random.integer(17) - 8));
  const silent = activations.map((a, i) => (i % count === count - 1 ? 0 : a));
  const scaled = silent.map((a, i) => a * (scales[i % count] as number));
  const options = { tokens, count, expertSize };
  const split = (of: Float32Array, cosine: boolean) =>
    coActivationSplit({ ...options, activations: of, cosine, random: new Random(5) });
  const expected = await split(silent, true);
  expect(await split(scaled, true)).toEqual(expected);
  for (let start = 0; start < count; start += expertSize) {
    const expert = [...expected.order.subarray(start, start + expertSize)].sort((a, b) => a - b);
    expect(expert).toEqual(Array.from({ length: expertSize }, (_, i) => (expert[0] as number) + i));
  }
  // By inner products the strongest neurons go together wherever they belong.
  expect((await split(scaled, false)).order).not.toEqual(expected.order);
});

test('an abort ends it, before and in the middle, by its reason', async () => {
  expect.hasAssertions();
  const options = {
    activations: new Float32Array(1000 * 8).fill(1),
    tokens: 1000,
    count: 8,
    expertSize: 2,
    random: new Random(0),
  };
  await expectAborts((abort) => coActivationSplit({ ...options, ...abort }));
});

test('rejects sizes that do not divide, wrong lengths, no tokens, and activations that are not finite', async () => {
  const options = { tokens: 2, count: 6, expertSize: 3, random: new Random(0) };
  const activations = new Float32Array(12);
  const split = (changed: object) => coActivationSplit({ ...options, activations, ...changed });
  await expect(split({ expertSize: 4 })).rejects.toMatchObject({
    code: 'EXPERT_SIZE_INVALID',
    message:
      'The expert size 4 does not divide the hidden width 6; choose one that does, such as 3 or 6.',
  });
  await expect(split({ tokens: 3 })).rejects.toMatchObject({ code: 'LENGTH_MISMATCH' });
  const none = new Float32Array(0);
  await expect(split({ tokens: 0, activations: none })).rejects.toMatchObject({
    code: 'TOKENS_EMPTY',
  });
  await expect(split({ activations: activations.with(4, NaN) })).rejects.toMatchObject({
    code: 'VALUE_NOT_FINITE',
    message: 'activations must hold finite numbers, but row 0, column 4 is NaN.',
  });
});
