import fc from 'fast-check';
import { expect, test } from 'vitest';
import { quantile, summarize } from './statistics.js';

test('the median is the middle value, or the mean of the two in the middle', () => {
  expect(quantile([5, 1, 100], 0.5)).toBe(5);
  expect(quantile([4, 1, 100, 2], 0.5)).toBe(3);
  expect(quantile([7], 0.5)).toBe(7);
});

test('quantiles sort by number, not by text', () => {
  expect(quantile([10, 9, 100], 0)).toBe(9);
  expect(quantile([10, 9, 100], 1)).toBe(100);
});

test('a quantile has its share of the values at or below it', () => {
  const values = fc.array(fc.double({ min: 0, max: 1e6, noNaN: true }), { minLength: 1 });
  fc.assert(
    // Not of fc.double, nearly all of whose numbers lie at 0 or 1.
    fc.property(values, fc.nat(100), (values, hundredths) => {
      const share = hundredths / 100;
      const q = quantile(values, share);
      const atOrBelow = values.filter((value) => value <= q * (1 + 1e-12)).length;
      expect(atOrBelow).toBeGreaterThanOrEqual(share * (values.length - 1));
      const above = values.filter((value) => value >= q * (1 - 1e-12)).length;
      expect(above).toBeGreaterThanOrEqual((1 - share) * (values.length - 1));
    }),
  );
});

test('no values have no quantile', () => {
  expect(() => quantile([], 0.5)).toThrow(RangeError);
});

test('a summary keeps the tails', () => {
  const times = summarize(Array.from({ length: 11 }, (_, i) => 10 - i));
  expect(times).toEqual({ median: 5, low: 1, high: 9, runs: 11 });
});
