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
import { pitchOf } from '../call.js';
import { callOf, type PackedInputs } from '../dynamic-k-experts.js';
import { packRows } from '../pack.js';
import { type HundredsWay, hundredsWay, runHundreds } from './hundreds.js';

interface Shape {
  rows: number;
  dIn: number;
  dOut: number;
  experts: number;
  expertSize: number;
  density: number;
  activation?: Activation;
}

/** A random layer whose values the storage holds exactly; results by way, and in float64. */
function layer(shape: Shape, storage: 'float16' | 'bfloat16') {
  const { rows, dIn, dOut, experts, expertSize, density, activation = 'relu' } = shape;
  const random = new Random(rows + experts);
  const hidden = experts * expertSize;
  const draws = (count: number, scale: number) =>
    Float64Array.from(
      { length: count },
      () => (Math.round((random.uniform() * 2 - 1) * 64) / 64) * scale,
    );
  const power = (value: number) => 2 ** Math.round(Math.log2(value));
  const ffn: ReferenceExperts = {
    dIn,
    dOut,
    experts,
    expertSize,
    activation,
    up: draws(hidden * dIn, power(2 / Math.sqrt(dIn))),
    down: draws(hidden * dOut, power(2 / Math.sqrt(hidden))),
    upBias: draws(hidden, 1),
    downBias: draws(dOut, 1),
  };
  const x = draws(rows * dIn, 1);
  const selection = Uint8Array.from({ length: rows * experts }, () =>
    random.uniform() < density ? 1 : 0,
  );
  const matrix = (values: Float64Array, lines: number) =>
    tf.tensor2d(Float32Array.from(values), [lines, values.length / lines]);
  const vector = (values: ArrayLike<number> = []) => tf.tensor1d(Float32Array.from(values));
  return {
    expected: referenceDynamicKExperts(x, selection, ffn),
    run: (backend: Parameters<typeof runHundreds>[0], way: HundredsWay) =>
      tf.tidy(() => {
        const packed = packExperts(
          {
            up: matrix(ffn.up, hidden),
            down: matrix(ffn.down, hidden),
            upBias: vector(ffn.upBias),
            downBias: vector(ffn.downBias),
            activation,
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
        const x16 = packRows(backend, call.x, storage);
        const out = backend.output([rows, dOut], 'float32');
        runHundreds(
          backend,
          { ...call, storage },
          {
            x16: backend.pointer(x16),
            pitch: pitchOf(dIn, storage),
            out: out.pointer,
            isOut32: true,
            way,
          },
        );
        const values = tf.engine().makeTensorFromTensorInfo(out).dataSync();
        packed.dispose();
        return values;
      }),
  };
}

const bars = { float16: 1e-3, bfloat16: 6e-3 };

emulated('the expert op for some hundred rows', (cuda) => {
  test.each<[string, Shape, 'float16' | 'bfloat16']>([
    [
      'several chunks of rows, a part of a tile',
      { rows: 300, dIn: 64, dOut: 72, experts: 2, expertSize: 128, density: 0.7 },
      'float16',
    ],
    [
      'wide',
      { rows: 66, dIn: 840, dOut: 1000, experts: 2, expertSize: 128, density: 0.3 },
      'bfloat16',
    ],
    [
      'several experts a unit, ragged',
      { rows: 70, dIn: 100, dOut: 136, experts: 20, expertSize: 6, density: 0.2 },
      'float16',
    ],
    [
      'tiny experts',
      {
        rows: 80,
        dIn: 64,
        dOut: 64,
        experts: 72,
        expertSize: 4,
        density: 0.1,
        activation: 'gelu',
      },
      'bfloat16',
    ],
    [
      'experts of several units',
      { rows: 65, dIn: 72, dOut: 264, experts: 3, expertSize: 200, density: 0.4 },
      'float16',
    ],
    [
      'nothing selected',
      { rows: 10, dIn: 64, dOut: 64, experts: 3, expertSize: 32, density: 0 },
      'bfloat16',
    ],
  ])(
    '%s',
    (_, shape, storage) => {
      const { run, expected } = layer(shape, storage);
      for (const way of ['added', 'apart', 'masked'] as const) {
        expect(relativeError(run(cuda(), way), expected), way).toBeLessThanOrEqual(bars[storage]);
      }
    },
    300_000,
  );
});

test('the way follows how many rows run a unit', () => {
  const vit = { rows: 197, experts: 24, expertSize: 128 };
  expect(hundredsWay({ ...vit, density: 0.1 }, false)).toBe('added');
  expect(hundredsWay({ ...vit, density: 0.1 }, true)).toBe('apart');
  expect(hundredsWay({ ...vit, density: 1 }, false)).toBe('masked');
  // 32 experts a unit: hardly a row runs none of them.
  const tiny = { rows: 197, experts: 768, expertSize: 4 };
  expect(hundredsWay({ ...tiny, density: 0.1 }, false)).toBe('masked');
});
