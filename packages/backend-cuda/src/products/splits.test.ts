import fc from 'fast-check';
import { expect, test } from 'vitest';
import { splitSum } from './splits.js';

test('a split covers the sum, with no empty part', () => {
  const count = fc.integer({ min: 1, max: 5000 });
  fc.assert(
    fc.property(count, count, count, (tiles, steps, slots) => {
      const { splits, perSplit } = splitSum(tiles, steps, slots);
      expect(splits * perSplit).toBeGreaterThanOrEqual(steps);
      expect((splits - 1) * perSplit).toBeLessThan(steps);
      expect(splits === 1 || tiles * splits <= slots).toBe(true);
    }),
  );
});

test('a tall sum with few tiles fills the card; a full card is left alone', () => {
  // The gradient of a [256, 1024] matrix over 12,288 rows: 16 tiles, 192 steps, 132 multiprocessors.
  expect(splitSum(16, 192, 132)).toEqual({ splits: 8, perSplit: 24 });
  expect(splitSum(200, 192, 132)).toEqual({ splits: 1, perSplit: 192 });
  expect(splitSum(1, 3, 132)).toEqual({ splits: 1, perSplit: 3 });
});
