import * as tf from '@tensorflow/tfjs-core';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { errorAgainstCpu, input, valuesOf } from '../../testing/against-cpu.js';
import { emulated } from '../../testing/emulated.js';

const extent = fc.integer({ min: 1, max: 7 });

const geometry = fc.record({
  seed: fc.integer({ min: 1, max: 2 ** 31 }),
  batch: fc.integer({ min: 1, max: 2 }),
  height: extent,
  width: extent,
  newHeight: extent,
  newWidth: extent,
  channels: fc.integer({ min: 1, max: 3 }),
  flag: fc.constantFrom('alignCorners', 'halfPixelCenters', 'neither'),
});

function dot(a: ArrayLike<number>, b: ArrayLike<number>): number {
  return Array.from(a).reduce((sum, v, i) => sum + v * (b[i] ?? Number.NaN), 0);
}

emulated('images', () => {
  test('resizing is that of the cpu backend', async () => {
    await fc.assert(
      fc.asyncProperty(geometry, async (g) => {
        const x = input([g.batch, g.height, g.width, g.channels], g.seed);
        const flags = [g.flag === 'alignCorners', g.flag === 'halfPixelCenters'] as const;
        expect(
          await errorAgainstCpu([x], (a) => {
            const size: [number, number] = [g.newHeight, g.newWidth];
            const t = a as tf.Tensor4D;
            return [
              tf.image.resizeBilinear(t, size, ...flags),
              tf.image.resizeNearestNeighbor(t, size, ...flags),
            ];
          }),
        ).toBeLessThan(1e-5);
      }),
      { numRuns: 16 },
    );
  });

  // Not against the cpu backend, whose gradients err on batches, on oblong images and on single pixels.
  test('the gradient of a resize is its adjoint', async () => {
    await fc.assert(
      fc.asyncProperty(geometry, async (g) => {
        const size: [number, number] = [g.newHeight, g.newWidth];
        const align = g.flag === 'alignCorners';
        const x = valuesOf(g.batch * g.height * g.width * g.channels, g.seed);
        const dy = valuesOf(g.batch * g.newHeight * g.newWidth * g.channels, g.seed + 1);
        for (const resize of [tf.image.resizeBilinear, tf.image.resizeNearestNeighbor]) {
          const [y, dx] = tf.tidy(() => {
            const images = tf.tensor4d(x, [g.batch, g.height, g.width, g.channels]);
            const f = (t: tf.Tensor) => resize(t as tf.Tensor4D, size, align);
            const upstream = tf.tensor4d(dy, [g.batch, ...size, g.channels]);
            return [f(images), tf.grad(f)(images, upstream)];
          });
          expect(dot(await y.data(), dy)).toBeCloseTo(dot(x, await dx.data()), 4);
          tf.dispose([y, dx]);
        }
      }),
      { numRuns: 16 },
    );
  });

  test('crops, flips and rotations are those of the cpu backend', async () => {
    await fc.assert(
      fc.asyncProperty(geometry, fc.integer({ min: -40, max: 40 }), async (g, tenths) => {
        const angle = tenths / 10;
        const x = input([g.batch, g.height, g.width, g.channels], g.seed);
        const boxes = input([3, 4], g.seed + 1);
        const of = { values: Int32Array.from([0, g.batch - 1, 0]), shape: [3] };
        expect(
          await errorAgainstCpu([x, boxes, of], (a, b, c) => {
            const t = a as tf.Tensor4D;
            const crop = (method: 'bilinear' | 'nearest') =>
              tf.image.cropAndResize(
                t,
                tf.abs(b as tf.Tensor2D),
                c as tf.Tensor1D,
                [g.newHeight, g.newWidth],
                method,
                0.5,
              );
            return [
              crop('bilinear'),
              crop('nearest'),
              tf.image.flipLeftRight(t),
              tf.image.rotateWithOffset(t, angle, [1, 2, 3], [0.3, 0.6]),
            ];
          }),
        ).toBeLessThan(1e-5);
      }),
      { numRuns: 12 },
    );
  });

  test('projective transforms fill what is outside in every mode', async () => {
    const modes = ['constant', 'reflect', 'wrap', 'nearest'] as const;
    for (const mode of modes) {
      for (const method of ['bilinear', 'nearest'] as const) {
        // One image: tfjs's cpu backend leaves the others of a batch out.
        const inputs = [input([1, 5, 6, 2], 11), input([1, 8], 12)];
        expect(
          await errorAgainstCpu(inputs, (image, transforms) => [
            tf.image.transform(
              image as tf.Tensor4D,
              tf.mul(transforms, [[2, 0.5, 4, 0.5, 2, 4, 0.05, 0.05]]),
              method,
              mode,
              0.25,
              [7, 8],
            ),
          ]),
        ).toBeLessThan(1e-5);
      }
    }
  });
});
