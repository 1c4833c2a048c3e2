import { D2DMoEError, Random } from '@d2dmoe/core';
import * as tf from '@tensorflow/tfjs-core';
import '@tensorflow/tfjs-backend-cpu';
import '@tensorflow/tfjs-backend-wasm';
import { beforeAll, describe, expect, test } from 'vitest';
import { ScoreSum } from './score.js';
import { failOnLeaks } from '../testing/leaks.js';

describe.each(['cpu', 'wasm'])('on %s', (backend) => {
  beforeAll(() => tf.setBackend(backend));
  failOnLeaks();

  /** Score of batches of logits and labels, through the device. */
  function score(
    task: 'text-generation' | 'text-classification',
    batches: { logits: Float32Array; shape: number[]; labels: number[] }[],
  ) {
    const sum = new ScoreSum(task);
    for (const { logits, shape, labels } of batches) {
      const figures = tf.tidy(() =>
        sum.measure(tf.tensor(logits, shape), Int32Array.from(labels)).dataSync(),
      );
      sum.add(figures);
    }
    return { ...sum.score(), loss: sum.loss() };
  }

  function randomBatch(random: Random, shape: number[], scale: number) {
    const classes = shape[shape.length - 1] as number;
    const length = shape.reduce((product, size) => product * size, 1);
    const logits = Float32Array.from({ length }, () => scale * random.normal());
    const labels = Array.from({ length: length / classes }, () => random.integer(classes + 1) - 1);
    return { logits, shape, labels };
  }

  test('the loss is the mean cross-entropy over scored positions', () => {
    const random = new Random(1);
    for (const scale of [0.1, 3, 1000]) {
      const batches = [
        [2, 7, 11],
        [1, 3, 11],
        [4, 1, 300],
      ].map((shape) => randomBatch(random, shape, scale));
      let sum = 0;
      let count = 0;
      for (const { logits, shape, labels } of batches) {
        const classes = shape[shape.length - 1] as number;
        for (const [row, label] of labels.entries()) {
          if (label < 0) continue;
          const values = [...logits.subarray(row * classes, (row + 1) * classes)];
          const greatest = Math.max(...values);
          const exponentials = values.map((value) => Math.exp(value - greatest));
          const total = exponentials.reduce((a, b) => a + b, 0);
          sum += Math.log(total) + greatest - (values[label] as number);
          count++;
        }
      }
      const result = score('text-generation', batches);
      expect(result).toMatchObject({ name: 'loss', higherIsBetter: false });
      expect(Math.abs(result.value / (sum / count) - 1)).toBeLessThan(1e-5);
      // A classifier's loss is the same figure, beside its accuracy.
      const { name, loss } = score('text-classification', batches);
      expect(name).toBe('accuracy');
      expect(Math.abs(loss / (sum / count) - 1)).toBeLessThan(1e-5);
    }
  });

  test('accuracy is the share of scored rows whose greatest logit is the label’s', () => {
    const random = new Random(2);
    const batches = [randomBatch(random, [40, 3], 1), randomBatch(random, [9, 3], 1)];
    let hits = 0;
    let count = 0;
    for (const { logits, labels } of batches) {
      for (const [row, label] of labels.entries()) {
        if (label < 0) continue;
        const values = [...logits.subarray(row * 3, row * 3 + 3)];
        if (values[label] === Math.max(...values)) hits++;
        count++;
      }
    }
    expect(hits).toBeGreaterThan(0);
    expect(score('text-classification', batches)).toMatchObject({
      name: 'accuracy',
      value: hits / count,
      higherIsBetter: true,
    });
  });

  test('logits larger than one run of rows give the same loss', () => {
    // Equal logits over V entries cost log V each; 5 rows of 2²⁰ take two runs.
    const classes = 1 << 20;
    const logits = new Float32Array(5 * classes);
    logits[4 * classes + 7] = 30; // all but certain
    const labels = [0, 1, 2, classes - 1, 7];
    const { value } = score('text-generation', [{ logits, shape: [1, 5, classes], labels }]);
    const last = Math.log(1 + (classes - 1) * Math.exp(-30));
    expect(value).toBeCloseTo((4 * Math.log(classes) + last) / 5, 4);
  });

  test('a batch without a scored row adds nothing, and data without any have no score', () => {
    const empty = { logits: new Float32Array(8), shape: [2, 4], labels: [-1, -1] };
    const one = { logits: Float32Array.of(0, 1, 0, 0), shape: [1, 4], labels: [1] };
    expect(score('text-classification', [empty, one, empty]).value).toBe(1);
    expect(() => score('text-classification', [empty])).toThrowError(/no scored label/);
  });

  test.each([
    ['too few labels', [0, 1]],
    ['a label past the last class', [0, 1, 4]],
    ['a negative label', [0, -2, 1]],
  ])('%s: refused', (_, labels) => {
    const batch = { logits: new Float32Array(12), shape: [3, 4], labels };
    expect(() => score('text-classification', [batch])).toThrowError(D2DMoEError);
  });
});
