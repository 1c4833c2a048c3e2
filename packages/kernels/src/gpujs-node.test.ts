import * as tf from '@tensorflow/tfjs-core';
import * as fc from 'fast-check';
import { beforeAll, describe, expect, test } from 'vitest';
import { dynamicKExperts } from './dynamic-k-experts.js';
import { GpuJsCaller } from './gpujs/caller.js';
import type { Request } from './gpujs/protocol.js';
import { useGpuJs } from './gpujs-node.js';
import { packExperts } from './pack-experts.js';
import { referenceDynamicKExperts } from './reference.js';
import { selectExperts } from './select-experts.js';
import { differences, norm, relativeError } from '../testing/closeness.js';
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

/** The sizes that experts are made in, and every number of rows up to two blocks and over. */
const shapes = fc
  .tuple(ffnShapes, fc.constantFrom(1, 4, 6, 32, 128), fc.constantFrom(0, 1, 2, 31, 32, 33, 70))
  .map(([shape, expertSize, rows]): FfnShape => ({ ...shape, expertSize, rows }));

const wide: FfnShape = {
  rows: 197,
  dIn: 48,
  dOut: 40,
  experts: 5,
  expertSize: 32,
  activation: 'gelu',
  gated: true,
  biases: true,
  seed: 3,
};

let recorded: (name: string) => Float64Array;
beforeAll(async () => {
  recorded = await recordedTensors();
});

function expectReference(shape: FfnShape, selection: Uint8Array): void {
  const { x, ffn } = randomExperts(shape);
  const expected = referenceDynamicKExperts(x, selection, ffn);
  const before = tf.memory().numTensors;
  withExperts(ffn, (experts) => {
    const rows = matrix(x, shape.rows, shape.dIn);
    const selected = booleans(selection, shape.rows, shape.experts);
    const own = tf.memory().numTensors;
    const output = dynamicKExperts(rows, selected, experts);
    expect(tf.memory().numTensors).toBe(own + 1);
    expect(output.shape).toEqual([shape.rows, shape.dOut]);
    // The FFN's numbers are of the order of 1. An output far below that is what cancellation left of them.
    const allowed = 1e-5 * norm(expected) + 1e-6 * Math.sqrt(expected.length);
    expect(norm(differences(output.dataSync(), expected))).toBeLessThanOrEqual(allowed);
  });
  expect(tf.memory().numTensors).toBe(before);
}

describe.each(['async', 'webasm', 'cpu'] as const)('gpu.js, mode %s', (mode) => {
  let executor: () => string | undefined;
  beforeAll(async () => {
    ({ executor } = await useGpuJs({ mode }));
  });

  test('equals the float64 reference for any shape and selection', () => {
    expect.hasAssertions();
    fc.assert(
      fc.property(shapes, (shape) => {
        expectReference(shape, randomSelection(shape.rows * shape.experts, shape.seed));
      }),
      { numRuns: 25 },
    );
  });

  test('of 197 rows, with about half of the experts, all and none', () => {
    expect.hasAssertions();
    const pairs = wide.rows * wide.experts;
    expectReference(wide, randomSelection(pairs, 1));
    expectReference(wide, new Uint8Array(pairs).fill(1));
    expectReference({ ...wide, gated: false }, new Uint8Array(pairs));
  });

  test.each(recordedActivations)('%s gives what PyTorch gave', (activation) => {
    withExperts(recordedExperts(recorded, 'plain', activation), (experts) => {
      const x = matrix(recorded('op.x'), 7, 10);
      const norms = matrix(recorded('op.predicted_norms'), 7, 6);
      for (const tau of recordedThresholds) {
        const selection = selectExperts(norms, { rule: 'threshold', value: Number(tau) });
        const output = dynamicKExperts(x, selection, experts).dataSync();
        const expected = recorded(`op.plain.${activation}.tau_${tau}`);
        expect(relativeError(output, expected)).toBeLessThan(1e-5);
      }
    });
  });

  test('it was gpu.js that ran, in that mode', () => {
    expect(executor()).toMatch(mode === 'cpu' ? /^cpu, / : /^webasm, fused/);
  });
});

describe('what gpu.js cannot do', () => {
  const { ffn } = randomExperts(wide);
  let old: PackedExperts;
  beforeAll(async () => {
    await useGpuJs();
    old = packExperts(weightsOf(ffn), wide.expertSize);
    await useGpuJs();
  });

  test('it has float32 only', () => {
    const pack = () => packExperts(weightsOf(ffn), wide.expertSize, { storage: 'int8' });
    expect(pack).toThrow(expect.objectContaining({ code: 'STORAGE_UNSUPPORTED' }));
  });

  test('what goes wrong in it is said by the call', async () => {
    const caller = await GpuJsCaller.start('cpu');
    const nothing = new Float32Array(1);
    const rows = { activation: 'relu', rows: 1, x: nothing, selection: nothing, output: nothing };
    const run = () => caller.call({ type: 'run', id: 7, ...rows } as Request);
    expect(run).toThrow(expect.objectContaining({ code: 'GPUJS_FAILED' }));
    await caller.dispose();
  });

  test('experts packed before it was started anew are refused', () => {
    const x: tf.Tensor2D = tf.zeros([2, wide.dIn]);
    const selection: tf.Tensor2D = tf.ones([2, wide.experts], 'bool');
    const run = () => dynamicKExperts(x, selection, old);
    expect(run).toThrow(expect.objectContaining({ code: 'BACKEND_MISMATCH' }));
  });
});
