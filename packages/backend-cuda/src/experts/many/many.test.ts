import { referenceDynamicKExperts } from '@d2dmoe/kernels';
import * as tf from '@tensorflow/tfjs-core';
import { expect, test } from 'vitest';
import { relativeError } from '../../../../kernels/testing/closeness.js';
import { emulated } from '../../../testing/emulated.js';
import { exactLayer, type ExactShape, withCall } from '../../../testing/experts.js';
import { hundredsFits } from './hundreds.js';
import { manyFits, manyRows } from './index.js';
import { narrowFits } from './narrow.js';
import { type ManyPlan, planMany } from './plan.js';
import { unitsOf } from './units.js';

/** All plans that the kernels have for a shape. */
function plans({ rows, dIn, dOut, experts, expertSize, gated }: ExactShape): [string, ManyPlan][] {
  const all: [string, ManyPlan][] = [['masked', { kind: 'masked' }]];
  if (hundredsFits({ rows, dIn, dOut, gate: gated ? 1 : 0 }))
    all.push(['hundreds', { kind: 'hundreds' }]);
  if (narrowFits({ dIn, dOut, experts, expertSize, gate: gated ? 1 : 0 })) {
    all.push(['narrow', { kind: 'narrow', isOrdered: false }]);
    all.push(['narrow, ordered', { kind: 'narrow', isOrdered: true }]);
  }
  for (const width of [128, 64] as const) {
    for (const pools of [2, 4, 0] as const) {
      if (gated && (pools > 0 || width === 64)) continue;
      const units = unitsOf(experts, expertSize, width);
      for (const [sums, isAdded, hasOnlyKinds] of [
        ['added', true, false],
        ['added, only segments stored', true, true],
        ['kept apart', false, false],
      ] as const) {
        if (hasOnlyKinds && (width === 64 || pools === 4)) continue;
        if (pools === 4 && !isAdded) continue;
        for (const isInterleaved of [false, true]) {
          const name = `${width} in ${pools} pools, ${sums}${isInterleaved ? ', interleaved' : ''}`;
          all.push([
            name,
            { kind: 'segments', units, pools, isAdded, hasOnlyKinds, isInterleaved },
          ]);
        }
      }
    }
  }
  return all;
}

const bars = { float16: 1e-3, bfloat16: 5e-3 };

emulated('the expert op for many rows', (cuda) => {
  test.each<[string, ExactShape, 'float16' | 'bfloat16']>([
    [
      'one tile, one step',
      { rows: 128, dIn: 64, dOut: 64, experts: 2, expertSize: 128, density: 1 },
      'bfloat16',
    ],
    [
      'more than a go of columns',
      { rows: 70, dIn: 136, dOut: 1032, experts: 3, expertSize: 128, density: 0.7 },
      'float16',
    ],
    [
      'several experts a unit, ragged',
      { rows: 300, dIn: 200, dOut: 136, experts: 6, expertSize: 24, density: 0.4 },
      'float16',
    ],
    [
      'odd experts',
      {
        rows: 90,
        dIn: 33,
        dOut: 72,
        experts: 16,
        expertSize: 11,
        density: 0.3,
        activation: 'silu',
      },
      'bfloat16',
    ],
    [
      'tiny experts',
      {
        rows: 150,
        dIn: 64,
        dOut: 64,
        experts: 70,
        expertSize: 4,
        density: 0.2,
        activation: 'gelu',
      },
      'float16',
    ],
    [
      'tiny experts, a tile of which begins at sixteen bytes',
      { rows: 150, dIn: 64, dOut: 64, experts: 80, expertSize: 4, density: 0.2 },
      'bfloat16',
    ],
    [
      'experts of sixteen, the same',
      { rows: 140, dIn: 72, dOut: 64, experts: 32, expertSize: 16, density: 0.3 },
      'float16',
    ],
    [
      'gated, tiny, the same',
      { rows: 130, dIn: 64, dOut: 72, experts: 48, expertSize: 8, density: 0.3, gated: true },
      'bfloat16',
    ],
    [
      'many tiles of a group',
      { rows: 1100, dIn: 64, dOut: 64, experts: 3, expertSize: 128, density: 0.6 },
      'float16',
    ],
    [
      'more units than a word has bits',
      { rows: 150, dIn: 64, dOut: 64, experts: 45, expertSize: 64, density: 0.2 },
      'float16',
    ],
    [
      'experts of several units',
      { rows: 200, dIn: 72, dOut: 264, experts: 4, expertSize: 200, density: 0.5 },
      'bfloat16',
    ],
    [
      'gated',
      {
        rows: 140,
        dIn: 96,
        dOut: 136,
        experts: 5,
        expertSize: 40,
        density: 0.4,
        activation: 'gelu_tanh',
        gated: true,
      },
      'float16',
    ],
    [
      'gated, wide',
      { rows: 130, dIn: 64, dOut: 64, experts: 3, expertSize: 128, density: 0.5, gated: true },
      'bfloat16',
    ],
    [
      'nothing selected',
      { rows: 10, dIn: 64, dOut: 64, experts: 3, expertSize: 32, density: 0 },
      'float16',
    ],
  ])(
    '%s',
    (_, shape, storage) => {
      const layer = exactLayer(shape);
      const expected = referenceDynamicKExperts(layer.x, layer.selection, layer.ffn);
      withCall(cuda(), layer, { storage }, (call) => {
        expect(manyFits(cuda(), call)).toBe(true);
        for (const [name, plan] of plans(shape)) {
          const out = tf.engine().makeTensorFromTensorInfo(manyRows(cuda(), call, { plan }));
          expect(relativeError(out.dataSync(), expected), name).toBeLessThanOrEqual(bars[storage]);
        }
      });
    },
    300_000,
  );
});

