import { Random } from '@d2dmoe/core';
import {
  packExperts,
  referenceDynamicKExperts,
  type Activation,
  type ExpertStorage,
  type ReferenceExperts,
} from '@d2dmoe/kernels';
import * as tf from '@tensorflow/tfjs-core';
import fc from 'fast-check';
import { afterEach, expect, test } from 'vitest';
import { emulated } from '../../testing/emulated.js';
import { relativeError } from '../../testing/relative-error.js';
import { dozensFits, dozensRows } from './dozens.js';
import { planDozens } from './dozens-plan.js';
import { callOf, type PackedInputs } from './dynamic-k-experts.js';

interface Shape {
  rows: number;
  dIn: number;
  dOut: number;
  experts: number;
  expertSize: number;
  activation: Activation;
  gated: boolean;
  biases: boolean;
  density: number;
  seed: number;
}

const shapes: fc.Arbitrary<Shape> = fc.record({
  rows: fc.constantFrom(4, 9, 16, 17, 31, 40, 64, 67),
  dIn: fc.integer({ min: 1, max: 300 }),
  dOut: fc.integer({ min: 1, max: 200 }),
  experts: fc.integer({ min: 1, max: 40 }),
  expertSize: fc.constantFrom(4, 6, 7, 16, 32),
  activation: fc.constantFrom('relu', 'gelu', 'gelu_tanh', 'silu'),
  gated: fc.boolean(),
  biases: fc.boolean(),
  density: fc.constantFrom(0.01, 0.1, 0.5),
  seed: fc.nat(),
});

const fixed: Shape = {
  rows: 16,
  dIn: 96,
  dOut: 80,
  experts: 40,
  expertSize: 6,
  activation: 'gelu',
  gated: true,
  biases: true,
  density: 0.2,
  seed: 5,
};

emulated('the expert op for some dozen rows', (cuda) => {
  /** What the path gives, twice, and what float64 does. */
  function results(shape: Shape, storage: ExpertStorage, expectedDensity?: number) {
    const { rows, dIn, dOut, experts, expertSize, activation, gated, biases } = shape;
    const random = new Random(shape.seed);
    const hidden = experts * expertSize;
    const normals = (count: number, deviation: number) =>
      Float64Array.from({ length: count }, () => Math.fround(random.normal() * deviation));
    const ffn: ReferenceExperts = {
      dIn,
      dOut,
      experts,
      expertSize,
      activation,
      up: normals(hidden * dIn, 1 / Math.sqrt(dIn)),
      down: normals(hidden * dOut, 1 / Math.sqrt(hidden)),
      ...(gated && { gate: normals(hidden * dIn, 1 / Math.sqrt(dIn)) }),
      ...(biases && { upBias: normals(hidden, 1), downBias: normals(dOut, 1) }),
      ...(biases && gated && { gateBias: normals(hidden, 1) }),
    };
    const x = normals(rows * dIn, 1);
    const selection = Uint8Array.from({ length: rows * experts }, () =>
      random.uniform() < shape.density ? 1 : 0,
    );
    const matrix = (values: Float64Array, columns: number) =>
      tf.tensor2d(Float32Array.from(values), [values.length / columns, columns]);
    const vector = (values: Float64Array) => tf.tensor1d(Float32Array.from(values));
    const runs: ArrayLike<number>[] = [];
    tf.tidy(() => {
      const packed = packExperts(
        {
          up: matrix(ffn.up, dIn),
          down: matrix(ffn.down, dOut),
          activation,
          ...(ffn.gate && { gate: matrix(ffn.gate, dIn) }),
          ...(ffn.upBias && { upBias: vector(ffn.upBias) }),
          ...(ffn.gateBias && { gateBias: vector(ffn.gateBias) }),
          ...(ffn.downBias && { downBias: vector(ffn.downBias) }),
        },
        expertSize,
        { storage },
      );
      const backend = cuda();
      const call = callOf(
        backend,
        packed.tensors as unknown as PackedInputs,
        {
          activation,
          expertSize,
          dOut,
          storage,
          ...density(expectedDensity),
        },
        { x: matrix(x, dIn), selection: tf.tensor2d(selection, [rows, experts], 'bool'), experts },
      );
      expect(dozensFits(backend, call)).toBe(true);
      const run = () => {
        const out = tf.engine().makeTensorFromTensorInfo(dozensRows(backend, call));
        return out.dataSync().slice();
      };
      runs.push(run(), run());
      packed.dispose();
    });
    return {
      actual: runs[0] ?? [],
      again: runs[1],
      expected: referenceDynamicKExperts(x, selection, ffn),
    };
  }
  const density = (expectedDensity: number | undefined) =>
    expectedDensity === undefined ? {} : { expectedDensity };

  afterEach(() => {
    cuda().precision = 'float32';
  });

  test.each([
    ['float32', 'float32', 1e-5],
    ['float32', 'tf32', 1e-3],
    ['float16', 'float32', 1e-3],
    ['bfloat16', 'float32', 1.5e-2],
    ['int8', 'float32', 3e-2],
  ] as const)('in %s, products in %s, gives what float64 does', (storage, precision, bar) => {
    cuda().precision = precision;
    fc.assert(
      fc.property(shapes, (shape) => {
        const { actual, again, expected } = results(shape, storage);
        expect(again).toEqual(actual);
        expect(relativeError(actual, expected)).toBeLessThanOrEqual(bar);
      }),
      { numRuns: 8 },
    );
  });

  test('in bf16 end to end', () => {
    cuda().precision = 'bf16';
    for (const rows of [5, 20, 50]) {
      const { actual, expected } = results({ ...fixed, rows }, 'bfloat16');
      expect(relativeError(actual, expected)).toBeLessThanOrEqual(1e-2);
    }
  });

  test.each([0.01, 0.05, 0])('leaves out what no row selects, at a share of %d', (share) => {
    // Large enough that reading less is worth the wait.
    const shape = { ...fixed, dIn: 1500, dOut: 1400, experts: 240, rows: 4, density: share };
    const card = { multiprocessors: 132, hasClusters: true };
    const hidden = shape.experts * shape.expertSize;
    const outline = { ...shape, hidden, storage: 'float16', isGated: true } as const;
    expect(planDozens({ ...outline, density: share }, card).skip).toBe(true);
    const { actual, expected } = results(shape, 'float16', share);
    expect(relativeError(actual, expected)).toBeLessThanOrEqual(1e-3);
  });
});

test('a plan deals columns and neurons out to the whole card', () => {
  const card = { multiprocessors: 132, hasClusters: true };
  const base = { rows: 16, storage: 'float16', isGated: false, density: 0.2 } as const;
  const small = planDozens({ ...base, dIn: 768, dOut: 768, hidden: 3072, experts: 768 }, card);
  expect(small).toMatchObject({ skip: false, tileRows: 16, rowGroups: 1 });
  expect([small.up.clusters, small.down.clusters * small.down.ranks]).toEqual([132, 96]);
  // All of a block's weights at once.
  expect([small.up.slots, small.down.slots]).toEqual([1, 1]);
  const wide = planDozens(
    { ...base, rows: 64, isGated: true, dIn: 2048, dOut: 2048, hidden: 16_384, experts: 128 },
    card,
  );
  expect(wide).toMatchObject({ tileRows: 32, rowGroups: 2 });
  // x is cut up among the blocks of a cluster.
  expect(wide.up.ranks).toBeGreaterThan(1);
  for (const { sharedBytes } of [small.up, small.down, wide.up, wide.down]) {
    expect(sharedBytes).toBeLessThanOrEqual(232_448);
  }
});
