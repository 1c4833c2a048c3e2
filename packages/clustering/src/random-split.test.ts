import { Random } from '@d2dmoe/core';
import * as fc from 'fast-check';
import { expect, test } from 'vitest';
import { randomSplit } from './random-split.js';

test('every neuron is in exactly one expert of the asked size, and the seed decides in which', () => {
  fc.assert(
    fc.property(
      fc.integer({ min: 1, max: 20 }),
      fc.integer({ min: 1, max: 20 }),
      fc.nat(),
      (experts, expertSize, seed) => {
        const count = experts * expertSize;
        const split = randomSplit({ count, expertSize, random: new Random(seed) });
        expect(split).toMatchObject({ experts, expertSize: expertSize });
        expect(Array.from(split.order).sort((a, b) => a - b)).toEqual(
          Array.from({ length: count }, (_, i) => i),
        );
        expect(randomSplit({ count, expertSize, random: new Random(seed) })).toEqual(split);
      },
    ),
  );
  const order = (seed: number) =>
    randomSplit({ count: 64, expertSize: 8, random: new Random(seed) }).order;
  expect(order(1)).not.toEqual(order(2));
});

test('rejects an expert size that does not divide the width', () => {
  expect(() => randomSplit({ count: 10, expertSize: 4, random: new Random(0) })).toThrow(
    expect.objectContaining({
      code: 'EXPERT_SIZE_INVALID',
      message:
        'The expert size 4 does not divide the hidden width 10; choose one that does, such as 2 or 5.',
    }),
  );
});
