import { Random } from '@d2dmoe/core';
import { referenceDynamicKExperts, referenceSelectExperts } from '@d2dmoe/kernels';
import * as tf from '@tensorflow/tfjs-core';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { relativeError } from '../../../../kernels/testing/closeness.js';
import { ffnKinds, matrix, shares } from '../../../../kernels/testing/random-experts.js';
import { emulated } from '../../../testing/emulated.js';
import { exactLayer, exactNorms, type ExactShape, withCall } from '../../../testing/experts.js';
import type { SelectionRule } from '../select.js';
import { manyFits, manyRows } from './index.js';
import { narrowFits, type NarrowRouter } from './narrow.js';
import { planMany } from './plan.js';

const shapes = fc.record({
  ...ffnKinds,
  gated: fc.constant(false),
  rows: fc.integer({ min: 1, max: 400 }),
  dIn: fc.integer({ min: 1, max: 256 }),
  dOut: fc.integer({ min: 1, max: 32 }).map((eighth) => eighth * 8),
  experts: fc.integer({ min: 1, max: 32 }),
  // At most sixteen units of 128.
  expertSize: fc.integer({ min: 1, max: 8 }).map((eighth) => eighth * 8),
  density: shares,
});
const types = [
  ['bfloat16', 5e-3],
  ['float16', 1e-3],
] as const;

emulated('the expert op of a narrow layer', (cuda) => {
  const plan = (isOrdered: boolean) => ({ kind: 'narrow', isOrdered }) as const;
  const results = (...args: Parameters<typeof manyRows>) =>
    tf.tidy(() =>
      tf
        .engine()
        .makeTensorFromTensorInfo(manyRows(...args))
        .dataSync()
        .slice(),
    );

  test.each(types)('in %s gives what float64 does, in either order', (storage, bar) => {
    fc.assert(
      fc.property(shapes, (shape) => {
        const layer = exactLayer(shape);
        const expected = referenceDynamicKExperts(layer.x, layer.selection, layer.ffn);
        withCall(cuda(), layer, { storage }, (call) => {
          expect(manyFits(cuda(), call) && narrowFits(call)).toBe(true);
          const actual = results(cuda(), call, { plan: plan(false) });
          expect(relativeError(actual, expected)).toBeLessThanOrEqual(bar);
          // What a row gets does not depend on its tile.
          expect(results(cuda(), call, { plan: plan(true) })).toEqual(actual);
        });
      }),
      { numRuns: 8 },
    );
  });

  test.each(types)('in %s with a router chooses as float64 does', (storage, bar) => {
    // Of which sums and products in float32 are exact.
    const eighths = fc.nat(8).map((eighth) => eighth / 8);
    const rules: fc.Arbitrary<SelectionRule> = fc.oneof(
      fc.record({ rule: fc.constant('threshold' as const), value: eighths }),
      fc.record({ rule: fc.constant('topK' as const), value: fc.integer({ min: 1, max: 33 }) }),
      fc.record({ rule: fc.constant('cumulativeShare' as const), value: eighths }),
    );
    fc.assert(
      fc.property(shapes, rules, fc.integer({ min: 1, max: 128 }), (shape, rule, width) => {
        const random = new Random(shape.seed);
        const integers = (count: number, most: number) =>
          Float64Array.from({ length: count }, () => random.integer(2 * most + 1) - most);
        // A few columns that are not zero: hidden sums, and so norms, are exact.
        const drawn = exactLayer(shape);
        const layer = { ...drawn, x: drawn.x.map((v) => Math.sign(Math.round(v))) };
        const hidden = integers(width * shape.dIn, 1).map((v, i) =>
          (i % shape.dIn) % Math.ceil(shape.dIn / 48) === 0 ? v : 0,
        );
        const output = integers(shape.experts * width, 3);
        const norms = exactNorms(layer.x, { hidden, output }, shape);
        const selection = referenceSelectExperts(norms, shape.experts, rule);
        const expected = referenceDynamicKExperts(layer.x, selection, layer.ffn);
        withCall(cuda(), layer, { storage }, (call) => {
          withRouter({ hidden, output, width, rule }, shape, storage, (router) => {
            for (const isOrdered of [false, true]) {
              const actual = results(cuda(), call, { plan: plan(isOrdered), router });
              expect(relativeError(actual, expected)).toBeLessThanOrEqual(bar);
            }
          });
        });
      }),
      { numRuns: 8 },
    );
  });

  function withRouter(
    parts: { hidden: Float64Array; output: Float64Array; width: number; rule: SelectionRule },
    { dIn, experts }: ExactShape,
    storage: 'float16' | 'bfloat16',
    use: (router: NarrowRouter) => void,
  ): void {
    const { hidden, output, width, rule } = parts;
    tf.tidy(() => {
      const matrices = {
        hidden: matrix(hidden, width, dIn),
        output: matrix(output, experts, width),
      };
      const packed = tf.engine().runKernel<tf.Tensor[]>('PackRouter', matrices, { storage });
      const [, , first, second] = packed.map((tensor) => cuda().pointer(tensor));
      use({ hidden: first as number, output: second as number, width, rule });
    });
  }
});

test('is for many rows of narrow layers of few experts, put in order where a multiprocessor has more than a tile', () => {
  const vit = { dIn: 192, dOut: 192, experts: 6, expertSize: 128, gate: 0 };
  expect(narrowFits(vit)).toBe(true);
  expect(narrowFits(vit, 128)).toBe(true);
  expect(narrowFits(vit, 136)).toBe(false);
  expect(narrowFits({ ...vit, dIn: 264 })).toBe(false);
  expect(narrowFits({ ...vit, dOut: 264 })).toBe(false);
  expect(narrowFits({ ...vit, gate: 1 })).toBe(false);
  expect(narrowFits({ ...vit, experts: 33, expertSize: 8 })).toBe(false);
  expect(narrowFits({ ...vit, expertSize: 12 })).toBe(false);
  expect(narrowFits({ ...vit, experts: 17 })).toBe(false);
  const plan = (rows: number, density = 0.5, expertSize = 128) =>
    planMany({ ...vit, expertSize, rows, storage: 'bfloat16', density }, 132, true);
  expect(plan(512)).toEqual({ kind: 'hundreds' });
  // Too few tiles for the card.
  expect(plan(8000)).toMatchObject({ kind: 'segments', hasOnlyKinds: false });
  expect(plan(8000, 1)).toMatchObject({ kind: 'segments' });
  expect(plan(16_640)).toEqual({ kind: 'narrow', isOrdered: false });
  expect(plan(65_536)).toEqual({ kind: 'narrow', isOrdered: true });
  expect(plan(65_536, 0.95)).toEqual({ kind: 'narrow', isOrdered: false });
  // Of four experts in a unit, one is run nearly always.
  expect(plan(65_536, 0.5, 32)).toEqual({ kind: 'narrow', isOrdered: false });
});
