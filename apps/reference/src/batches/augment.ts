import type { Random } from '@d2dmoe/core';

/** A crop may be moved by up to this share of the image's side. */
const shift = 1 / 8;

/**
 * The usual augmentation of small images (He et al. 2016): the image is mirrored at its edges by an eighth of its side,
 * cut out again at a random place, and flipped left to right half of the time. Labels stay true under both for photographs
 * of things; they do not for digits or letters.
 *
 * @param image [channels, side, side], row-major; not changed
 * @param into where the result is written, as long as the image
 */
export function augmentImage(
  image: Float32Array,
  side: number,
  random: Random,
  into: Float32Array,
): void {
  const most = Math.round(side * shift);
  const left = random.integer(2 * most + 1) - most;
  const top = random.integer(2 * most + 1) - most;
  const flipped = random.integer(2) === 1;
  const columns = Int32Array.from({ length: side }, (_, x) =>
    mirrored((flipped ? side - 1 - x : x) + left, side),
  );
  const rows = image.length / side;
  for (let row = 0; row < rows; row++) {
    const y = row % side;
    const from = (row - y + mirrored(y + top, side)) * side;
    const to = row * side;
    for (let x = 0; x < side; x++) into[to + x] = image[from + (columns[x] as number)] as number;
  }
}

/** A position in the image for one beyond its edges, the edge's own pixel not repeated. */
function mirrored(position: number, side: number): number {
  if (position < 0) return -position;
  return position < side ? position : 2 * (side - 1) - position;
}
