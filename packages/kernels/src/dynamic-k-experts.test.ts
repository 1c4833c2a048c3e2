import * as tf from '@tensorflow/tfjs-core';
import * as fc from 'fast-check';
import { beforeAll, describe, expect, test } from 'vitest';
import { DynamicKExperts, dynamicKExperts } from './dynamic-k-experts.js';
import { feedForward } from './feed-forward.js';
import { PackExperts, packExperts } from './pack-experts.js';
import { referenceDynamicKExperts } from './reference.js';
import { selectExperts } from './select-experts.js';
import { backends } from '../testing/backends.js';
import { differences, greatestError, norm, relativeError } from '../testing/closeness.js';
import {
  booleans,
  ffnShapes,
  matrix,
  randomExperts,
  randomSelection,
  type FfnShape,
  weightsOf,
  withExperts,
} from '../testing/random-experts.js';
import {
  recordedActivations,
  recordedExperts,
  recordedTensors,
  recordedThresholds,
} from '../testing/recorded.js';
import type { PackedExperts } from './types.js';

let recorded: (name: string) => Float64Array;
beforeAll(async () => {
  recorded = await recordedTensors();
});

// Only the composed form has gradients: a kernel of the backend's own has none. Before that is registered:
describe.each(backends.slice(0, 2))('on %s the composed form', (_, use) => {
  beforeAll(use);

  test.each([
    ['plain', false],
    ['gated', true],
  ])('has the gradients of a %s FFN', (_, gated) => {
    const shape: FfnShape = {
      rows: 3,
      dIn: 4,
      dOut: 3,
      experts: 3,
      expertSize: 2,
      activation: 'gelu',
      gated,
      biases: true,
      seed: 5,
    };
    const { x, ffn } = randomExperts(shape);
    const selection = Uint8Array.from([1, 0, 1, 0, 1, 0, 1, 1, 1]);
    const squares = () =>
      referenceDynamicKExperts(x, selection, ffn).reduce((sum, y) => sum + y * y, 0);
    const names = ['up', 'upBias', 'down', 'downBias', ...(gated ? ['gate', 'gateBias'] : [])];
    const arrays = [x, ...names.map((name) => ffn[name as 'up'])];
    const expected = arrays.map((array) =>
      array.map((value, i) => {
        const step = 1e-5;
        array[i] = value + step;
        const above = squares();
        array[i] = value - step;
        const below = squares();
        array[i] = value;
        return (above - below) / (2 * step);
      }),
    );

    const before = tf.memory().numTensors;
    tf.tidy(() => {
      const weights = weightsOf(ffn);
      const tensors = names.map((name) => weights[name as 'up']);
      const packed: PackedExperts[] = [];
      const loss = tf.grads((x: tf.Tensor, ...tensors: tf.Tensor[]) => {
        const changed = Object.fromEntries(names.map((name, i) => [name, tensors[i]]));
        const experts = packExperts({ ...weights, ...changed }, shape.expertSize);
        packed.push(experts);
        const output = dynamicKExperts(x as tf.Tensor2D, booleans(selection, 3, 3), experts);
        return tf.sum(tf.square(output));
      });
      for (const [i, gradient] of loss([matrix(x, 3, 4), ...tensors]).entries()) {
        expect(relativeError(gradient.dataSync(), expected[i] as Float64Array)).toBeLessThan(1e-4);
      }
      for (const experts of packed) experts.dispose();
    });
    expect(tf.memory().numTensors).toBe(before);
  });

  test('a selection made from a differentiated input does not stop its gradient', () => {
    withExperts(recordedExperts(recorded, 'plain', 'relu'), (experts) => {
      const gradient = tf.grad((x) => {
        const norms = tf.abs(tf.slice(x as tf.Tensor2D, [0, 0], [7, 6]));
        const selection = selectExperts(norms, { rule: 'topK', value: 2 });
        return dynamicKExperts(x as tf.Tensor2D, selection, experts);
      })(matrix(recorded('op.x'), 7, 10));
      expect(tf.max(tf.abs(gradient)).dataSync()[0]).toBeGreaterThan(0);
    });
  });
});

