import { referenceDynamicKExperts } from '@d2dmoe/kernels';
import * as tf from '@tensorflow/tfjs-core';
import { expect, test } from 'vitest';
import { relativeError } from '../../../../kernels/testing/closeness.js';
import { emulated } from '../../../testing/emulated.js';
import { exactLayer, type ExactShape, withCall } from '../../../testing/experts.js';
import { HALF_OF, pitchOf } from '../call.js';
import { packRows } from '../pack.js';
import { hundredsWay, runHundreds } from './hundreds.js';
import { MOST_ADDED } from './units.js';

const bars = { float16: 1e-3, bfloat16: 5e-3 };

emulated('the expert op for some hundred rows', (cuda) => {
  test.each<[string, ExactShape, 'float16' | 'bfloat16']>([
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
      'more units a row than are added up in bf16',
      { rows: 66, dIn: 64, dOut: 64, experts: 12, expertSize: 128, density: 0.9 },
      'bfloat16',
    ],
    [
      'nothing selected',
      { rows: 10, dIn: 64, dOut: 64, experts: 3, expertSize: 32, density: 0 },
      'bfloat16',
    ],
  ])(
    '%s',
    (_, shape, storage) => {
      const backend = cuda();
      const layer = exactLayer(shape);
      const expected = referenceDynamicKExperts(layer.x, layer.selection, layer.ffn);
      withCall(backend, layer, { storage, expectedDensity: shape.density }, (call) => {
        const x16 = backend.pointer(packRows(backend, call.x, storage));
        for (const way of ['added', 'apart', 'masked'] as const) {
          for (const isOut32 of [true, false]) {
            const size = [call.rows, call.dOut];
            const out = isOut32
              ? backend.output(size, 'float32')
              : backend.output16(size, HALF_OF[storage]);
            const run = { x16, pitch: pitchOf(call.dIn, storage), out: out.pointer, isOut32, way };
            runHundreds(backend, { ...call, storage }, run);
            const values = tf.engine().makeTensorFromTensorInfo(out).dataSync();
            const named = `${way}, ${isOut32 ? 'float32' : storage}`;
            expect(relativeError(values, expected), named).toBeLessThanOrEqual(bars[storage]);
          }
        }
      });
    },
    300_000,
  );
});

emulated('sums in 16 bits', (cuda) => {
  test.each([
    ['bfloat16', MOST_ADDED.bfloat16, 5e-3],
    ['float16', MOST_ADDED.float16, 1e-3],
  ] as const)(
    '%s: of as many units as that, and of more where nobody has said how many run',
    (storage, most, bar) => {
      const backend = cuda();
      const shape = { rows: 40, dIn: 64, dOut: 64, expertSize: 128 };
      for (const [experts, expectedDensity] of [
        [most, 1],
        [most + 4, undefined],
      ] as const) {
        const layer = exactLayer({ ...shape, experts, density: 1 });
        const expected = referenceDynamicKExperts(layer.x, layer.selection, layer.ffn);
        withCall(backend, layer, { storage, expectedDensity }, (call) => {
          const x16 = backend.pointer(packRows(backend, call.x, storage));
          const out = backend.output16([call.rows, call.dOut], HALF_OF[storage]);
          const run = {
            x16,
            pitch: call.dIn,
            out: out.pointer,
            isOut32: false,
            way: 'added',
          } as const;
          runHundreds(backend, { ...call, storage }, run);
          const values = tf.engine().makeTensorFromTensorInfo(out).dataSync();
          const named = `${experts} units`;
          expect(relativeError(values, expected), named).toBeLessThanOrEqual(
            expectedDensity === undefined ? bar / 2 : bar,
          );
        });
      }
    },
  );
});

test('the way follows how many rows run a unit', () => {
  const vit = { rows: 197, experts: 24, expertSize: 128 };
  expect(hundredsWay({ ...vit, density: 0.1 }, false)).toBe('added');
  expect(hundredsWay({ ...vit, density: 0.1 }, true)).toBe('apart');
  expect(hundredsWay({ ...vit, density: 1 }, false)).toBe('masked');
  // The dense layer's time goes by tiles of rows.
  expect(hundredsWay({ ...vit, density: 0.8 }, false)).toBe('masked');
  expect(hundredsWay({ ...vit, rows: 394, density: 0.5 }, false)).toBe('added');
  // 32 experts a unit: hardly a row runs none of them.
  const tiny = { rows: 197, experts: 768, expertSize: 4 };
  expect(hundredsWay({ ...tiny, density: 0.1 }, false)).toBe('masked');
});
