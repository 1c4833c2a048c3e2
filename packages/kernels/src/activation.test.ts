import * as tf from '@tensorflow/tfjs-core';
import { beforeAll, describe, expect, test } from 'vitest';
import { activate } from './activation.js';
import { referenceActivate } from './reference.js';
import { backends } from '../testing/backends.js';
import { greatestError } from '../testing/closeness.js';
import { recordedActivations } from '../testing/recorded.js';

// Off the grid points of a quarter, so that no difference quotient straddles the kink of ReLU.
const points = Float32Array.from({ length: 161 }, (_, i) => (i - 80) / 8 + 0.01);

describe.each(backends)('%s', (_, use) => {
  beforeAll(use);

  test.each(recordedActivations)('%s is within 1e-6 of float64', (activation) => {
    const expected = Float64Array.from(points, (x) => referenceActivate(x, activation));
    const actual = tf.tidy(() => activate(tf.tensor1d(points), activation).dataSync());
    expect(greatestError(actual, expected)).toBeLessThan(1e-6);
  });

  test.each(recordedActivations)('%s has the derivative of float64', (activation) => {
    const step = 1e-5;
    const expected = Float64Array.from(
      points,
      (x) =>
        (referenceActivate(x + step, activation) - referenceActivate(x - step, activation)) /
        (2 * step),
    );
    const before = tf.memory().numTensors;
    const actual = tf.tidy(() => {
      const gradient = tf.grad((x) => tf.mul(activate(x, activation), 3));
      return tf.div(gradient(tf.tensor1d(points)), 3).dataSync();
    });
    expect(greatestError(actual, expected)).toBeLessThan(2e-6);
    expect(tf.memory().numTensors).toBe(before);
  });

  test.each(recordedActivations)(
    '%s takes any shape, none of its own elements too',
    (activation) => {
      tf.tidy(() => {
        expect(activate(tf.ones([2, 3, 4]), activation).shape).toEqual([2, 3, 4]);
        expect(activate(tf.zeros([0, 3]), activation).shape).toEqual([0, 3]);
      });
    },
  );
});
