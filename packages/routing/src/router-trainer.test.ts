import '@tensorflow/tfjs-backend-cpu';
import '@tensorflow/tfjs-backend-wasm';
import { D2DMoEError, Random } from '@d2dmoe/core';
import * as tf from '@tensorflow/tfjs-core';
import { beforeAll, describe, expect, test } from 'vitest';
import {
  createRouter,
  normRegressionLoss,
  predictNorms,
  relativeError,
  type RouterSample,
  RouterTrainer,
  type TrainableRouter,
} from './index.js';

/** Two layers of different shape; their targets come from planted routers, so that a perfect router exists. */
const layers = { 'layer.0': [8, 6], 'layer.1': [5, 4] } as const;
const sites = Object.keys(layers) as (keyof typeof layers)[];

function newRouters(seed: number, width: number): Map<string, TrainableRouter> {
  const random = new Random(seed);
  return new Map(
    sites.map((site) => {
      const [dIn, experts] = layers[site];
      return [site, createRouter({ dIn, width, experts, random: random.fork(site) })];
    }),
  );
}

function sampler(): (step: number, tokens: number) => Map<string, RouterSample> {
  const planted = newRouters(99, 6);
  return (step, tokens) =>
    new Map(
      sites.map((site) => {
        const random = new Random(step).fork(site);
        const dIn = layers[site][0];
        const values = Float32Array.from({ length: tokens * dIn }, () => random.normal());
        const input = tf.tensor2d(values, [tokens, dIn]);
        const router = planted.get(site) as TrainableRouter;
        return [site, { input, target: tf.mul(predictNorms(input, router), 3) }];
      }),
    );
}

const weights = (routers: Map<string, TrainableRouter>) =>
  [...routers.values()].flatMap(({ hidden, output }) => [hidden.dataSync(), output.dataSync()]);

describe.each(['cpu', 'wasm'])('on %s', (backend) => {
  beforeAll(async () => {
    await tf.setBackend(backend);
  });

  test('routers learn what planted routers do', () => {
    const sample = sampler();
    const routers = newRouters(1, 32);
    const steps = 400;
    const trainer = new RouterTrainer({ routers, steps, learningRate: 3e-2 });
    const held = sample(-1, 512);
    const mean = (values: number[]) => values.reduce((a, b) => a + b, 0) / values.length;
    const score = (f: (site: string, sample: RouterSample) => tf.Scalar) =>
      mean([...held].map(([site, s]) => tf.tidy(() => f(site, s).arraySync())));
    const lossOf = () =>
      score((site, { input, target }) =>
        normRegressionLoss(predictNorms(input, routers.get(site) as TrainableRouter), target),
      );
    const lossOfMean = score((_, { target }) =>
      normRegressionLoss(tf.broadcastTo(tf.mean(target, 0, true), target.shape), target),
    );

    const before = lossOf();
    const reported = trainer.step(held);
    expect(reported).toBeCloseTo(before, 4);
    for (let step = 1; step < steps; step++) tf.tidy(() => void trainer.step(sample(step, 64)));
    expect(trainer.steps).toBe(steps);
    expect(before).toBeGreaterThan(lossOfMean);
    expect(lossOf()).toBeLessThan(0.1 * lossOfMean);
    expect(
      score((site, { input, target }) =>
        relativeError(predictNorms(input, routers.get(site) as TrainableRouter), target),
      ),
    ).toBeLessThan(0.2);
    trainer.dispose();
  });

  test('a run that is restored ends bit for bit as an undisturbed one', () => {
    const sample = sampler();
    const steps = 30;
    const run = (trainer: RouterTrainer, from: number, to: number) => {
      const losses: number[] = [];
      for (let step = from; step < to; step++) {
        tf.tidy(() => void losses.push(trainer.step(sample(step, 16))));
      }
      return losses;
    };
    const undisturbed = newRouters(1, 8);
    const expected = run(new RouterTrainer({ routers: undisturbed, steps }), 0, steps);

    const first = new RouterTrainer({ routers: newRouters(1, 8), steps });
    run(first, 0, 11);
    // As a file would hold it.
    const saved = [...first.state()].map(([name, tensor]) => ({
      name,
      shape: tensor.shape,
      values: tensor.dataSync().slice(),
    }));
    const taken = first.steps;
    run(first, 11, 15);

    const resumed = newRouters(7, 8);
    const second = new RouterTrainer({ routers: resumed, steps });
    run(second, 0, 3);
    tf.tidy(() => {
      const state = saved.map(
        ({ name, shape, values }) => [name, tf.tensor(values, shape)] as const,
      );
      second.restore(taken, new Map(state));
    });
    expect(run(second, taken, steps)).toEqual(expected.slice(taken));
    expect(weights(resumed)).toEqual(weights(undisturbed));
  });

  test('a step leaves nothing in memory, dispose nothing but the routers', () => {
    const routers = newRouters(1, 8);
    const batch = sampler()(0, 4);
    const before = tf.memory().numTensors;
    const trainer = new RouterTrainer({ routers, steps: 5 });
    const during = tf.memory().numTensors;
    trainer.step(batch);
    trainer.step(batch);
    expect(tf.memory().numTensors).toBe(during);
    trainer.restore(1, trainer.state());
    trainer.step(batch);
    expect(tf.memory().numTensors).toBe(during);
    trainer.dispose();
    expect(tf.memory().numTensors).toBe(before);
  });

  test('a state that lacks a tensor or has one of another shape is refused, and changes nothing', () => {
    const routers = newRouters(1, 8);
    const trainer = new RouterTrainer({ routers, steps: 5 });
    trainer.step(sampler()(0, 4));
    const before = weights(routers);
    const zeros = [...trainer.state()].map(
      ([name, { shape }]) => [name, tf.zeros(shape)] as [string, tf.Tensor],
    );
    const missing = new Map(zeros);
    missing.delete('layer.1.output.second');
    expect(() => trainer.restore(3, missing)).toThrow(/no layer\.1\.output\.second/);
    const misshapen = new Map(zeros).set('layer.1.output', tf.zeros([2, 2]));
    expect(() => trainer.restore(3, misshapen)).toThrow(/shape \[2, 2\] for layer\.1\.output/);
    expect(weights(routers)).toEqual(before);
    expect(trainer.steps).toBe(1);
  });

  test('a batch without a sample for one of the sites is refused', () => {
    const trainer = new RouterTrainer({ routers: newRouters(1, 8), steps: 5 });
    const batch = sampler()(0, 4);
    batch.delete('layer.1');
    expect(() => trainer.step(batch)).toThrow(D2DMoEError);
    expect(() => trainer.step(batch)).toThrow(/layer\.1/);
  });
});
