import fc from 'fast-check';
import { expect, test } from 'vitest';
import { sizeClass } from './size-class.js';

test('a size class is at most an eighth or 255 bytes more than what was asked for', () => {
  fc.assert(
    fc.property(fc.nat({ max: 2 ** 40 }), (bytes) => {
      const size = sizeClass(bytes);
      expect(size).toBeGreaterThanOrEqual(Math.max(bytes, 1));
      expect(size).toBeLessThanOrEqual(Math.max(256, bytes + Math.max(255, bytes / 8)));
      expect(size % 256).toBe(0);
      expect(sizeClass(size)).toBe(size);
    }),
  );
});

test('powers of two are exact, and one byte more goes to the next class', () => {
  for (const power of [8, 12, 20, 30, 31, 36]) {
    expect(sizeClass(2 ** power)).toBe(2 ** power);
    expect(sizeClass(2 ** power + 1)).toBeGreaterThan(2 ** power);
  }
});

test('few classes exist', () => {
  const classes = new Set<number>();
  for (let bytes = 1; bytes < 2 ** 20; bytes += 64) classes.add(sizeClass(bytes));
  expect(classes.size).toBeLessThan(90);
});
