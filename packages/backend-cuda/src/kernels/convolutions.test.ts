import * as tf from '@tensorflow/tfjs-core';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { errorAgainstCpu, input } from '../../testing/against-cpu.js';
import { emulated } from '../../testing/emulated.js';

const seed = fc.integer({ min: 1, max: 2 ** 31 });
const small = fc.integer({ min: 1, max: 3 });

const geometry = fc.record({
  seed,
  batch: small,
  height: fc.integer({ min: 3, max: 7 }),
  width: fc.integer({ min: 3, max: 7 }),
  inChannels: fc.integer({ min: 1, max: 5 }),
  outChannels: fc.integer({ min: 1, max: 5 }),
  filterHeight: small,
  filterWidth: small,
  strides: fc.tuple(small, small),
  pad: fc.constantFrom('same' as const, 'valid' as const),
});

emulated('convolutions', (cuda) => {
  test('a convolution and its gradients are those of the cpu backend', async () => {
    await fc.assert(
      fc.asyncProperty(geometry, async (g) => {
        const x = input([g.batch, g.height, g.width, g.inChannels], g.seed);
        const filter = input(
          [g.filterHeight, g.filterWidth, g.inChannels, g.outChannels],
          g.seed + 1,
        );
        expect(
          await errorAgainstCpu([x, filter], (a, b) => {
            const f = (p: tf.Tensor, q: tf.Tensor) =>
              tf.square(tf.conv2d(p as tf.Tensor4D, q as tf.Tensor4D, g.strides, g.pad));
            return [f(a, b), ...tf.grads(f)([a, b])];
          }),
        ).toBeLessThan(1e-5);
      }),
      { numRuns: 12 },
    );
  });

  test('channel-first images and dilated filters', async () => {
    await fc.assert(
      fc.asyncProperty(geometry, fc.tuple(small, small), async (g, dilations) => {
        const x = input([g.batch, g.inChannels, g.height, g.width], g.seed);
        const filter = input(
          [g.filterHeight, g.filterWidth, g.inChannels, g.outChannels],
          g.seed + 1,
        );
        expect(
          await errorAgainstCpu([x, filter], (a, b) => [
            tf.conv2d(a as tf.Tensor4D, b as tf.Tensor4D, 1, 'same', 'NCHW', dilations),
          ]),
        ).toBeLessThan(1e-5);
      }),
      { numRuns: 6 },
    );
  });

  test('a depthwise convolution and its gradients are those of the cpu backend', async () => {
    await fc.assert(
      fc.asyncProperty(geometry, small, async (g, multiplier) => {
        const x = input([g.batch, g.height, g.width, g.inChannels], g.seed);
        const filter = input([g.filterHeight, g.filterWidth, g.inChannels, multiplier], g.seed + 1);
        expect(
          await errorAgainstCpu([x, filter], (a, b) => {
            const f = (p: tf.Tensor, q: tf.Tensor) =>
              tf.square(tf.depthwiseConv2d(p as tf.Tensor4D, q as tf.Tensor4D, g.strides, g.pad));
            return [f(a, b), ...tf.grads(f)([a, b])];
          }),
        ).toBeLessThan(1e-5);
      }),
      { numRuns: 8 },
    );
  });

  test('a convolution over volumes and its gradients are those of the cpu backend', async () => {
    await fc.assert(
      fc.asyncProperty(geometry, small, async (g, depth) => {
        const x = input([g.batch, depth + 1, g.height, g.width, g.inChannels], g.seed);
        const filter = input(
          [2, g.filterHeight, g.filterWidth, g.inChannels, g.outChannels],
          g.seed + 1,
        );
        expect(
          await errorAgainstCpu([x, filter], (a, b) => {
            const f = (p: tf.Tensor, q: tf.Tensor) =>
              tf.square(tf.conv3d(p as tf.Tensor5D, q as tf.Tensor5D, [1, ...g.strides], g.pad));
            return [f(a, b), ...tf.grads(f)([a, b])];
          }),
        ).toBeLessThan(1e-5);
      }),
      { numRuns: 6 },
    );
  });

  test('bias and activation are fused for one bias per channel and for others', async () => {
    const activations = [
      'linear',
      'relu',
      'relu6',
      'elu',
      'prelu',
      'leakyrelu',
      'sigmoid',
    ] as const;
    for (const activation of activations) {
      for (const biasShape of [[4], [1], [3, 3, 4]]) {
        const inputs = [
          input([2, 5, 5, 3], 7),
          input([3, 3, 3, 4], 8),
          input(biasShape, 9),
          input([4], 10),
        ];
        expect(
          await errorAgainstCpu(inputs, (x, filter, bias, slopes) => {
            const common = { strides: 1, pad: 'valid' as const, activation, leakyreluAlpha: 0.3 };
            const given = {
              x: x as tf.Tensor4D,
              filter: filter as tf.Tensor4D,
              bias: bias,
              ...(activation === 'prelu' && { preluActivationWeights: slopes }),
            };
            const dense = tf.fused.conv2d({ ...given, ...common });
            const thin = tf.fused.depthwiseConv2d({
              ...given,
              ...common,
              filter: tf.slice(filter as tf.Tensor4D, [0, 0, 0, 0], [3, 3, 1, 4]),
              x: tf.slice(x as tf.Tensor4D, [0, 0, 0, 0], [2, 5, 5, 1]),
            });
            return [dense, thin];
          }),
        ).toBeLessThan(1e-5);
      }
    }
  });

  test('windows that do not overlap are one product: a patch embedding', async () => {
    const inputs = [input([2, 8, 8, 3], 3), input([4, 4, 3, 6], 4)];
    expect(
      await errorAgainstCpu(inputs, (x, filter) => [
        tf.conv2d(x as tf.Tensor4D, filter as tf.Tensor4D, 4, 'valid'),
      ]),
    ).toBeLessThan(1e-5);
  });

  test('a batch whose windows do not fit into memory at once is cut', async () => {
    const { device } = cuda();
    const { totalMemory } = device;
    // Room for the windows of two images of the five.
    Object.assign(device, { totalMemory: 16 * 2 * 36 * 18 * 4 });
    try {
      const inputs = [input([5, 6, 6, 2], 5), input([3, 3, 2, 3], 6)];
      expect(
        await errorAgainstCpu(inputs, (a, b) => {
          const f = (p: tf.Tensor, q: tf.Tensor) =>
            tf.square(tf.conv2d(p as tf.Tensor4D, q as tf.Tensor4D, 1, 'same'));
          return [f(a, b), ...tf.grads(f)([a, b])];
        }),
      ).toBeLessThan(1e-5);
    } finally {
      Object.assign(device, { totalMemory });
    }
  });

  test('gradients are the same bits every time', async () => {
    const x = tf.randomNormal<tf.Rank.R4>([2, 6, 6, 4], 0, 1, 'float32', 1);
    const filter = tf.randomNormal<tf.Rank.R4>([3, 3, 4, 4], 0, 1, 'float32', 2);
    const gradient = () =>
      tf.tidy(
        () =>
          tf.grads((a: tf.Tensor, b: tf.Tensor) =>
            tf.conv2d(a as tf.Tensor4D, b as tf.Tensor4D, 1, 'same'),
          )([x, filter])[1] as tf.Tensor,
      );
    const [first, second] = [gradient(), gradient()];
    expect(await second.data()).toEqual(await first.data());
    tf.dispose([x, filter, first, second]);
  });
});
