import type { ExpertStorage } from '@d2dmoe/kernels';
import fc from 'fast-check';
import { afterEach, expect, test } from 'vitest';
import { relativeError } from '../../../kernels/testing/closeness.js';
import { ffnKinds, type LayerShape } from '../../../kernels/testing/random-experts.js';
import { emulated } from '../../testing/emulated.js';
import { runTwice } from '../../testing/experts.js';
import { dozensFits, dozensRows } from './dozens.js';
import { planDozens } from './dozens-plan.js';

const shapes: fc.Arbitrary<LayerShape> = fc.record({
  rows: fc.constantFrom(4, 9, 16, 17, 31, 40, 64, 67),
  dIn: fc.integer({ min: 1, max: 300 }),
  dOut: fc.integer({ min: 1, max: 200 }),
  experts: fc.integer({ min: 1, max: 40 }),
  expertSize: fc.constantFrom(4, 6, 7, 16, 32),
  density: fc.constantFrom(0.01, 0.1, 0.5),
  ...ffnKinds,
});

const fixed: LayerShape = {
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
  const results = (shape: LayerShape, storage: ExpertStorage, expectedDensity?: number) =>
    runTwice(cuda(), shape, { storage, expectedDensity }, (call) => {
      expect(dozensFits(cuda(), call)).toBe(true);
      return dozensRows(cuda(), call);
    });

  afterEach(() => {
    cuda().precision = 'float32';
  });

  test.each([
    ['float32', 'float32', 1e-5],
    ['float32', 'tf32', 1e-3],
    ['float16', 'float32', 2e-3],
    ['bfloat16', 'float32', 6 * 2 ** -9],
    ['int8', 'float32', 3e-2],
  ] as const)('in %s, products in %s, gives what float64 does', (storage, precision, bar) => {
    cuda().precision = precision;
    fc.assert(
      fc.property(shapes, (shape) => {
        const { actual, again, error } = results(shape, storage);
        expect(again).toEqual(actual);
        expect(error).toBeLessThanOrEqual(bar);
      }),
      { numRuns: 8 },
    );
  });

  test.each([
    ['bf16', 'bfloat16', 1e-2],
    ['fp16', 'float16', 2e-3],
  ] as const)('in %s end to end', (precision, storage, bar) => {
    cuda().precision = precision;
    for (const rows of [5, 20, 50]) {
      const { actual, expected } = results({ ...fixed, rows }, storage);
      expect(relativeError(actual, expected)).toBeLessThanOrEqual(bar);
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
  const long = planDozens(
    { ...base, isGated: true, dIn: 2048, dOut: 2048, hidden: 16_384, experts: 128 },
    card,
  );
  // All warps along the sum; the neurons of a group of columns among four blocks.
  expect([long.up.across, long.up.ranks, long.down.across, long.splits]).toEqual([1, 1, 1, 4]);
  for (const { sharedBytes } of [small, wide, long].flatMap(({ up, down }) => [up, down])) {
    expect(sharedBytes).toBeLessThanOrEqual(232_448);
  }
});
