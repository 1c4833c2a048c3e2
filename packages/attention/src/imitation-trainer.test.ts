import '@tensorflow/tfjs-backend-cpu';
import '@tensorflow/tfjs-backend-wasm';
import '@tensorflow/tfjs-layers';
import { D2DMoEError, Random } from '@d2dmoe/core';
import { feedForward } from '@d2dmoe/kernels';
import * as tf from '@tensorflow/tfjs-core';
import { beforeAll, describe, expect, test } from 'vitest';
import { disposeReplacement, planted } from '../testing/planted.js';
import {
  createReplacement,
  imitationError,
  type ImitationSample,
  ImitationTrainer,
  OutputMoments,
  type TrainableReplacement,
} from './index.js';

const layers = {
  'layers.0.attention.q': { dIn: 8, scales: [1, 0.6, 0.4, 0.3, 0.2, 0.1, 0.1, 0.1], hidden: 4 },
  'layers.0.attention.k': { dIn: 8, scales: [1, 0.5, 0.2], hidden: 2 },
};

const tokens = 256;

/** Samples of two projections of different width, and new replacements for them. */
async function setUp(margin = 1) {
  const samples = new Map<string, ImitationSample>();
  const replacements = new Map<string, TrainableReplacement>();
  for (const [site, { dIn, scales, hidden }] of Object.entries(layers)) {
    const { weight, bias, input, output } = planted({ dIn, scales, tokens, bias: true });
    const moments = new OutputMoments();
    moments.add(output);
    const settings = { weight, bias, moments: await moments.read(), hidden, margin, expertSize: 1 };
    replacements.set(site, await createReplacement({ ...settings, random: new Random(1) }));
    samples.set(site, { input, target: output });
    moments.dispose();
    tf.dispose(bias ? [weight, bias] : [weight]);
  }
  const dispose = () => {
    for (const replacement of replacements.values()) disposeReplacement(replacement);
    for (const { input, target } of samples.values()) tf.dispose([input, target]);
  };
  return { samples, replacements, dispose };
}

/** Square Hoyer. */
const term = (activations: tf.Tensor2D) =>
  tf.mean<tf.Scalar>(
    tf.div(tf.square(tf.sum(activations, 1)), tf.add(tf.sum(tf.square(activations), 1), 1e-15)),
  );

const weights = (replacements: ReadonlyMap<string, TrainableReplacement>) =>
  [...replacements.values()].flatMap(({ up, upBias, down, downBias }) =>
    [up, upBias, down, downBias].map((variable) => variable.dataSync().slice()),
  );

