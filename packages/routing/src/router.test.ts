import '@tensorflow/tfjs-backend-cpu';
import { Random } from '@d2dmoe/core';
import * as tf from '@tensorflow/tfjs-core';
import { beforeAll, expect, test } from 'vitest';
import {
  createRouter,
  predictNorms,
  relativeError,
  RouterTrainer,
  tauFromReference,
} from './index.js';

beforeAll(async () => {
  await tf.setBackend('cpu');
});

test('a new router fills ±1/√(inputs) of its hidden layer and a tenth of that of its output, by seed', () => {
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
    [router.output, 0.1 / 10],
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

test('norms that are rare and far below a router’s scale are learned, not flattened to 0', () => {
  const [dIn, width, experts, tokens] = [48, 16, 24, 64];
  const random = new Random(7);
  const normals = (size: number) => Float32Array.from({ length: size }, () => random.normal());
  const planted = tf.tensor2d(normals(experts * dIn), [experts, dIn]);
  const router = createRouter({ dIn, width, experts, random: random.fork('router') });
  // After a layer norm tokens share much of their direction; most norms are 0.
  const sample = () =>
    tf.tidy(() => {
      const input = tf.add<tf.Tensor2D>(tf.tensor2d(normals(tokens * dIn), [tokens, dIn]), 1);
      const scores = tf.matMul(input, planted, false, true);
      return { input, target: tf.mul<tf.Tensor2D>(tf.relu(tf.sub(scores, 12)), 0.02) };
    });
  const trainer = new RouterTrainer({
    routers: new Map([['site', router]]),
    steps: 300,
    learningRate: 3e-3,
  });
  for (let step = 0; step < 300; step++) {
    const { input, target } = sample();
    trainer.step(new Map([['site', { input, target }]]));
    tf.dispose([input, target]);
  }
  const { input, target } = sample();
  const [error] = relativeError(predictNorms(input, router), target).dataSync();
  // A router that has gone silent has an error of 1.
  expect(error).toBeLessThan(0.9);
});
