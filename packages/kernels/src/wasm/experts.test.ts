import '@tensorflow/tfjs-backend-cpu';
import * as tf from '@tensorflow/tfjs-core';
import fc from 'fast-check';
import { readFile } from 'node:fs/promises';
import { beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { dynamicKExperts } from '../dynamic-k-experts.js';
import { useWasm } from '../node.js';
import { packExperts } from '../pack-experts.js';
import { type ReferenceExperts, referenceDynamicKExperts } from '../reference.js';
import { selectExperts } from '../select-experts.js';
import { differences, norm, relativeError } from '../../testing/closeness.js';
import {
  booleans,
  type FfnShape,
  ffnShapes,
  matrix,
  packOf,
  randomExperts,
  randomSelection,
  weightsOf,
} from '../../testing/random-experts.js';
import type { ExpertStorage } from '../types.js';
import { registerWasmKernels } from './register.js';

const builds: [name: string, use: () => Promise<unknown>][] = [
  [
    'SIMD',
    async () => {
      await useWasm();
      const file = new URL('../../dist/wasm/kernels.wasm', import.meta.url);
      await registerWasmKernels(await readFile(file), { threads: 1 });
    },
  ],
  ['relaxed SIMD', () => useWasm({ threads: 1 })],
  ['relaxed SIMD in two threads', () => useWasm({ threads: 2 })],
];

const shapes = fc
  .tuple(ffnShapes, fc.constantFrom(1, 3, 4, 6, 8, 32, 128), fc.integer({ min: 0, max: 240 }))
  .map(
    ([shape, expertSize, rows]): FfnShape => ({
      ...shape,
      expertSize,
      rows: rows % 7 ? shape.rows : rows,
    }),
  );

/** Runs the op on weights that are gone by then, in memory full of NaN, and sees that nothing is left behind. */
function run(
  x: Float64Array,
  selection: Uint8Array,
  ffn: ReferenceExperts,
  storage: ExpertStorage = 'float32',
): Float32Array {
  const before = tf.memory().numTensors;
  const rows = x.length / ffn.dIn;
  const weights = weightsOf(ffn);
  const experts = packExperts(weights, ffn.expertSize, { storage });
  for (const tensor of Object.values(weights)) {
    if (tensor instanceof tf.Tensor) tensor.dispose();
  }
  poison();
  const output = tf.tidy(() => {
    const inputs = [matrix(x, rows, ffn.dIn), booleans(selection, rows, ffn.experts)] as const;
    return dynamicKExperts(...inputs, experts).dataSync() as Float32Array;
  });
  experts.dispose();
  expect(tf.memory().numTensors).toBe(before);
  return output;
}

/** Fills freed memory with NaN: blocks of every size that the tests use. */
function poison(): void {
  tf.tidy(() => {
    for (const size of [3, 10, 40, 200, 1000, 5000, 30_000]) {
      for (let i = 0; i < 6; i++) tf.tensor1d(new Float32Array(size).fill(Number.NaN));
    }
  });
}

describe.each(builds)('%s', (_, use) => {
  beforeAll(use);
  beforeEach(poison);

  function expectReference(shape: FfnShape, selection: Uint8Array): void {
    const { x, ffn } = randomExperts(shape);
    const expected = referenceDynamicKExperts(x, selection, ffn);
    // The FFN's numbers are of the order of 1. An output far below that is what cancellation left of them.
    const allowed = 1e-5 * norm(expected) + 1e-7 * Math.sqrt(expected.length);
    expect(norm(differences(run(x, selection, ffn), expected))).toBeLessThanOrEqual(allowed);
  }

  test('equals the float64 reference for any shape and selection', () => {
    expect.hasAssertions();
    fc.assert(
      fc.property(shapes, (shape) => {
        expectReference(shape, randomSelection(shape.rows * shape.experts, shape.seed));
      }),
      { numRuns: 150 },
    );
  });

  test('equals it with one expert, all experts, none but the first, and none at all', () => {
    expect.hasAssertions();
    fc.assert(
      fc.property(shapes, (shape) => {
        const pairs = shape.rows * shape.experts;
        expectReference({ ...shape, experts: 1 }, new Uint8Array(shape.rows).fill(1));
        expectReference(shape, new Uint8Array(pairs).fill(1));
        const first = new Uint8Array(pairs).map((_, i) => Number(i % shape.experts === 0));
        expectReference(shape, first);
        expectReference(shape, new Uint8Array(pairs));
      }),
      { numRuns: 40 },
    );
  });

  test('every activation is right far out on both sides, where its tail underflows too', () => {
    const values = Float64Array.from({ length: 801 }, (_, i) => Math.fround((i - 400) / 4));
    for (const activation of ['relu', 'gelu', 'gelu_tanh', 'silu'] as const) {
      const ffn: ReferenceExperts = {
        dIn: 1,
        dOut: 1,
        experts: 1,
        expertSize: 1,
        activation,
        up: Float64Array.of(1),
        down: Float64Array.of(1),
      };
      const selection = new Uint8Array(values.length).fill(1);
      const actual = run(values, selection, ffn);
      // The reference's 1 + tanh has no digits left in the tail.
      const expected =
        activation === 'gelu_tanh'
          ? values.map(
              (x) => x / (1 + Math.exp(-2 * Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3))),
            )
          : referenceDynamicKExperts(values, selection, ffn);
      for (const [i, value] of expected.entries()) {
        expect(Math.abs((actual[i] as number) - value)).toBeLessThanOrEqual(
          3e-5 * Math.abs(value) + 1e-35,
        );
      }
    }
  });

  test('more rows than are gathered at a time, deeper than one step of the product', () => {
    expect.hasAssertions();
    const shape: FfnShape = {
      rows: 205,
      dIn: 530,
      dOut: 27,
      experts: 2,
      expertSize: 40,
      activation: 'gelu',
      gated: true,
      biases: true,
      seed: 7,
    };
    expectReference(shape, randomSelection(410, 3));
    expectReference(shape, new Uint8Array(410).fill(1));
  });

  test('int8 equals the reference on its rounded weights', () => {
    fc.assert(
      fc.property(shapes, (shape) => {
        const { x, ffn } = randomExperts(shape);
        const selection = randomSelection(shape.rows * shape.experts, shape.seed);
        const expected = referenceDynamicKExperts(x, selection, rounded(ffn));
        const actual = run(x, selection, ffn, 'int8');
        const allowed = 1e-5 * norm(expected) + 3e-7 * Math.sqrt(expected.length);
        expect(norm(differences(actual, expected))).toBeLessThanOrEqual(allowed);
      }),
      { numRuns: 100 },
    );
  });

  test('int8 is within 1.5 % of float32 for normal weights', () => {
    for (const gated of [false, true]) {
      const shape: FfnShape = {
        rows: 24,
        dIn: 96,
        dOut: 96,
        experts: 12,
        expertSize: 32,
        activation: 'relu',
        gated,
        biases: true,
        seed: 1,
      };
      const { x, ffn } = randomExperts(shape);
      const selection = randomSelection(24 * 12, 2);
      const expected = referenceDynamicKExperts(x, selection, ffn);
      const error = relativeError(run(x, selection, ffn, 'int8'), expected);
      expect(error).toBeLessThan(0.015);
      expect(error).toBeGreaterThan(1e-4);
    }
  });

  test('an int8 matrix takes a quarter of the bytes', () => {
    const weights = tf.tidy(() => ({
      up: tf.keep(tf.ones<tf.Rank.R2>([64, 48])),
      down: tf.keep(tf.ones<tf.Rank.R2>([64, 40])),
      activation: 'relu' as const,
    }));
    const bytes = (storage: ExpertStorage) => {
      const before = tf.memory().numBytes;
      const experts = packExperts(weights, 8, { storage });
      const taken = tf.memory().numBytes - before;
      experts.dispose();
      return taken;
    };
    const vectors = 4 * (5 * 64 + 40 + 8);
    expect(bytes('float32')).toBe(4 * 64 * 88 + vectors);
    expect(bytes('int8')).toBe(64 * 88 + vectors);
    tf.dispose([weights.up, weights.down]);
  });

  test('a selection comes from the kernel and goes into it', () => {
    const { x, ffn } = randomExperts({
      rows: 9,
      dIn: 5,
      dOut: 6,
      experts: 4,
      expertSize: 3,
      activation: 'silu',
      gated: false,
      biases: true,
      seed: 4,
    });
    const experts = packOf(ffn);
    tf.tidy(() => {
      const norms = tf.abs<tf.Tensor2D>(tf.slice(matrix(x, 9, 5), [0, 0], [9, 4]));
      const selection = selectExperts(norms, { rule: 'topK', value: 2 });
      const chosen = Uint8Array.from(selection.dataSync());
      expect(chosen.reduce((sum, one) => sum + one, 0)).toBe(18);
      const output = dynamicKExperts(matrix(x, 9, 5), selection, experts).dataSync();
      expect(relativeError(output, referenceDynamicKExperts(x, chosen, ffn))).toBeLessThan(1e-5);
    });
    experts.dispose();
  });
});

