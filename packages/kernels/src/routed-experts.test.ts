import { Random } from '@d2dmoe/core';
import * as tf from '@tensorflow/tfjs-core';
import * as fc from 'fast-check';
import { afterEach, beforeAll, describe, expect, test } from 'vitest';
import { dynamicKExperts } from './dynamic-k-experts.js';
import { predictNorms } from './predict-norms.js';
import { PackRouter, packRouter, RoutedExperts, routedExperts } from './routed-experts.js';
import { selectExperts } from './select-experts.js';
import { backends } from '../testing/backends.js';
import {
  ffnShapes,
  matrix,
  normals,
  randomExperts,
  withExperts,
} from '../testing/random-experts.js';
import type { PackedExperts, SelectionRule } from './types.js';

const rules: SelectionRule[] = [
  { rule: 'threshold', value: 0.4 },
  { rule: 'topK', value: 2 },
  { rule: 'cumulativeShare', value: 0.7 },
];
const width = 5;

describe.each(backends)('%s', (_, use) => {
  beforeAll(use);

  test('gives what router, selection and experts give one after the other, and leaks nothing', () => {
    fc.assert(
      fc.property(ffnShapes, fc.constantFrom(...rules), (shape, rule) => {
        const { rows, dIn, experts } = shape;
        const { x, ffn } = randomExperts(shape);
        const random = new Random(shape.seed).fork('router');
        const before = tf.memory().numTensors;
        withExperts(ffn, (packed) => {
          const hidden = matrix(normals(width * dIn, random), width, dIn);
          const output = matrix(normals(experts * width, random), experts, width);
          const rowsOfX = matrix(x, rows, dIn);
          const selection = selectExperts(predictNorms(rowsOfX, { hidden, output }), rule);
          const apart = dynamicKExperts(rowsOfX, selection, packed);
          const router = packRouter({ hidden, output }, packed);
          tf.dispose([hidden, output]);
          const together = routedExperts(rowsOfX, router, rule, packed);
          router.dispose();
          expect(together.shape).toEqual(apart.shape);
          expect([...together.dataSync()]).toEqual([...apart.dataSync()]);
        });
        expect(tf.memory().numTensors).toBe(before);
      }),
      { numRuns: 25 },
    );
  });
});

describe('on a backend that runs all of it in one kernel', () => {
  beforeAll(() => tf.setBackend('cpu'));
  afterEach(() => {
    for (const name of [PackRouter, RoutedExperts]) tf.unregisterKernel(name, 'cpu');
  });

  /** Experts as if they were packed in the cpu backend's own layout. */
  const experts = (dIn: number, backend = 'cpu'): PackedExperts => ({
    dIn,
    dOut: 3,
    experts: 4,
    expertSize: 2,
    activation: 'relu',
    storage: 'float16',
    backend,
    tensors: { packed0: tf.scalar(7) },
    dispose: () => undefined,
  });
  const weights = () => ({
    hidden: tf.ones<tf.Rank.R2>([5, 2]),
    output: tf.ones<tf.Rank.R2>([4, 5]),
  });

  test('the kernel gets the packed router and experts, the rule and the hint', () => {
    const seen: unknown[] = [];
    tf.registerKernel({
      kernelName: PackRouter,
      backendName: 'cpu',
      kernelFunc: ({ inputs, attrs }) => {
        seen.push(Object.keys(inputs), attrs);
        return [tf.scalar(1), tf.scalar(2)];
      },
    });
    tf.registerKernel({
      kernelName: RoutedExperts,
      backendName: 'cpu',
      kernelFunc: ({ inputs, attrs }) => {
        seen.push(Object.keys(inputs), attrs);
        return tf.zeros([6, 3]);
      },
    });
    const packed = experts(2);
    const router = packRouter(weights(), packed);
    const options = { expectedDensity: 0.3 };
    const rule: SelectionRule = { rule: 'threshold', value: 0.5 };
    expect(routedExperts(tf.zeros([6, 2]), router, rule, packed, options).shape).toEqual([6, 3]);
    expect(seen).toEqual([
      ['hidden', 'output'],
      { storage: 'float16' },
      ['x', 'router0', 'router1', 'packed0'],
      { activation: 'relu', expertSize: 2, dOut: 3, storage: 'float16', ...options, ...rule },
    ]);
    expect(() => routedExperts(tf.zeros([6, 5]), router, rule, packed)).toThrow(
      /rows of 2 numbers/,
    );
    expect(() => routedExperts(tf.zeros([6, 2]), router, rule, experts(2, 'wasm'))).toThrow(
      /packed for the wasm backend/,
    );
    expect(() =>
      routedExperts(tf.zeros([6, 2]), router, { rule: 'threshold', value: 2 }, packed),
    ).toThrow(/threshold/i);
  });
});
