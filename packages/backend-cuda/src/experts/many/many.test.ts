import { Random } from '@d2dmoe/core';
import {
  packExperts,
  referenceDynamicKExperts,
  type Activation,
  type ReferenceExperts,
} from '@d2dmoe/kernels';
import * as tf from '@tensorflow/tfjs-core';
import { expect, test } from 'vitest';
import { emulated } from '../../../testing/emulated.js';
import { relativeError } from '../../../testing/relative-error.js';
import { callOf, type PackedInputs } from '../dynamic-k-experts.js';
import { manyFits, manyRows } from './index.js';
import { type ManyPlan, planMany } from './plan.js';
import { unitsOf } from './units.js';

interface Shape {
  rows: number;
  dIn: number;
  dOut: number;
  experts: number;
  expertSize: number;
  density: number;
  activation?: Activation;
  gated?: boolean;
}

/** A random layer, its rows and selection; results by plan, and in float64. */
function layer(shape: Shape, storage: 'float16' | 'bfloat16') {
  const { rows, dIn, dOut, experts, expertSize, density, activation = 'relu', gated } = shape;
  const random = new Random(rows + experts);
  const hidden = experts * expertSize;
  // Values that the storage holds exactly: what is left is the kernels' own rounding.
  const exact = new Float32Array(1);
  const bits = new Uint32Array(exact.buffer);
  const draws = (count: number, deviation: number) =>
    Float64Array.from({ length: count }, () => {
      exact[0] = random.normal() * deviation;
      bits[0] = (bits[0] ?? 0) & 0xffff0000;
      return exact[0] ?? 0;
    });
  const ffn: ReferenceExperts = {
    dIn,
    dOut,
    experts,
    expertSize,
    activation,
    up: draws(hidden * dIn, 1 / Math.sqrt(dIn)),
    down: draws(hidden * dOut, 1 / Math.sqrt(hidden)),
    upBias: draws(hidden, 1),
    downBias: draws(dOut, 1),
    ...(gated && { gate: draws(hidden * dIn, 1 / Math.sqrt(dIn)), gateBias: draws(hidden, 1) }),
  };
  const x = draws(rows * dIn, 1);
  const selection = Uint8Array.from({ length: rows * experts }, () =>
    random.uniform() < density ? 1 : 0,
  );
  const matrix = (values: Float64Array, lines: number) =>
    tf.tensor2d(Float32Array.from(values), [lines, values.length / lines]);
  const vector = (values: Float64Array) => tf.tensor1d(Float32Array.from(values));
  return {
    expected: referenceDynamicKExperts(x, selection, ffn),
    run: (backend: Parameters<typeof manyRows>[0], plan: ManyPlan) =>
      tf.tidy(() => {
        const packed = packExperts(
          {
            up: matrix(ffn.up, hidden),
            down: matrix(ffn.down, hidden),
            activation,
            ...(ffn.gate && { gate: matrix(ffn.gate, hidden) }),
            ...(ffn.upBias && { upBias: vector(ffn.upBias) }),
            ...(ffn.gateBias && { gateBias: vector(ffn.gateBias) }),
            ...(ffn.downBias && { downBias: vector(ffn.downBias) }),
          },
          expertSize,
          { storage },
        );
        const call = callOf(
          backend,
          packed.tensors as unknown as PackedInputs,
          { activation, expertSize, dOut, storage },
          {
            x: matrix(x, rows),
            selection: tf.tensor2d(selection, [rows, experts], 'bool'),
            experts,
          },
        );
        expect(manyFits(backend, call)).toBe(true);
        const out = tf.engine().makeTensorFromTensorInfo(manyRows(backend, call, plan));
        const values = out.dataSync();
        packed.dispose();
        return values;
      }),
  };
}

/** All plans that the kernels have for a shape. */
function plans({ dOut, experts, expertSize, gated }: Shape): [string, ManyPlan][] {
  const all: [string, ManyPlan][] = [['masked', { kind: 'masked' }]];
  if (!gated && dOut <= 1024) all.push(['hundreds', { kind: 'hundreds' }]);
  for (const width of [128, 64] as const) {
    for (const isPaired of [true, false]) {
      if (gated && (isPaired || width === 64)) continue;
      for (const isAdded of [true, false]) {
        const name = `${width} ${isPaired ? 'paired' : 'single'} ${isAdded ? 'added' : 'apart'}`;
        const units = unitsOf(experts, expertSize, width);
        all.push([name, { kind: 'segments', units, isPaired, isAdded }]);
      }
    }
  }
  return all;
}

const bars = { float16: 1e-3, bfloat16: 6e-3 };

emulated('the expert op for many rows', (cuda) => {
  test.each<[string, Shape, 'float16' | 'bfloat16']>([
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
      const { run, expected } = layer(shape, storage);
      for (const [name, plan] of plans(shape)) {
        expect(relativeError(run(cuda(), plan), expected), name).toBeLessThanOrEqual(bars[storage]);
      }
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
    return `${plan.units.width} ${plan.isPaired ? 'paired' : 'single'}`;
  };
  expect(kind({ ...vit, density: 1 })).toBe('masked');
  expect(kind({ ...vit, density: 0.4 })).toBe('128 paired');
  expect(kind({ ...vit, density: 0.1 })).toBe('128 paired');
  expect(kind({ ...vit, experts: 96, expertSize: 32, density: 0.1 })).toBe('64 paired');
  expect(kind({ ...vit, experts: 768, expertSize: 4, density: 0.2 })).toBe('masked');
  expect(kind({ ...vit, rows: 197, density: 0.4 })).toBe('hundreds');
  expect(kind({ ...vit, rows: 6304, density: 0.1 })).toBe('128 single');
  expect(kind({ ...vit, gate: 1, density: 0.2 })).toBe('128 single');
  const added = (isRepeatable: boolean) => planMany({ ...vit, density: 0.4 }, 132, isRepeatable);
  expect(added(false)).toMatchObject({ isAdded: true });
  expect(added(true)).toMatchObject({ isAdded: false });
});
