import {
  dynamicKExperts,
  type FeedForwardWeights,
  packExperts,
  referenceSelectExperts,
  type SelectionRule,
  selectExperts,
} from '@d2dmoe/kernels';
import * as tf from '@tensorflow/tfjs-core';
import fc from 'fast-check';
import { beforeAll, expect, test } from 'vitest';
import { relativeError } from '../../kernels/testing/closeness.js';
import { matrix, packOf } from '../../kernels/testing/random-experts.js';
import { onAdapter, start } from '../testing/adapter.js';
import { bitsOf, drawn, greatestError, type Shape, shapes } from '../testing/experts.js';
import { forbidSubgroups, limitBindings } from './limits.js';
import { openBackend } from './open-backend.js';

onAdapter('the expert op on WebGPU', () => {
  beforeAll(start);

  test('gives the float64 reference’s result', async () => {
    await fc.assert(
      fc.asyncProperty(shapes, async (shape) => {
        expect(await greatestError(shape)).toBeLessThanOrEqual(1e-5);
      }),
      { numRuns: 6 },
    );
  }, 300_000);

  test('stores weights in float16 to 2e-3', async () => {
    await fc.assert(
      fc.asyncProperty(shapes, async (shape) => {
        const error = await greatestError(shape, { storage: 'float16', allRows: [0, 1, 197] });
        expect(error).toBeLessThanOrEqual(2e-3);
      }),
      { numRuns: 4 },
    );
  }, 300_000);

  test('selects as the float64 reference does', async () => {
    const rules: fc.Arbitrary<SelectionRule> = fc.oneof(
      fc.record({
        rule: fc.constant('threshold' as const),
        value: fc.constantFrom(0, 0.25, 0.5, 1),
      }),
      fc.record({ rule: fc.constant('topK' as const), value: fc.integer({ min: 1, max: 12 }) }),
      fc.record({
        rule: fc.constant('cumulativeShare' as const),
        value: fc.constantFrom(0, 0.25, 0.5, 1),
      }),
    );
    // Multiples of 1/8: sums and products are exact, and ties are many.
    const norms = fc.integer({ min: 1, max: 100 }).chain((experts) =>
      fc.record({
        experts: fc.constant(experts),
        values: fc
          .nat(12)
          .chain((rows) =>
            fc.array(fc.nat(6), { minLength: rows * experts, maxLength: rows * experts }),
          ),
      }),
    );
    await fc.assert(
      fc.asyncProperty(norms, rules, async ({ experts, values }, rule) => {
        const eighths = Float64Array.from(values, (value) => value / 8);
        const rows = values.length / experts;
        const input = matrix(eighths, rows, experts);
        const selection = selectExperts(input, rule);
        expect(selection.dtype).toBe('bool');
        expect(Array.from(await selection.data())).toEqual(
          Array.from(referenceSelectExperts(eighths, experts, rule)),
        );
        tf.dispose([input, selection]);
      }),
      { numRuns: 30 },
    );
  });

  test('takes any share of the pairs, whatever share is expected', async () => {
    const share = fc.constantFrom(0, 0.01, 0.5, 1);
    await fc.assert(
      fc.asyncProperty(shapes, share, share, async (shape, density, expectedDensity) => {
        const error = await greatestError({ ...shape, density }, { expectedDensity });
        expect(error).toBeLessThanOrEqual(1e-5);
      }),
      { numRuns: 3 },
    );
  }, 300_000);

  test.each([
    { expertSize: 512, dOut: 4 },
    { expertSize: 4, dOut: 512 },
  ])(
    'gives the same bits with fewer workgroups than tiles, and in windows: %o',
    async (widths) => {
      const { device } = openBackend(tf.backend());
      const rows = 1500;
      // 141 tiles of 32 rows: where next to nothing is expected, 128 workgroups for each of the 8 columns of tiles.
      const shape: Shape = {
        ...widths,
        dIn: 4,
        experts: 3,
        activation: 'relu',
        gated: false,
        biases: true,
        density: 1,
        seed: 5,
      };
      const { expected, run, dispose } = bitsOf(shape, rows);
      // A few windows, of which all but the first are not expected.
      limitBindings(device, 2 ** 21);
      const inWindows = await run(0.01).finally(() => limitBindings(device, undefined));
      // Before the run that is expected: that one leaves in the scratch buffers what this one might leave undone.
      const unexpected = await run(0.01);
      const all = await run(1);
      const values = new Float32Array(all.buffer, all.byteOffset, rows * shape.dOut);
      expect(relativeError(values, expected)).toBeLessThanOrEqual(1e-5);
      expect([unexpected.equals(all), inWindows.equals(all)]).toEqual([true, true]);
      dispose();
    },
    120_000,
  );

  test.each([false, true])(
    'takes wide tiles for thousands of rows, gated: %s',
    async (gated) => {
      const shape: Shape = {
        dIn: 4,
        dOut: 72,
        experts: 2,
        expertSize: 1024,
        activation: 'relu',
        gated,
        biases: true,
        density: 1,
        seed: 6,
      };
      expect(await greatestError(shape, { allRows: [1100] })).toBeLessThanOrEqual(1e-5);
    },
    120_000,
  );

  test('reads wide rows several vec4 at a time', async () => {
    const shape: Shape = {
      dIn: 768,
      dOut: 24,
      experts: 4,
      expertSize: 6,
      activation: 'relu',
      gated: true,
      biases: true,
      density: 0.5,
      seed: 7,
    };
    for (const storage of ['float32', 'float16'] as const) {
      const error = await greatestError(shape, { storage, allRows: [1, 2, 4, 8] });
      expect(error).toBeLessThanOrEqual(storage === 'float32' ? 1e-5 : 2e-3);
    }
  }, 120_000);

  test('cuts what a binding does not hold into windows, blocks of rows and parts of the experts', async () => {
    const { device } = openBackend(tf.backend());
    // 16 KiB: 8 experts a part (in float32), 64 rows a block, up to 6 windows each.
    limitBindings(device, 2 ** 14);
    const shape: Shape = {
      dIn: 24,
      dOut: 37,
      experts: 9,
      expertSize: 12,
      activation: 'silu',
      gated: true,
      biases: true,
      density: 0.6,
      seed: 1,
    };
    try {
      for (const storage of ['float32', 'float16'] as const) {
        const error = await greatestError(shape, { storage, allRows: [3, 100, 500] });
        expect(error).toBeLessThanOrEqual(storage === 'float32' ? 1e-5 : 2e-3);
      }
    } finally {
      limitBindings(device, undefined);
    }
  }, 120_000);

  test('finds the rows of an expert in any part of the experts', async () => {
    const { device } = openBackend(tf.backend());
    const shape: Shape = {
      dIn: 70,
      dOut: 12,
      experts: 9,
      expertSize: 12,
      activation: 'relu',
      gated: true,
      biases: true,
      density: 0.6,
      seed: 9,
    };
    // 8 experts a part and 64 rows a block, whose pairs a binding holds.
    limitBindings(device, 28_000);
    try {
      expect(await greatestError(shape, { allRows: [9, 40, 100] })).toBeLessThanOrEqual(1e-5);
    } finally {
      limitBindings(device, undefined);
    }
  }, 120_000);

  test('does without subgroups as well', async () => {
    const { device } = openBackend(tf.backend());
    const shape: Shape = {
      dIn: 40,
      dOut: 24,
      experts: 9,
      expertSize: 6,
      activation: 'gelu',
      gated: true,
      biases: true,
      density: 0.5,
      seed: 4,
    };
    for (const isForbidden of [true, false]) {
      forbidSubgroups(device, isForbidden);
      expect(await greatestError(shape, { allRows: [1, 5, 30, 2000] })).toBeLessThanOrEqual(1e-5);
    }
  }, 120_000);

  test('groups thousands of rows by several workgroups', async () => {
    const shape: Shape = {
      dIn: 8,
      dOut: 8,
      experts: 9,
      expertSize: 4,
      activation: 'relu',
      gated: false,
      biases: false,
      density: 0.7,
      seed: 2,
    };
    // Each call finds the lists' lengths as the one before has left them; two together have no room.
    const allRows = [2000, 1900, 2000];
    expect(await greatestError(shape, { allRows })).toBeLessThanOrEqual(1e-5);
  }, 120_000);

  test('groups by more experts than a workgroup has threads', async () => {
    const shape: Shape = {
      dIn: 8,
      dOut: 8,
      experts: 300,
      expertSize: 4,
      activation: 'relu',
      gated: false,
      biases: false,
      density: 0.05,
      seed: 7,
    };
    expect(await greatestError(shape, { allRows: [50, 90] })).toBeLessThanOrEqual(1e-5);
  }, 120_000);

  test('refuses storage that it has not, and experts that no binding holds', () => {
    const { device } = openBackend(tf.backend());
    const weights: FeedForwardWeights = {
      up: tf.ones([8, 64]),
      down: tf.ones([8, 64]),
      activation: 'relu',
    };
    expect(() => packExperts(weights, 4, { storage: 'int8' })).toThrow(
      expect.objectContaining({ code: 'STORAGE_UNSUPPORTED' }),
    );
    limitBindings(device, 1000);
    expect(() => packExperts(weights, 4)).toThrow(
      expect.objectContaining({ code: 'WEBGPU_TOO_SMALL' }),
    );
    limitBindings(device, undefined);
    tf.dispose([weights.up, weights.down]);
  });

  test('leaks no tensor and no buffer in 1,000 forward passes', async () => {
    const { ffn, x, selection } = drawn(
      {
        dIn: 8,
        dOut: 8,
        experts: 4,
        expertSize: 4,
        activation: 'relu',
        gated: false,
        biases: true,
        density: 0.5,
        seed: 3,
      },
      20,
    );
    const packed = packOf(ffn);
    const inputs = [1, 20].map((rows) => ({
      x: matrix(x.subarray(0, rows * 8), rows, 8),
      norms: matrix(Float64Array.from(selection.subarray(0, rows * 4)), rows, 4),
    }));
    const { bufferManager } = openBackend(tf.backend());
    const pass = () => {
      for (const { x: rows, norms } of inputs) {
        tf.tidy(() => {
          dynamicKExperts(rows, selectExperts(norms, { rule: 'threshold', value: 0.5 }), packed);
        });
      }
    };
    /** Waits for the device and counts what is in use, and all that was ever made. */
    const count = async () => {
      const probe = tf.add(inputs[0]?.x as tf.Tensor, 1);
      await probe.data();
      probe.dispose();
      return {
        tensors: tf.memory().numTensors,
        used: bufferManager.getNumUsedBuffers(),
        buffers: bufferManager.getNumUsedBuffers() + bufferManager.getNumFreeBuffers(),
        bytes: bufferManager.numBytesAllocated,
      };
    };
    for (let i = 0; i < 20; i++) pass();
    const before = await count();
    for (let i = 0; i < 500; i++) pass();
    expect(await count()).toEqual(before);
    packed.dispose();
    tf.dispose(inputs.flatMap(({ x: rows, norms }) => [rows, norms]));
  }, 120_000);
});
