import { Random } from '@d2dmoe/core';
import * as tf from '@tensorflow/tfjs-core';
import { beforeAll, describe, expect, test } from 'vitest';
import { backends } from '../../testing/backends.js';
import { relativeError } from '../../testing/closeness.js';
import { Adam } from './adam.js';
import { clippingScale } from './clipping.js';
import { rotate, rotaryTables } from './rotary.js';

function normals(shape: number[], seed: number): tf.Tensor {
  const random = new Random(seed);
  const values = Array.from({ length: tf.util.sizeFromShape(shape) }, () => random.normal());
  return tf.tensor(values, shape);
}

describe.each(backends)('on %s', (_, use) => {
  beforeAll(use);

  test('rotary embedding turns each pair by its position’s angle, and its gradient turns back', () => {
    const [batch, positions, heads, headDim, start, theta] = [2, 3, 2, 4, 5, 100];
    const before = tf.memory().numTensors;
    const { values, turned, back } = tf.tidy(() => {
      const x = normals([batch * positions, heads * headDim], 1) as tf.Tensor2D;
      const tables = rotaryTables(start, positions, headDim, theta);
      const y = rotate(x, tables);
      // A rotation's transpose is its inverse.
      const back = tf.grad((x) => rotate(x as tf.Tensor2D, tables))(x, y);
      return { values: x.dataSync(), turned: y.dataSync(), back: back.dataSync() };
    });
    expect(tf.memory().numTensors).toBe(before);
    const half = headDim / 2;
    const expected = Float64Array.from(values, (value, at) => {
      const row = Math.floor(at / (heads * headDim));
      const i = at % headDim;
      const angle = (start + (row % positions)) * theta ** (-(i % half) / half);
      const partner = i < half ? -(values[at + half] as number) : (values[at - half] as number);
      return value * Math.cos(angle) + partner * Math.sin(angle);
    });
    expect(relativeError(turned, expected)).toBeLessThan(1e-6);
    expect(relativeError(back, values)).toBeLessThan(1e-6);
  });

  test('clipping scales gradients to a common norm, shorter ones not at all', () => {
    tf.tidy(() => {
      const gradients = [normals([3, 4], 1), normals([5], 2), normals([], 3)];
      const squares = gradients.flatMap((g) => Array.from(g.dataSync(), (x) => x * x));
      const norm = Math.sqrt(squares.reduce((sum, x) => sum + x, 0));
      const scaleAt = (maxNorm: number) => clippingScale(gradients, maxNorm).dataSync()[0];
      expect(scaleAt(0.5)).toBeCloseTo(0.5 / norm, 6);
      expect(scaleAt(2 * norm)).toBe(1);
    });
  });

  test('Adam multiplies gradients by a scale that it is given', () => {
    const run = (factor: number, scale?: number) =>
      tf.tidy(() => {
        const weight = tf.variable(normals([4, 3], 1));
        const adam = new Adam(new Map([['w', weight]]));
        for (let step = 0; step < 3; step++) {
          const gradient = tf.mul(normals([4, 3], 2 + step), factor);
          adam.step({ w: gradient }, 0.1, scale === undefined ? undefined : tf.scalar(scale));
        }
        const values = weight.dataSync().slice();
        adam.dispose();
        weight.dispose();
        return values;
      });
    expect(relativeError(run(4, 0.25), run(1))).toBeLessThan(1e-6);
    expect(relativeError(run(4, 1), run(4))).toBe(0);
  });
});