test.each(['float32', 'int8'] as const)(
  'in %s the bits do not depend on the number of threads, of many rows and of one',
  async (storage) => {
    for (const rows of [203, 1]) {
      const shape = { rows, dIn: 260, dOut: 250, experts: 66, expertSize: 32, seed: 11 };
      const { x, ffn } = randomExperts({ ...shape, activation: 'silu', gated: true, biases: true });
      const selection = randomSelection(rows * shape.experts, 5);
      await useWasm({ threads: 1 });
      const one = run(x, selection, ffn, storage);
      await useWasm({ threads: 3 });
      const three = run(x, selection, ffn, storage);
      expect(three).toEqual(one);
    }
  },
);

/** The FFN with every neuron's row of each matrix rounded to 255 steps, computed as the packing does, in float32. */
function rounded(ffn: ReferenceExperts): ReferenceExperts {
  const round = (matrix: Float64Array, width: number) => {
    const out = new Float64Array(matrix.length);
    for (let start = 0; start < matrix.length; start += width) {
      const row = matrix.subarray(start, start + width);
      const scale = Math.fround(Math.max(...row.map(Math.abs)) / 127);
      for (const [i, value] of row.entries()) {
        out[start + i] = scale === 0 ? 0 : roundHalfEven(Math.fround(value / scale)) * scale;
      }
    }
    return out;
  };
  return {
    ...ffn,
    up: round(ffn.up, ffn.dIn),
    down: round(ffn.down, ffn.dOut),
    ...(ffn.gate && { gate: round(ffn.gate, ffn.dIn) }),
  };
}

function roundHalfEven(value: number): number {
  const floor = Math.floor(value);
  if (value - floor !== 0.5) return Math.round(value);
  return floor % 2 === 0 ? floor : floor + 1;
}
