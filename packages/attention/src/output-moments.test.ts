import '@tensorflow/tfjs-backend-cpu';
import '@tensorflow/tfjs-backend-wasm';
import { Random } from '@d2dmoe/core';
import * as tf from '@tensorflow/tfjs-core';
import { beforeAll, describe, expect, test } from 'vitest';
import { OutputMoments } from './index.js';

describe.each(['cpu', 'wasm'])('on %s', (backend) => {
  beforeAll(async () => {
    await tf.setBackend(backend);
  });

  test('mean and covariance are those of all rows together, in float64', async () => {
    const random = new Random(3);
    const rows = Array.from({ length: 37 }, () => {
      const shared = random.normal();
      return [shared + 2, shared - random.normal(), 0.1 * random.normal()];
    });
    const moments = new OutputMoments();
    const before = tf.memory().numTensors;
    for (const [from, to] of [
      [0, 10],
      [10, 11],
      [11, 37],
    ]) {
      tf.tidy(() => moments.add(tf.tensor2d(rows.slice(from, to))));
    }
    expect(tf.memory().numTensors).toBe(before + 2);
    const { mean, covariance } = await moments.read();
    moments.dispose();
    expect(tf.memory().numTensors).toBe(before);
    const expected = [0, 1, 2].map((i) => rows.reduce((sum, row) => sum + (row[i] ?? 0), 0) / 37);
    for (const [i, value] of expected.entries()) {
      expect(mean[i]).toBeCloseTo(value, 5);
      for (const [j, other] of expected.entries()) {
        const products = rows.map((row) => ((row[i] ?? 0) - value) * ((row[j] ?? 0) - other));
        expect(covariance[3 * i + j]).toBeCloseTo(products.reduce((a, b) => a + b) / 37, 4);
      }
    }
  });

  test('without a token there are none', async () => {
    await expect(new OutputMoments().read()).rejects.toThrow(
      expect.objectContaining({ code: 'MOMENTS_EMPTY' }),
    );
  });
});