test('the plan follows density, experts and rows', () => {
  const vit = {
    rows: 50_432,
    dIn: 768,
    dOut: 768,
    experts: 24,
    expertSize: 128,
    gate: 0,
    storage: 'bfloat16' as const,
  };
  const kind = (call: Parameters<typeof planMany>[0]) => {
    const plan = planMany(call, 132, false);
    if (plan.kind !== 'segments') return plan.kind;
    return `${plan.units.width} in ${plan.pools} pools`;
  };
  expect(kind({ ...vit, density: 1 })).toBe('masked');
  expect(kind({ ...vit, density: 0.4 })).toBe('128 in 2 pools');
  expect(kind({ ...vit, density: 0.2 })).toBe('128 in 2 pools');
  expect(kind({ ...vit, density: 0.1 })).toBe('128 in 2 pools');
  expect(kind({ ...vit, experts: 96, expertSize: 32, density: 0.1 })).toBe('64 in 4 pools');
  // Four pools would give a row more segments than are added up in bf16.
  expect(kind({ ...vit, rows: 30_000, experts: 96, expertSize: 32, density: 0.2 })).toBe(
    '64 in 2 pools',
  );
  expect(kind({ ...vit, experts: 768, expertSize: 4, density: 0.2 })).toBe('masked');
  expect(kind({ ...vit, rows: 197, density: 0.4 })).toBe('hundreds');
  expect(kind({ ...vit, rows: 6304, density: 0.1 })).toBe('128 in 0 pools');
  expect(kind({ ...vit, gate: 1, density: 0.2 })).toBe('128 in 0 pools');
  const added = (isRepeatable: boolean) => planMany({ ...vit, density: 0.4 }, 132, isRepeatable);
  expect(added(false)).toMatchObject({ isAdded: true, hasOnlyKinds: false });
  expect(added(true)).toMatchObject({ isAdded: false });
  // Down is put in order where many tiles read it, not where a wide layer has few rows.
  expect(added(false)).toMatchObject({ isInterleaved: true });
  const wide = { ...vit, rows: 1000, dIn: 4096, dOut: 4096, experts: 128, density: 0.1 };
  expect(planMany(wide, 132, false)).toMatchObject({ isInterleaved: false });
  // Two of 24: one pair a row.
  expect(planMany({ ...vit, density: 0.1 }, 132, false)).toMatchObject({ hasOnlyKinds: true });
});
