import { expect, test } from 'vitest';
import { erf, erfc } from './erf.js';

// Computed with 40 digits, rounded to float64.
const values: [x: number, erf: number, erfc: number][] = [
  [0.1, 0.1124629160182849, 0.887537083981715],
  [0.5, 0.5204998778130465, 0.4795001221869535],
  [1, 0.8427007929497149, 0.15729920705028513],
  [1.9, 0.9927904292352575, 0.0072095707647425325],
  [2, 0.9953222650189527, 0.004677734981047266],
  [2.1, 0.997020533343667, 0.002979466656332984],
  [3, 0.9999779095030014, 2.209049699858544e-5],
  [4.5, 0.9999999998033839, 1.9661604415428876e-10],
  [6, 1, 2.1519736712498913e-17],
  [10, 1, 2.088487583762545e-45],
  [26, 1, 5.663192408856143e-296],
];

test.each(values)('erf and erfc of %d and of its opposite', (x, erfOfX, erfcOfX) => {
  expect(Math.abs(erf(x) - erfOfX)).toBeLessThan(5e-16);
  expect(erf(-x)).toBe(-erf(x));
  expect(Math.abs(erfc(x) / erfcOfX - 1)).toBeLessThan(2e-13);
  expect(Math.abs(erfc(-x) - (1 + erfOfX))).toBeLessThan(1e-15);
});

test('at zero and at infinity', () => {
  expect(erf(0)).toBe(0);
  expect(erfc(0)).toBe(1);
  expect(erf(Number.POSITIVE_INFINITY)).toBe(1);
  expect(erfc(Number.NEGATIVE_INFINITY)).toBe(2);
});
