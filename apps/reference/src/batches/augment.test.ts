import { Random } from '@d2dmoe/core';
import { expect, test } from 'vitest';
import { augmentImage } from './augment.js';

const side = 16;
const channels = 3;

/** Each pixel holds where it is: channel, row, column. */
const image = Float32Array.from(
  { length: channels * side * side },
  (_, i) => 10_000 * Math.floor(i / side ** 2) + 100 * (Math.floor(i / side) % side) + (i % side),
);

/** Where row and column of the result's corner came from, and in which direction columns run. */
function movement(seed: number) {
  const into = new Float32Array(image.length);
  augmentImage(image, side, new Random(seed), into);
  const middle = (side / 2) * side + side / 2;
  const column = (at: number) => (into[at] as number) % 100;
  const flipped = column(middle + 1) < column(middle);
  const top = Math.floor((into[middle] as number) / 100) - side / 2;
  const left = column(middle) - (flipped ? side - 1 - side / 2 : side / 2);
  return { into, top, left, flipped };
}

const mirrored = (p: number) => (p < 0 ? -p : p >= side ? 2 * (side - 1) - p : p);

test('an image is moved by at most an eighth, mirrored at its edges, and flipped half of the time', () => {
  const tops = new Set<number>();
  const lefts = new Set<number>();
  let flips = 0;
  for (let seed = 0; seed < 400; seed++) {
    const { into, top, left, flipped } = movement(seed);
    tops.add(top);
    lefts.add(left);
    flips += flipped ? 1 : 0;
    const expected = into.map((_, i) => {
      const row = Math.floor(i / side) % side;
      const column = flipped ? side - 1 - (i % side) : i % side;
      return (
        10_000 * Math.floor(i / side ** 2) + 100 * mirrored(row + top) + mirrored(column + left)
      );
    });
    expect(into).toEqual(expected);
  }
  expect([...tops].sort((a, b) => a - b)).toEqual([-2, -1, 0, 1, 2]);
  expect([...lefts].sort((a, b) => a - b)).toEqual([-2, -1, 0, 1, 2]);
  expect(flips).toBeGreaterThan(150);
  expect(flips).toBeLessThan(250);
});
