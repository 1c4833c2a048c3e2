import '@tensorflow/tfjs-backend-cpu';
import '@tensorflow/tfjs-backend-wasm';
import '@tensorflow/tfjs-layers';
import { readFileSync } from 'node:fs';
import { Random } from '@d2dmoe/core';
import { bufferSource, openSafetensors } from '@d2dmoe/safetensors';
import * as tf from '@tensorflow/tfjs-core';
import { beforeAll, describe, expect, test } from 'vitest';
import {
  createRouter,
  moeficationGradients,
  moeficationLoss,
  moeficationScores,
  moeficationTargets,
  RouterTrainer,
} from './index.js';

const fixtures = await openSafetensors(
  bufferSource(
    readFileSync(new URL('../../../tools/fixtures/method.safetensors', import.meta.url)),
  ),
);

async function fixture(name: string): Promise<tf.Tensor> {
  return tf.tensor(await fixtures.readFloat32(name), [
    ...(fixtures.tensors.get(name)?.shape ?? []),
  ]);
}

describe.each(['cpu', 'wasm'])('on %s', (backend) => {
  beforeAll(async () => {
    await tf.setBackend(backend);
  });

  test('targets equal the ones recorded from PyTorch', async () => {
    const [x, w1, b1] = await Promise.all(['op.x', 'op.w1', 'op.b1'].map(fixture));
    const hidden = tf.relu(
      tf.add(tf.matMul(x as tf.Tensor, w1 as tf.Tensor, false, true), b1 as tf.Tensor),
    );
    const targets = moeficationTargets(hidden as tf.Tensor2D, 4).dataSync();
    const expected = await fixtures.readFloat32('router.moefication_targets');
    expect(targets.length).toBe(expected.length);
    for (const [i, target] of expected.entries()) expect(targets[i]).toBeCloseTo(target, 5);
    expect(Math.max(...targets)).toBe(1);
  });

  test('negative activations do not count, and a batch without positive ones has targets 0', () => {
    expect(moeficationTargets(tf.tensor2d([[3, -9, 1, 5]]), 2).arraySync()).toEqual([[0.5, 1]]);
    expect(moeficationTargets(tf.tensor2d([[-1, 0, 0, -2]]), 2).arraySync()).toEqual([[0, 0]]);
  });

  test('scores are output · tanh(hidden · x)', () => {
    const random = new Random(4);
    const draw = (rows: number, columns: number) =>
      Array.from({ length: rows }, () => Array.from({ length: columns }, () => random.normal()));
    const [x, hidden, output] = [draw(3, 5), draw(4, 5), draw(2, 4)];
    const dot = (a: number[], b: number[]) => a.reduce((sum, v, i) => sum + v * (b[i] ?? 0), 0);
    const scores = moeficationScores(tf.tensor2d(x), {
      hidden: tf.tensor2d(hidden),
      output: tf.tensor2d(output),
    }).arraySync();
    for (const [t, row] of x.entries()) {
      const activations = hidden.map((h) => Math.tanh(dot(h, row)));
      for (const [i, o] of output.entries()) {
        expect(scores[t]?.[i]).toBeCloseTo(dot(o, activations), 4);
      }
    }
  });

  test('the loss is the binary cross-entropy, and its gradient that of finite differences', () => {
    const scores = [-3, -0.5, 0.25, 2, 0.001, 5];
    const targets = [0, 0.3, 1, 0.9, 0.5, 0.2];
    const reference = (s: number[]) =>
      s.reduce((sum, score, i) => {
        const p = 1 / (1 + Math.exp(-score));
        const t = targets[i] ?? Number.NaN;
        return sum - t * Math.log(p) - (1 - t) * Math.log(1 - p);
      }, 0) / s.length;
    tf.tidy(() => {
      const { value, grad } = tf.valueAndGrad((s: tf.Tensor) =>
        tf.mul(moeficationLoss(s as tf.Tensor2D, tf.tensor2d(targets, [2, 3])), 3),
      )(tf.tensor2d(scores, [2, 3]));
      expect((value.arraySync() as number) / 3).toBeCloseTo(reference(scores), 5);
      const gradient = grad.dataSync();
      for (const [i, score] of scores.entries()) {
        const at = (delta: number) => reference(scores.with(i, score + delta));
        expect((gradient[i] ?? Number.NaN) / 3).toBeCloseTo((at(1e-5) - at(-1e-5)) / 2e-5, 5);
      }
    });
  });

  test('the written-out gradient is the one of autodiff', () => {
    const random = new Random(6);
    const router = createRouter({ dIn: 5, width: 4, experts: 3, random });
    const draw = (count: number) => Float32Array.from({ length: count }, () => random.normal());
    tf.tidy(() => {
      const input = tf.tensor2d(draw(35), [7, 5]);
      const targets = moeficationTargets(tf.tensor2d(draw(42), [7, 6]), 2);
      const { value, grads } = tf.variableGrads(
        () => moeficationLoss(moeficationScores(input, router), targets),
        [router.hidden, router.output],
      );
      const written = moeficationGradients(input, targets, router);
      expect(written.loss.arraySync()).toBeCloseTo(value.arraySync(), 6);
      for (const part of ['hidden', 'output'] as const) {
        const expected = grads[router[part].name] as tf.Tensor;
        const largest = tf.max(tf.abs(tf.sub(written[part], expected))).arraySync();
        expect(largest).toBeLessThan(1e-6);
        expect(tf.max(tf.abs(expected)).arraySync()).toBeGreaterThan(1e-3);
      }
    });
    tf.dispose([router.hidden, router.output]);
  });

  test('a trainer with this objective learns what a planted router gives', () => {
    const random = new Random(8);
    const settings = { dIn: 6, width: 8, experts: 4 };
    const planted = createRouter({ ...settings, random: random.fork('planted') });
    const router = createRouter({ ...settings, random: random.fork('trained') });
    const steps = 200;
    const trainer = new RouterTrainer({
      routers: new Map([['site', router]]),
      steps,
      learningRate: 3e-2,
      objective: moeficationGradients,
    });
    const losses: number[] = [];
    for (let step = 0; step < steps; step++) {
      tf.tidy(() => {
        const values = Float32Array.from({ length: 64 * 6 }, () => 3 * random.normal());
        const input = tf.tensor2d(values, [64, 6]);
        const target = tf.sigmoid(tf.mul(moeficationScores(input, planted), 4));
        // The entropy of the targets is what no router can undercut.
        const least = moeficationLoss(
          tf.mul(moeficationScores(input, planted), 4),
          target as tf.Tensor2D,
        ).arraySync();
        const loss = trainer.step(new Map([['site', { input, target: target as tf.Tensor2D }]]));
        losses.push(loss - least);
      });
    }
    const mean = (values: number[]) => values.reduce((a, b) => a + b, 0) / values.length;
    expect(mean(losses.slice(-10))).toBeLessThan(0.2 * mean(losses.slice(0, 10)));
    trainer.dispose();
    tf.dispose([router.hidden, router.output, planted.hidden, planted.output]);
  });

  test('the loss stays right for scores whose sigmoid is 0 or 1', () => {
    const loss = (score: number, target: number) =>
      moeficationLoss(tf.tensor2d([[score]]), tf.tensor2d([[target]])).arraySync();
    expect(loss(200, 1)).toBeCloseTo(0, 6);
    expect(loss(200, 0)).toBeCloseTo(200, 4);
    expect(loss(-200, 0)).toBeCloseTo(0, 6);
    expect(loss(-200, 1)).toBeCloseTo(200, 4);
  });
});

test('an expert size that does not divide the width is refused', () => {
  expect(() => moeficationTargets(tf.ones([2, 10]), 4)).toThrow(/4 does not divide .* 10/);
});
