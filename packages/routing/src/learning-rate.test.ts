import { expect, test } from 'vitest';
import { warmupCosine } from './learning-rate.js';

test('the rate rises over a twentieth of the run, peaks, and falls along half a cosine to 0', () => {
  const rates = Array.from({ length: 102 }, (_, step) => warmupCosine(2, 100, step));
  expect(rates.slice(0, 6)).toEqual([0.4, 0.8, 1.2, 1.6, 2, 2]);
  // A third of the way down, cos π/3 = 1/2 leaves three quarters.
  expect(warmupCosine(2, 20, 1 + 19 / 3)).toBeCloseTo(1.5, 12);
  expect(rates.slice(5).every((rate, i, falling) => i === 0 || rate <= (falling[i - 1] ?? 0))).toBe(
    true,
  );
  expect(rates[99]).toBeGreaterThan(0);
  expect(rates[100]).toBe(0);
  expect(rates[101]).toBe(0);
});

test('a run of one step takes it at the full rate', () => {
  expect(warmupCosine(2, 1, 0)).toBe(2);
});
