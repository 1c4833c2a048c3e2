import '@tensorflow/tfjs-backend-cpu';
import '@tensorflow/tfjs-backend-wasm';
import '@tensorflow/tfjs-layers';
import { readFileSync } from 'node:fs';
import { Random } from '@d2dmoe/core';
import { bufferSource, openSafetensors } from '@d2dmoe/safetensors';
import * as tf from '@tensorflow/tfjs-core';
import { beforeAll, describe, expect, test } from 'vitest';
import { moeficationLoss, moeficationScores, moeficationTargets } from './index.js';

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