describe.each(backends)('%s', (_, use) => {
  beforeAll(use);

  describe.each(['plain', 'gated'] as const)('%s FFN', (form) => {
    test.each(recordedActivations)('%s gives what PyTorch gave', (activation) => {
      withExperts(recordedExperts(recorded, form, activation), (experts) => {
        const x = matrix(recorded('op.x'), 7, 10);
        const norms = matrix(recorded('op.predicted_norms'), 7, 6);
        for (const tau of recordedThresholds) {
          const selection = selectExperts(norms, { rule: 'threshold', value: Number(tau) });
          const output = dynamicKExperts(x, selection, experts);
          const expected = recorded(`op.${form}.${activation}.tau_${tau}`);
          expect(relativeError(output.dataSync(), expected)).toBeLessThan(1e-5);
        }
      });
    });
  });

  /** Runs the op and the reference on the same experts and selection, and expects the same result. */
  function expectReference(shape: FfnShape, selection: Uint8Array): void {
    const { x, ffn } = randomExperts(shape);
    const expected = referenceDynamicKExperts(x, selection, ffn);
    const before = tf.memory().numTensors;
    withExperts(ffn, (experts) => {
      const inputs = [
        matrix(x, shape.rows, shape.dIn),
        booleans(selection, shape.rows, shape.experts),
        experts,
      ] as const;
      const own = tf.memory().numTensors;
      const output = dynamicKExperts(...inputs, { expectedDensity: 0.5 });
      expect(tf.memory().numTensors).toBe(own + 1);
      expect(output.shape).toEqual([shape.rows, shape.dOut]);
      // The FFN's numbers are of the order of 1. An output far below that is what cancellation left of them.
      const allowed = 1e-5 * norm(expected) + 1e-6 * Math.sqrt(expected.length);
      expect(norm(differences(output.dataSync(), expected))).toBeLessThanOrEqual(allowed);
    });
    expect(tf.memory().numTensors).toBe(before);
  }

  test('equals the reference for any selection', () => {
    expect.hasAssertions();
    fc.assert(
      fc.property(ffnShapes, (shape) => {
        expectReference(shape, randomSelection(shape.rows * shape.experts, shape.seed));
      }),
    );
  });

  test('equals the reference with one expert, all, or none but the forced first', () => {
    expect.hasAssertions();
    fc.assert(
      fc.property(ffnShapes, (shape) => {
        const pairs = shape.rows * shape.experts;
        expectReference(shape, new Uint8Array(pairs).fill(1));
        const first = new Uint8Array(pairs).map((_, i) => Number(i % shape.experts === 0));
        expectReference(shape, first);
        expectReference({ ...shape, experts: 1 }, new Uint8Array(shape.rows).fill(1));
      }),
      { numRuns: 30 },
    );
  });

  test('the sum of all experts is the dense FFN', () => {
    fc.assert(
      fc.property(ffnShapes, (shape) => {
        const { x: rows, ffn } = randomExperts(shape);
        withExperts(ffn, (experts, weights) => {
          const x = matrix(rows, shape.rows, shape.dIn);
          const norms: tf.Tensor2D = tf.zeros([shape.rows, shape.experts]);
          const all = selectExperts(norms, { rule: 'threshold', value: 0 });
          const output = dynamicKExperts(x, all, experts).dataSync();
          const dense = feedForward(x, weights).dataSync();
          // Both round in float32, in proportion to the largest output.
          const largest = Math.max(1, ...dense.map(Math.abs));
          expect(greatestError(output, dense)).toBeLessThan(2e-6 * largest);
        });
      }),
    );
  });

  test('refuses rows or a selection that do not fit the experts', () => {
    withExperts(recordedExperts(recorded, 'plain', 'relu'), (experts) => {
      const mismatch = expect.objectContaining({ code: 'SHAPE_MISMATCH' });
      const run = (x: [number, number], selection: [number, number]) => () =>
        dynamicKExperts(tf.zeros(x), tf.zeros(selection, 'bool'), experts);
      expect(run([2, 9], [2, 6])).toThrow(mismatch);
      expect(run([2, 10], [3, 6])).toThrow(mismatch);
      expect(run([2, 10], [2, 5])).toThrow(mismatch);
    });
  });
});

