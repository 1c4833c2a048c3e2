import { dynamicKExperts, type ExpertStorage, referenceDynamicKExperts } from '@d2dmoe/kernels';
import * as tf from '@tensorflow/tfjs-core';
import fc from 'fast-check';
import { expect } from 'vitest';
import {
  booleans,
  errorOf,
  ffnKinds,
  type LayerShape,
  matrix,
  packOf,
  randomLayer,
  shares,
} from '../../kernels/testing/random-experts.js';

export type Shape = Omit<LayerShape, 'rows'>;

export const shapes: fc.Arbitrary<Shape> = fc.record({
  dIn: fc.integer({ min: 1, max: 70 }),
  dOut: fc.integer({ min: 1, max: 70 }),
  experts: fc.integer({ min: 1, max: 12 }),
  expertSize: fc.constantFrom(1, 4, 6, 32, 128),
  density: shares,
  ...ffnKinds,
});

/** Rows that every shape is run with: a compiled shader serves them all. */
const ROWS = [0, 1, 6, 9, 197];

export function drawn(shape: Shape, rows: number) {
  return randomLayer({ ...shape, rows });
}

/** The greatest {@link errorOf} over {@link ROWS}. */
export async function greatestError(
  shape: Shape,
  {
    storage = 'float32',
    allRows = ROWS,
    expectedDensity = shape.density,
  }: { storage?: ExpertStorage; allRows?: number[]; expectedDensity?: number } = {},
): Promise<number> {
  const { dIn, dOut, experts } = shape;
  const { ffn } = drawn(shape, 0);
  const packed = packOf(ffn, storage);
  const errors: number[] = [];
  for (const rows of allRows) {
    const layer = drawn(shape, rows);
    const { x, selection } = layer;
    const input = matrix(x, rows, dIn);
    const chosen = booleans(selection, rows, experts);
    const out = dynamicKExperts(input, chosen, packed, { expectedDensity });
    expect(out.shape).toEqual([rows, dOut]);
    const expected = referenceDynamicKExperts(x, selection, ffn);
    errors.push(errorOf(layer, await out.data(), expected));
    tf.dispose([input, chosen, out]);
  }
  packed.dispose();
  return Math.max(...errors);
}

/** The bits of results for one drawn layer, by expected density; `dispose` when done. */
export function bitsOf(shape: Shape, rows: number) {
  const { ffn, x, selection } = drawn(shape, rows);
  const packed = packOf(ffn);
  const input = matrix(x, rows, shape.dIn);
  const chosen = booleans(selection, rows, shape.experts);
  return {
    expected: referenceDynamicKExperts(x, selection, ffn),
    run: async (expectedDensity: number) => {
      const out = dynamicKExperts(input, chosen, packed, { expectedDensity });
      const values = await out.data();
      out.dispose();
      return Buffer.from(values.slice().buffer);
    },
    dispose: () => {
      packed.dispose();
      tf.dispose([input, chosen]);
    },
  };
}
