import { Random } from '@d2dmoe/core';
import { useWasm } from '@d2dmoe/kernels/node';
import '@tensorflow/tfjs-backend-cpu';
import '@tensorflow/tfjs-layers';
import * as tf from '@tensorflow/tfjs-core';
import { expect, test } from 'vitest';
import { relativeError } from '../../kernels/testing/closeness.js';
import { modelTypes, tinyBatch, tinyModel } from '../testing/tiny.js';
import type { ModelType } from './config.js';

const numberOf = (compute: () => tf.Tensor): number =>
  tf.tidy(() => compute().dataSync<'float32'>()[0] ?? NaN);

test.each(modelTypes)(
  '%s: the gradient of every parameter matches finite differences',
  async (type) => {
    await tf.setBackend('cpu');
    const model = tinyModel(type);
    const batch = tinyBatch(type);
    const random = new Random(4);
    const normals = (shape: number[]) => {
      const values = Array.from({ length: tf.util.sizeFromShape(shape) }, () => random.normal());
      return tf.tensor(values, shape);
    };
    const weights = normals(tf.tidy(() => model.forward(batch).logits.shape));
    const loss = () => tf.sum<tf.Scalar>(tf.mul(model.forward(batch).logits, weights));
    const { grads, value } = tf.variableGrads(loss, [...model.params.values()]);

    const wrong: string[] = [];
    for (const [name, variable] of model.params) {
      const gradient = grads[variable.name] as tf.Tensor;
      const start = tf.clone<tf.Tensor>(variable);
      const direction = tf.tidy(() => {
        const d = normals(variable.shape);
        return tf.div(d, tf.norm(d));
      });
      const lossAt = (distance: number) =>
        numberOf(() => {
          variable.assign(tf.add(start, tf.mul(direction, distance)));
          return loss();
        });
      // Richardson's extrapolation of central differences, whose error is of fourth order in the step.
      const central = (step: number) => (lossAt(step) - lossAt(-step)) / (2 * step);
      const expected = (4 * central(0.02) - central(0.04)) / 3;
      variable.assign(start);
      const actual = numberOf(() => tf.sum(tf.mul(gradient, direction)));
      const tolerance = 1e-4 + 1e-3 * numberOf(() => tf.norm(gradient));
      if (!(Math.abs(actual - expected) < tolerance)) wrong.push(name);
      tf.dispose([direction, start]);
    }
    expect(wrong).toEqual([]);

    tf.dispose([weights, value, grads, ...Object.values(batch)]);
    model.dispose();
    expect(tf.memory().numTensors).toBe(0);
  },
);

/** The gradient of the sum of the squared logits, all parameters after each other in the order of their names. */
function gradientOf(type: ModelType): Float32Array {
  const model = tinyModel(type);
  const values = tf.tidy(() => {
    const batch = tinyBatch(type);
    const loss = () => tf.sum<tf.Scalar>(tf.square(model.forward(batch).logits));
    const { grads } = tf.variableGrads(loss, [...model.params.values()]);
    const byName = [...model.params].sort(([a], [b]) => (a < b ? -1 : 1));
    return byName.flatMap(([, variable]) => Array.from(grads[variable.name]?.dataSync() ?? []));
  });
  model.dispose();
  return Float32Array.from(values);
}

test.each(modelTypes)(
  '%s: the wasm backend with its kernels gives the same gradient',
  async (type) => {
    await tf.setBackend('cpu');
    const expected = gradientOf(type);
    await useWasm();
    expect(relativeError(gradientOf(type), expected)).toBeLessThan(1e-5);
    expect(tf.memory().numTensors).toBe(0);
  },
);
