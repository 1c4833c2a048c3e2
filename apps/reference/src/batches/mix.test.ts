import { Random } from '@d2dmoe/core';
import * as fc from 'fast-check';
import { expect, test } from 'vitest';
import { mixImages } from './mix.js';

test('each image keeps at least half of itself; the rest is that of one other', () => {
  fc.assert(
    fc.property(
      fc.integer({ min: 1, max: 9 }),
      fc.integer({ min: 1, max: 12 }),
      fc.integer(),
      (count, size, seed) => {
        const images = Float32Array.from(
          { length: count * size },
          (_, i) =>
            // Images are far enough apart for a share to be told from one value.
            Math.floor(i / size) + Math.sin(1 + i * i + (seed % 100)) / 4,
        );
        const mixed = images.slice();
        mixImages(mixed, size, new Random(seed));
        for (let image = 0; image < count; image++) {
          const partner = count - 1 - image;
          const at = (of: number, i: number) => images[of * size + i] as number;
          // The share of its own that the first value tells; all others must agree with it.
          const share =
            image === partner
              ? 1
              : ((mixed[image * size] as number) - at(partner, 0)) /
                (at(image, 0) - at(partner, 0));
          expect(share).toBeGreaterThan(0.5 - 1e-3);
          expect(share).toBeLessThan(1 + 1e-3);
          for (let i = 0; i < size; i++) {
            const expected = share * at(image, i) + (1 - share) * at(partner, i);
            expect(Math.abs((mixed[image * size + i] as number) - expected)).toBeLessThan(1e-3);
          }
        }
      },
    ),
    { numRuns: 100 },
  );
});

test('shares differ by image, and a seed always gives the same', () => {
  const images = () => Float32Array.from({ length: 16 }, (_, i) => (i < 8 ? 0 : 1));
  const draw = (seed: number) => {
    const mixed = images();
    mixImages(mixed, 1, new Random(seed));
    return [...mixed];
  };
  expect(new Set(draw(1)).size).toBe(16);
  expect(draw(1)).toEqual(draw(1));
  expect(draw(2)).not.toEqual(draw(1));
});
