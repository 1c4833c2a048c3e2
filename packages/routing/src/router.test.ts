import '@tensorflow/tfjs-backend-cpu';
import { Random } from '@d2dmoe/core';
import * as tf from '@tensorflow/tfjs-core';
import { beforeAll, expect, test } from 'vitest';
import { createRouter, predictNorms, relativeError, tauFromReference } from './index.js';

beforeAll(async () => {
  await tf.setBackend('cpu');
});

test('a new router fills ±1/√(inputs) of each of its layers, by seed', () => {
  const before = tf.memory().numTensors;
  const create = (seed: number) =>
    createRouter({ dIn: 64, width: 100, experts: 24, random: new Random(seed) });
  const router = create(1);
  expect(tf.memory().numTensors).toBe(before + 2);
  expect([router.hidden.shape, router.output.shape]).toEqual([
    [100, 64],
    [24, 100],
  ]);
  for (const [weights, bound] of [
    [router.hidden, 1 / 8],
    [router.output, 1 / 10],
  ] as const) {
    const values = [...weights.dataSync()];
    expect(Math.max(...values)).toBeLessThanOrEqual(bound);
    expect(Math.min(...values)).toBeGreaterThanOrEqual(-bound);
    const deviation = Math.sqrt(values.reduce((sum, v) => sum + v * v, 0) / values.length);
    expect(deviation / (bound / Math.sqrt(3))).toBeCloseTo(1, 1);
  }
  const again = create(1);
  const other = create(2);
  expect(again.hidden.dataSync()).toEqual(router.hidden.dataSync());
  expect(other.output.dataSync()).not.toEqual(router.output.dataSync());
  const norms = predictNorms(tf.ones([3, 64]), router);
  expect(norms.shape).toEqual([3, 24]);
});

test('the relative error is 0 for a perfect router, 1 for one that predicts 0, blind to scale', () => {
  const targets = tf.tensor2d([
    [3, 0],
    [4, 0],
  ]);
  const predicted = tf.tensor2d([
    [3, 1],
    [4, 2],
  ]);
  expect(relativeError(targets, targets).arraySync()).toBe(0);
  expect(relativeError(tf.zerosLike(targets), targets).arraySync()).toBe(1);
  expect(relativeError(predicted, targets).arraySync()).toBeCloseTo(Math.sqrt(5) / 5, 6);
  expect(relativeError(tf.mul(predicted, 8), tf.mul(targets, 8)).arraySync()).toBeCloseTo(
    Math.sqrt(5) / 5,
    6,
  );
});

test("the published code's threshold counts from the other end", () => {
  expect([0, 0.25, 1].map(tauFromReference)).toEqual([1, 0.75, 0]);
});
