import { Random } from '@d2dmoe/core';
import * as fc from 'fast-check';
import { expect, test } from 'vitest';
import { refineBySwaps } from './refine-by-swaps.js';

function innerWeight(weights: Float32Array, partOf: Uint32Array): number {
  const h = partOf.length;
  let sum = 0;
  for (let n = 0; n < h; n++) {
    for (let m = 0; m < n; m++) {
      if (partOf[n] === partOf[m]) sum += weights[n * h + m] as number;
    }
  }
  return sum;
}

test('loses no weight, keeps the sizes, and leaves no swap of two nodes that gains', () => {
  fc.assert(
    fc.property(
      fc.integer({ min: 1, max: 5 }),
      fc.integer({ min: 1, max: 6 }),
      fc.nat(),
      (k, size, seed) => {
        const h = k * size;
        const random = new Random(seed);
        const weights = new Float32Array(h * h);
        for (let n = 0; n < h; n++) {
          for (let m = 0; m <= n; m++) {
            weights[n * h + m] = weights[m * h + n] = random.normal();
          }
        }
        const partOf = random.permutation(h).map((place) => place % k);
        const before = innerWeight(weights, partOf);
        refineBySwaps(weights, partOf, k);
        const after = innerWeight(weights, partOf);
        expect(after).toBeGreaterThanOrEqual(before);
        for (let j = 0; j < k; j++) {
          expect(partOf.filter((part) => part === j).length).toBe(size);
        }
        for (let n = 0; n < h; n++) {
          for (let m = 0; m < n; m++) {
            const swapped = partOf.slice();
            swapped[n] = partOf[m] as number;
            swapped[m] = partOf[n] as number;
            expect(innerWeight(weights, swapped)).toBeLessThanOrEqual(after + 1e-4);
          }
        }
      },
    ),
    { numRuns: 60 },
  );
});
