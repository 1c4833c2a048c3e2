import '@tensorflow/tfjs-backend-cpu';
import * as tf from '@tensorflow/tfjs-core';
import { expect, test } from 'vitest';
import { packExperts } from './pack-experts.js';
import type { FeedForwardWeights, PackedExperts } from './types.js';

const weights: FeedForwardWeights = {
  up: tf.zeros([12, 5]),
  upBias: tf.zeros([12]),
  gate: tf.zeros([12, 5]),
  gateBias: tf.zeros([12]),
  down: tf.zeros([12, 7]),
  downBias: tf.zeros([7]),
  activation: 'silu',
};

test('keeps a neuron-major copy where the backend has no layout of its own', () => {
  const before = tf.memory().numTensors;
  const own: FeedForwardWeights = {
    up: tf.ones([12, 5]),
    down: tf.ones([12, 7]),
    activation: 'relu',
  };
  let made: PackedExperts | undefined;
  tf.tidy(() => {
    made = packExperts(own, 3);
  });
  const packed = made as unknown as PackedExperts;
  expect(packed).toMatchObject({ dIn: 5, dOut: 7, expertSize: 3, experts: 4, storage: 'float32' });
  expect(packed.backend).toBeUndefined();
  tf.dispose([own.up, own.down]);
  expect(Object.keys(packed.tensors)).toEqual(['up', 'down']);
  expect([...(packed.tensors['up'] as tf.Tensor).dataSync()]).toEqual(Array(60).fill(1));
  packed.dispose();
  expect(tf.memory().numTensors).toBe(before);
});

test('refuses a storage that the backend lacks', () => {
  expect(() => packExperts(weights, 3, { storage: 'int8' })).toThrow(
    expect.objectContaining({ code: 'STORAGE_UNSUPPORTED' }),
  );
});

test.each([0, -3, 5, 2.5, 24, Number.NaN])(
  'refuses an expert size of %d for 12 neurons',
  (size) => {
    expect(() => packExperts(weights, size)).toThrow(
      expect.objectContaining({ code: 'EXPERT_SIZE_INVALID' }),
    );
  },
);

test.each([
  ['gate', { gate: tf.zeros([12, 7]) }],
  ['upBias', { upBias: tf.zeros([5]) }],
  ['gateBias', { gateBias: tf.zeros([7]) }],
  ['down', { down: tf.zeros([7, 12]) }],
  ['downBias', { downBias: tf.zeros([12]) }],
] as [string, Partial<FeedForwardWeights>][])('refuses a %s that does not fit', (name, change) => {
  expect(() => packExperts({ ...weights, ...change }, 3)).toThrow(
    expect.objectContaining({ code: 'SHAPE_MISMATCH', message: expect.stringContaining(name) }),
  );
});

test('refuses a gateBias without a gate', () => {
  const { gate: _, ...ungated } = weights;
  expect(() => packExperts(ungated, 3)).toThrow(
    expect.objectContaining({
      code: 'SHAPE_MISMATCH',
      message: expect.stringContaining('gateBias'),
    }),
  );
});
