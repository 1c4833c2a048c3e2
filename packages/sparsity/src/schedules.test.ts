import { D2DMoEError } from '@d2dmoe/core';
import * as fc from 'fast-check';
import { expect, test } from 'vitest';
import { constant, linear, linearWarmup, schedules } from './index.js';

test('constant is alpha at every step', () => {
  expect([0, 1, 999].map(constant(0.2))).toEqual([0.2, 0.2, 0.2]);
});

test('linear goes from 0 to alpha over the run', () => {
  expect([0, 25, 50, 100].map(linear(2, 100))).toEqual([0, 0.5, 1, 2]);
});

test('linear warm-up reaches alpha at half of the run and stays', () => {
  expect([0, 25, 50, 75, 100].map(linearWarmup(2, 100))).toEqual([0, 1, 2, 2, 2]);
});

test('every schedule stays within 0 and alpha, never falls, and ends at alpha', () => {
  fc.assert(
    fc.property(
      fc.constantFrom(...Object.values(schedules)),
      fc.oneof(
        fc.double({ min: 0, max: 10, noNaN: true }),
        fc.integer({ min: 0, max: 100 }).map((n) => n / 10),
      ),
      fc.integer({ min: 1, max: 40 }),
      (schedule, alpha, steps) => {
        const alphas = Array.from({ length: steps + 3 }, (_, step) => schedule(alpha, steps)(step));
        for (const [step, value] of alphas.entries()) {
          expect(value).toBeGreaterThanOrEqual(alphas[step - 1] ?? 0);
          expect(value).toBeLessThanOrEqual(alpha);
        }
        expect(alphas.at(-1)).toBe(alpha);
      },
    ),
  );
});

test('a weight or a length that makes no sense is refused', () => {
  for (const make of [
    () => constant(-1),
    () => linear(Number.NaN, 10),
    () => linearWarmup(1, 0),
    () => linear(Infinity, 10),
  ]) {
    expect(make).toThrow(D2DMoEError);
  }
});
