import { Random } from '@d2dmoe/core';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { lengthGroupedOrder, sample, shuffledOrder } from './order.js';

const lengthsOf = (count: number) => Array.from({ length: count }, (_, i) => 1 + ((i * 7919) % 61));

const orders = [
  ['shuffled', shuffledOrder],
  [
    'grouped by length',
    (count: number, batchSize: number, random: Random) =>
      lengthGroupedOrder(lengthsOf(count), batchSize, random),
  ],
] as const;

describe.each(orders)('%s', (_, orderOf) => {
  const sizes = [fc.integer({ min: 1, max: 500 }), fc.integer({ min: 1, max: 70 })] as const;

  test('an epoch has full batches of samples that it has once each, and leaves out less than a batch', () => {
    fc.assert(
      fc.property(...sizes, fc.nat(3), (count, batchSize, epoch) => {
        const order = orderOf(count, batchSize, new Random(0));
        const size = Math.min(batchSize, count);
        const steps = Math.floor(count / size);
        const batches = Array.from({ length: steps }, (_, i) => [...order(epoch * steps + i)]);
        expect(batches.map((batch) => batch.length)).toEqual(batches.map(() => size));
        const seen = batches.flat();
        expect(new Set(seen).size).toBe(seen.length);
        for (const index of seen) expect(index).toBeLessThan(count);
      }),
    );
  });

  test('a step has the same batch whatever was asked for before', () => {
    const first = orderOf(100, 8, new Random(5));
    const inOrder = Array.from({ length: 40 }, (_, step) => [...first(step)]);
    const second = orderOf(100, 8, new Random(5));
    for (const step of [39, 3, 17, 0, 39]) expect([...second(step)]).toEqual(inOrder[step]);
  });

  test('epochs differ, and so do seeds', () => {
    const batch = (step: number, seed: number) => [...orderOf(64, 64, new Random(seed))(step)];
    expect(batch(0, 1)).not.toEqual(batch(1, 1));
    expect(batch(0, 1)).not.toEqual(batch(0, 2));
  });

  test('over the epochs every sample is left out at times', () => {
    const order = orderOf(21, 8, new Random(0));
    const missing = new Set<number>();
    for (let epoch = 0; epoch < 60; epoch++) {
      const seen = [...order(2 * epoch), ...order(2 * epoch + 1)];
      for (let i = 0; i < 21; i++) if (!seen.includes(i)) missing.add(i);
    }
    expect(missing.size).toBe(21);
  });
});

test('grouping by length leaves little padding', () => {
  const lengths = lengthsOf(1000);
  const padding = (order: (step: number) => Uint32Array) => {
    let padded = 0;
    for (let step = 0; step < Math.floor(1000 / 16); step++) {
      const batch = Array.from(order(step), (i) => lengths[i] as number);
      for (const length of batch) padded += Math.max(...batch) - length;
    }
    return padded;
  };
  const grouped = padding(lengthGroupedOrder(lengths, 16, new Random(0)));
  expect(grouped).toBeLessThan(0.1 * padding(shuffledOrder(1000, 16, new Random(0))));
});

test('grouping leaves the order of the batches to chance', () => {
  const lengths = Array.from({ length: 320 }, (_, i) => i);
  const order = lengthGroupedOrder(lengths, 10, new Random(0));
  const means = Array.from({ length: 32 }, (_, step) => order(step)[0] as number);
  expect(means).not.toEqual(means.toSorted((a, b) => a - b));
});

test('a limit draws that many by seed, in order; without one it is all', () => {
  expect([...sample(5, undefined, new Random(0))]).toEqual([0, 1, 2, 3, 4]);
  expect([...sample(5, 9, new Random(0))]).toEqual([0, 1, 2, 3, 4]);
  const some = [...sample(100, 10, new Random(0))];
  expect(new Set(some).size).toBe(10);
  expect(some).toEqual(some.toSorted((a, b) => a - b));
  expect([...sample(100, 10, new Random(0))]).toEqual(some);
  expect([...sample(100, 10, new Random(1))]).not.toEqual(some);
});