describe.each(['cpu', 'wasm'])('on %s', (backend) => {
  beforeAll(async () => {
    await tf.setBackend(backend);
  });

  test('training brings the error down, and the sparsity term makes activations rare', async () => {
    const run = async (alpha: number) => {
      const { samples, replacements, dispose } = await setUp();
      const trainer = new ImitationTrainer({ replacements, term });
      const figures = Array.from({ length: 150 }, () =>
        trainer.step(samples, { learningRate: 5e-3, alpha }),
      );
      const zeros = Array.from(replacements, ([site, { up, upBias }]) =>
        tf.tidy(() => {
          const { input } = samples.get(site) as ImitationSample;
          const z = tf.add(tf.matMul(input, up, false, true), upBias);
          return tf.mean<tf.Scalar>(tf.step(tf.neg(z))).arraySync();
        }),
      );
      const errors = Array.from(replacements, ([site, replacement]) =>
        tf.tidy(() => {
          const { input, target } = samples.get(site) as ImitationSample;
          return imitationError(feedForward(input, replacement), target).arraySync();
        }),
      );
      trainer.dispose();
      dispose();
      const mean = (values: number[]) => values.reduce((a, b) => a + b) / values.length;
      return { figures, zeros: mean(zeros), error: mean(errors) };
    };
    const plain = await run(0);
    expect(plain.figures[0]?.error).toBeGreaterThan(0.05);
    expect(plain.error).toBeLessThan(0.75 * (plain.figures[0]?.error as number));
    expect(plain.figures.at(-1)?.error).toBeCloseTo(plain.error, 2);
    const sparse = await run(0.1);
    expect(sparse.figures[0]?.error).toBe(plain.figures[0]?.error);
    expect(sparse.zeros).toBeGreaterThan(plain.zeros + 0.1);
    expect(sparse.figures.at(-1)?.sparsity).toBeLessThan(plain.figures.at(-1)?.sparsity as number);
  });

  test('without a sparsity term only the error is reported', async () => {
    const { samples, replacements, dispose } = await setUp();
    const trainer = new ImitationTrainer({ replacements });
    expect(Object.keys(trainer.step(samples, { learningRate: 1e-3, alpha: 0 }))).toEqual(['error']);
    trainer.dispose();
    dispose();
  });

  test('a run that is restored ends bit for bit as an undisturbed one', async () => {
    const steps = 12;
    const run = (
      trainer: ImitationTrainer,
      samples: ReadonlyMap<string, ImitationSample>,
      from: number,
      to: number,
    ) =>
      Array.from({ length: to - from }, (_, i) =>
        trainer.step(samples, { learningRate: 1e-2 / (1 + from + i), alpha: 0.01 }),
      );
    const undisturbed = await setUp();
    const { samples } = undisturbed;
    const expected = run(
      new ImitationTrainer({ replacements: undisturbed.replacements, term }),
      samples,
      0,
      steps,
    );
    const begun = await setUp();
    const first = new ImitationTrainer({ replacements: begun.replacements, term });
    run(first, samples, 0, 5);
    // As a file would hold it.
    const saved = [...first.state()].map(([name, tensor]) => ({
      name,
      shape: tensor.shape,
      values: tensor.dataSync().slice(),
    }));
    const taken = first.steps;
    expect(taken).toBe(5);
    run(first, samples, 5, 7);
    const resumed = await setUp(2);
    const second = new ImitationTrainer({ replacements: resumed.replacements, term });
    tf.tidy(() => {
      const state = saved.map(
        ({ name, shape, values }) => [name, tf.tensor(values, shape)] as const,
      );
      second.restore(taken, new Map(state));
    });
    expect(run(second, samples, taken, steps)).toEqual(expected.slice(taken));
    expect(weights(resumed.replacements)).toEqual(weights(undisturbed.replacements));
    for (const { dispose } of [undisturbed, begun, resumed]) dispose();
  });

  test('a step leaves nothing in memory, dispose nothing but the replacements', async () => {
    const { samples, replacements, dispose } = await setUp();
    const before = tf.memory().numTensors;
    const trainer = new ImitationTrainer({ replacements, term });
    const during = tf.memory().numTensors;
    trainer.step(samples, { learningRate: 1e-3, alpha: 0.1 });
    expect(tf.memory().numTensors).toBe(during);
    trainer.restore(1, trainer.state());
    trainer.step(samples, { learningRate: 1e-3, alpha: 0.1 });
    expect(tf.memory().numTensors).toBe(during);
    trainer.dispose();
    expect(tf.memory().numTensors).toBe(before);
    dispose();
  });

  test('a state that lacks a tensor or has one of another shape is refused, and changes nothing', async () => {
    const { samples, replacements, dispose } = await setUp();
    const trainer = new ImitationTrainer({ replacements });
    trainer.step(samples, { learningRate: 1e-3, alpha: 0 });
    const before = weights(replacements);
    const zeros = [...trainer.state()].map(
      ([name, { shape }]) => [name, tf.zeros(shape)] as [string, tf.Tensor],
    );
    const missing = new Map(zeros);
    missing.delete('layers.0.attention.k.down.second');
    expect(() => trainer.restore(3, missing)).toThrow(/no layers\.0\.attention\.k\.down\.second/);
    const misshapen = new Map(zeros).set('layers.0.attention.q.up', tf.zeros([2, 2]));
    expect(() => trainer.restore(3, misshapen)).toThrow(/shape \[2, 2\] for .*\.q\.up/);
    expect(weights(replacements)).toEqual(before);
    expect(trainer.steps).toBe(1);
    trainer.dispose();
    dispose();
  });

  test('a batch without a sample for one of the sites is refused', async () => {
    const { samples, replacements, dispose } = await setUp();
    const trainer = new ImitationTrainer({ replacements });
    const batch = new Map(samples);
    batch.delete('layers.0.attention.k');
    const step = () => trainer.step(batch, { learningRate: 1e-3, alpha: 0 });
    expect(step).toThrow(D2DMoEError);
    expect(step).toThrow(/layers\.0\.attention\.k/);
    trainer.dispose();
    dispose();
  });
});
