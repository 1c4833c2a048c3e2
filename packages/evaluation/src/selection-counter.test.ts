import { Random } from '@d2dmoe/core';
import * as tf from '@tensorflow/tfjs-core';
import '@tensorflow/tfjs-backend-cpu';
import '@tensorflow/tfjs-backend-wasm';
import { describe, expect, test } from 'vitest';
import { SelectionCounter } from './selection-counter.js';

describe.each(['cpu', 'wasm'])('on %s', (backend) => {
  test('counts what loops over real tokens and experts count, over batches and sites', async () => {
    await tf.setBackend(backend);
    const tensors = tf.memory().numTensors;
    const random = new Random(4);
    const counter = new SelectionCounter();
    const expected = new Map<string, number>();
    for (const rows of [1, 17, 64]) {
      const mask = Array.from({ length: rows }, () => random.integer(2));
      const maskTensor = tf.tensor2d(mask, [rows, 1]);
      counter.startBatch(maskTensor);
      for (const [site, experts] of [
        ['a', 5],
        ['b', 128],
      ] as const) {
        const selection = Array.from({ length: rows * experts }, () => random.integer(3) === 0);
        for (let row = 0; row < rows; row++) {
          for (let expert = 0; expert < experts; expert++) {
            if (mask[row] === 1 && selection[row * experts + expert]) {
              expected.set(site, (expected.get(site) ?? 0) + 1);
            }
          }
        }
        // As in a forward pass, which runs inside a tidy.
        tf.tidy(() => {
          const values = selection.map(Number);
          counter.observe({ name: site }, tf.tensor2d(values, [rows, experts], 'bool'));
        });
      }
      counter.add(tf.tidy(() => tf.concat1d([...counter.pending]).dataSync<'float32'>()));
      counter.endBatch();
      maskTensor.dispose();
    }
    expect(counter.executed).toEqual(expected);
    expect(tf.memory().numTensors).toBe(tensors);
  });
});

test('a selection for another number of rows than the batch has is refused', async () => {
  await tf.setBackend('cpu');
  tf.tidy(() => {
    const counter = new SelectionCounter();
    counter.startBatch(tf.ones([6, 1]));
    expect(() => counter.observe({ name: 'layers.0.ffn' }, tf.ones([5, 2], 'bool'))).toThrowError(
      /layers.0.ffn selected experts for 5 rows/,
    );
  });
});