test('a backend without a layout of its own gets the neuron-major weights', async () => {
  await tf.setBackend('cpu');
  const calls: unknown[] = [];
  tf.registerKernel({
    kernelName: DynamicKExperts,
    backendName: 'cpu',
    kernelFunc: ({ inputs, attrs }) => {
      calls.push({ inputs: Object.keys(inputs).sort(), attrs });
      return tf.tensor2d([7, 8], [1, 2]);
    },
  });
  try {
    tf.tidy(() => {
      const up: tf.Tensor2D = tf.zeros([6, 3]);
      const down: tf.Tensor2D = tf.zeros([6, 2]);
      const plain = packExperts({ up, down, activation: 'relu' }, 2);
      const x: tf.Tensor2D = tf.zeros([1, 3]);
      const selection: tf.Tensor2D = tf.ones([1, 3], 'bool');
      expect([...dynamicKExperts(x, selection, plain).dataSync()]).toEqual([7, 8]);
      const downBias: tf.Tensor1D = tf.zeros([2]);
      const gated = packExperts({ up, down, gate: up, downBias, activation: 'silu' }, 3);
      dynamicKExperts(x, tf.ones([1, 2], 'bool'), gated, { expectedDensity: 0.25 });
      plain.dispose();
      gated.dispose();
    });
    const common = { dOut: 2, storage: 'float32' };
    expect(calls).toEqual([
      {
        inputs: ['down', 'selection', 'up', 'x'],
        attrs: { activation: 'relu', expertSize: 2, ...common },
      },
      {
        inputs: ['down', 'downBias', 'gate', 'selection', 'up', 'x'],
        attrs: { activation: 'silu', expertSize: 3, expectedDensity: 0.25, ...common },
      },
    ]);
  } finally {
    tf.unregisterKernel(DynamicKExperts, 'cpu');
  }
});

test('a backend with a layout of its own gets what it packed, and no other does', async () => {
  await tf.setBackend('cpu');
  const received: tf.NamedTensorInfoMap[] = [];
  tf.registerKernel({
    kernelName: PackExperts,
    backendName: 'cpu',
    kernelFunc: ({ inputs, attrs }) => {
      expect(Object.keys(inputs)).toEqual(['up', 'down']);
      expect(attrs).toEqual({ expertSize: 2, storage: 'int8' });
      return [tf.tensor1d([5]), tf.tensor1d([6])];
    },
  });
  tf.registerKernel({
    kernelName: DynamicKExperts,
    backendName: 'cpu',
    kernelFunc: ({ inputs }) => {
      received.push(inputs);
      return tf.tensor2d([7, 8], [1, 2]);
    },
  });
  try {
    tf.tidy(() => {
      const weights = { up: tf.zeros<tf.Rank.R2>([6, 3]), down: tf.zeros<tf.Rank.R2>([6, 2]) };
      const experts = packExperts({ ...weights, activation: 'relu' }, 2, { storage: 'int8' });
      const run = () => dynamicKExperts(tf.zeros([1, 3]), tf.ones([1, 3], 'bool'), experts);
      run();
      expect(Object.keys(received[0] as object)).toEqual(['x', 'selection', 'packed0', 'packed1']);
      expect(() =>
        dynamicKExperts(tf.zeros([1, 3]), tf.ones([1, 3], 'bool'), {
          ...experts,
          backend: 'webgl',
        }),
      ).toThrow(expect.objectContaining({ code: 'BACKEND_MISMATCH' }));
      experts.dispose();
    });
  } finally {
    tf.unregisterKernel(PackExperts, 'cpu');
    tf.unregisterKernel(DynamicKExperts, 'cpu');
  }
});
