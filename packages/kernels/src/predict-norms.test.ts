import { Random } from '@d2dmoe/core';
import * as tf from '@tensorflow/tfjs-core';
import { beforeAll, describe, expect, test } from 'vitest';
import { predictNorms } from './predict-norms.js';
import { backends } from '../testing/backends.js';
import { relativeError } from '../testing/closeness.js';
import { matrix, normals } from '../testing/random-experts.js';

describe.each(backends)('%s', (_, use) => {
  beforeAll(use);

  test.each([0, 1, 5])('|output · relu(hidden · x)| of %d rows', (rows) => {
    const [dIn, width, experts] = [7, 9, 4];
    const random = new Random(rows);
    const x = normals(rows * dIn, random);
    const hidden = normals(width * dIn, random);
    const output = normals(experts * width, random);
    const expected = Float64Array.from({ length: rows * experts }, (_, i) => {
      const [row, expert] = [Math.floor(i / experts), i % experts];
      let sum = 0;
      for (let w = 0; w < width; w++) {
        let z = 0;
        for (let d = 0; d < dIn; d++) {
          z += (hidden[w * dIn + d] as number) * (x[row * dIn + d] as number);
        }
        sum += (output[expert * width + w] as number) * Math.max(z, 0);
      }
      return Math.abs(sum);
    });

    const before = tf.memory().numTensors;
    tf.tidy(() => {
      const router = { hidden: matrix(hidden, width, dIn), output: matrix(output, experts, width) };
      const norms = predictNorms(matrix(x, rows, dIn), router);
      expect(norms.shape).toEqual([rows, experts]);
      expect(relativeError(norms.dataSync(), expected)).toBeLessThan(1e-6);
    });
    expect(tf.memory().numTensors).toBe(before);
  });
});
