import type { ExpertStorage } from '@d2dmoe/kernels';
import fc from 'fast-check';
import { afterEach, expect, test } from 'vitest';
import { relativeError } from '../../../kernels/testing/closeness.js';
import { ffnKinds, type LayerShape, randomLayer } from '../../../kernels/testing/random-experts.js';
import { emulated } from '../../testing/emulated.js';
import { runTwice, withCall } from '../../testing/experts.js';
import { streamFits, streamPays, streamRows } from './stream.js';

const shapes: fc.Arbitrary<LayerShape> = fc.record({
  rows: fc.constantFrom(1, 4, 9, 16, 17, 20),
  // Less than a slot's width, several, a part of one.
  dIn: fc.constantFrom(64, 192, 512, 576, 1088),
  dOut: fc.constantFrom(64, 192, 512),
  experts: fc.integer({ min: 1, max: 24 }),
  expertSize: fc.constantFrom(4, 6, 7, 16, 32),
  density: fc.constantFrom(0.05, 0.3, 1),
  ...ffnKinds,
});

emulated('the expert op for few rows of many weights', (cuda) => {
  const results = (shape: LayerShape, storage: ExpertStorage) =>
    runTwice(cuda(), shape, { storage }, (call) => {
      expect(streamFits(cuda(), call)).toBe(true);
      return streamRows(cuda(), call);
    });

  afterEach(() => {
    cuda().precision = 'float32';
  });

  test.each([
    ['float16', 2e-3],
    ['bfloat16', 6 * 2 ** -9],
  ] as const)('in %s gives what float64 does', (storage, bar) => {
    fc.assert(
      fc.property(shapes, (shape) => {
        const { actual, again, error } = results(shape, storage);
        expect(again).toEqual(actual);
        expect(error).toBeLessThanOrEqual(bar);
      }),
      { numRuns: 12 },
    );
  });

  test.each([
    ['bf16', 'bfloat16', 1e-2],
    ['fp16', 'float16', 2e-3],
  ] as const)('in %s end to end', (precision, storage, bar) => {
    cuda().precision = precision;
    const shape = { rows: 11, dIn: 64, dOut: 64, experts: 10, expertSize: 6 } as const;
    const kinds = { activation: 'gelu', biases: true, density: 0.4, seed: 3 } as const;
    for (const gated of [true, false]) {
      const { actual, expected } = results({ ...shape, ...kinds, gated }, storage);
      expect(relativeError(actual, expected)).toBeLessThanOrEqual(bar);
    }
  });

  test('takes widths that its slots and instructions can be cut to', () => {
    const shape = { rows: 4, dIn: 64, dOut: 64, experts: 3, expertSize: 8 } as const;
    const kinds = { activation: 'relu', gated: true, biases: true, density: 0.5, seed: 1 } as const;
    const layer = randomLayer({ ...shape, ...kinds });
    withCall(cuda(), layer, { storage: 'float16' }, (call) => {
      expect(streamFits(cuda(), call)).toBe(true);
      expect(streamFits(cuda(), { ...call, dIn: 72 })).toBe(false);
      expect(streamFits(cuda(), { ...call, dOut: 1024 })).toBe(false);
      expect(streamFits(cuda(), { ...call, storage: 'int8' })).toBe(false);
      // Little to read; much of it; much that no row runs.
      expect(streamPays(call)).toBe(false);
      const wide = { ...call, rows: 16, dIn: 2048, dOut: 2048, hidden: 16_384, experts: 128 };
      expect(streamPays({ ...wide, density: 0.2 })).toBe(true);
      expect(streamPays({ ...wide, density: 0.05 })).toBe(false);
      expect(streamPays({ ...wide, rows: 17, density: 0.2 })).toBe(false);
    });
  });
});
