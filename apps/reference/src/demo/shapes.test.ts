import { Random } from '@d2dmoe/core';
import { expect, test } from 'vitest';
import { drawShapes, shapeNames } from './shapes.js';

test('the same seed draws the same images, another seed others', () => {
  const first = drawShapes({ count: 20, random: new Random(7) });
  const again = drawShapes({ count: 20, random: new Random(7) });
  const other = drawShapes({ count: 20, random: new Random(8) });
  expect(again).toEqual(first);
  expect(other.pixels).not.toEqual(first.pixels);
});

test('every class is equally frequent to one image, in mixed order', () => {
  const { labels } = drawShapes({ count: 203, random: new Random(1) });
  const counts = shapeNames.map((_, label) => labels.filter((l) => l === label).length);
  expect(counts.reduce((a, b) => a + b)).toBe(203);
  expect(Math.min(...counts)).toBe(25);
  expect(Math.max(...counts)).toBe(26);
  expect([...labels]).not.toEqual([...labels].sort((a, b) => a - b));
});

test('pixels are [count, 3, size, size], from −1 to 1, and use most of that range', () => {
  const { pixels } = drawShapes({ count: 40, size: 24, random: new Random(2) });
  expect(pixels.length).toBe(40 * 3 * 24 * 24);
  const low = pixels.reduce((a, b) => Math.min(a, b));
  const high = pixels.reduce((a, b) => Math.max(a, b));
  expect(low).toBeGreaterThanOrEqual(-1);
  expect(high).toBeLessThanOrEqual(1);
  expect(high - low).toBeGreaterThan(1.8);
});

test('no two images are the same, and each shows something beyond noise', () => {
  const count = 64;
  const { pixels } = drawShapes({ count, random: new Random(3) });
  const seen = new Set<string>();
  for (let i = 0; i < count; i++) {
    const image = pixels.subarray(i * 768, (i + 1) * 768);
    seen.add(image.join());
    const spread = [0, 1, 2].map((channel) => {
      const values = image.subarray(channel * 256, (channel + 1) * 256);
      const centre = values.reduce((a, b) => a + b) / 256;
      return Math.sqrt(values.reduce((sum, v) => sum + (v - centre) ** 2, 0) / 256);
    });
    // The noise alone has a standard deviation of 0.12.
    expect(Math.max(...spread)).toBeGreaterThan(0.2);
  }
  expect(seen.size).toBe(count);
});
