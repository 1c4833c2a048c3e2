import type { Random } from '@d2dmoe/core';

/**
 * Mixes each image of a batch with the one that is as far from its end, in place (mixup, Zhang et al. 2018). An image
 * keeps between half and all of itself, so that its label stays the likelier one.
 *
 * What a dense model says of images that it has learned by heart is little more than their labels; of mixed ones it says
 * what it has understood, and there is no end of them (Beyer et al. 2022, arXiv 2106.05237).
 *
 * @param images [images, size], row-major
 * @param size Values of one image.
 */
export function mixImages(images: Float32Array, size: number, random: Random): void {
  const count = images.length / size;
  for (let first = 0; first < count / 2; first++) {
    const second = count - 1 - first;
    const [ofFirst, ofSecond] = [(1 + random.uniform()) / 2, (1 + random.uniform()) / 2];
    const a = images.subarray(first * size, (first + 1) * size);
    const b = images.subarray(second * size, (second + 1) * size);
    for (let i = 0; i < size; i++) {
      const [x, y] = [a[i] as number, b[i] as number];
      a[i] = ofFirst * x + (1 - ofFirst) * y;
      b[i] = ofSecond * y + (1 - ofSecond) * x;
    }
  }
}
