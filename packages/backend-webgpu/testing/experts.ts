import { Random } from '@d2dmoe/core';
import {
  dynamicKExperts,
  type ExpertStorage,
  type FeedForwardWeights,
  packExperts,
  type ReferenceExperts,
  referenceDynamicKExperts,
} from '@d2dmoe/kernels';
import * as tf from '@tensorflow/tfjs-core';
import fc from 'fast-check';
import { expect } from 'vitest';

export interface Shape {
  dIn: number;
  dOut: number;
  experts: number;
  expertSize: number;
  activation: FeedForwardWeights['activation'];
  gated: boolean;
  biases: boolean;
  density: number;
  seed: number;
}

export const shapes: fc.Arbitrary<Shape> = fc.record({
  dIn: fc.integer({ min: 1, max: 70 }),
  dOut: fc.integer({ min: 1, max: 70 }),
  experts: fc.integer({ min: 1, max: 12 }),
  expertSize: fc.constantFrom(1, 4, 6, 32, 128),
  activation: fc.constantFrom('relu', 'gelu', 'gelu_tanh', 'silu'),
  gated: fc.boolean(),
  biases: fc.boolean(),
  density: fc.double({ min: 0, max: 1, noNaN: true }),
  seed: fc.nat(),
});

function normals(count: number, random: Random, deviation = 1): Float64Array {
  return Float64Array.from({ length: count }, () => Math.fround(random.normal() * deviation));
}

/** Rows that every shape is run with: a compiled shader serves them all. */
const ROWS = [0, 1, 6, 9, 197];

export function drawn(
  shape: Shape,
  rows: number,
): { x: Float64Array; ffn: ReferenceExperts; selection: Uint8Array } {
  const { dIn, dOut, experts, expertSize, activation, gated, biases, density } = shape;
  const random = new Random(shape.seed);
  const hidden = experts * expertSize;
  const ffn: ReferenceExperts = {
    dIn,
    dOut,
    experts,
    expertSize,
    activation,
    up: normals(hidden * dIn, random, 1 / Math.sqrt(dIn)),
    down: normals(hidden * dOut, random, 1 / Math.sqrt(hidden)),
  };
  if (gated) ffn.gate = normals(hidden * dIn, random, 1 / Math.sqrt(dIn));
  if (biases) {
    ffn.upBias = normals(hidden, random);
    ffn.downBias = normals(dOut, random);
    if (gated) ffn.gateBias = normals(hidden, random);
  }
  const x = normals(rows * dIn, random);
  const selection = Uint8Array.from({ length: rows * experts }, () =>
    random.uniform() < density ? 1 : 0,
  );
  return { x, ffn, selection };
}

export const matrix = (values: Float64Array, rows: number, columns: number) =>
  tf.tensor2d(Float32Array.from(values), [rows, columns]);
const vector = (values: Float64Array) => tf.tensor1d(Float32Array.from(values));

export function weightsOf(ffn: ReferenceExperts): FeedForwardWeights {
  const hidden = ffn.experts * ffn.expertSize;
  return {
    activation: ffn.activation,
    up: matrix(ffn.up, hidden, ffn.dIn),
    down: matrix(ffn.down, hidden, ffn.dOut),
    ...(ffn.gate && { gate: matrix(ffn.gate, hidden, ffn.dIn) }),
    ...(ffn.upBias && { upBias: vector(ffn.upBias) }),
    ...(ffn.gateBias && { gateBias: vector(ffn.gateBias) }),
    ...(ffn.downBias && { downBias: vector(ffn.downBias) }),
  };
}

/** ‖actual − expected‖ / ‖expected‖. */
export function relativeError(actual: ArrayLike<number>, expected: Float64Array): number {
  expect(actual.length).toBe(expected.length);
  const norm = Math.hypot(...expected);
  const differences = expected.map((value, i) => value - (actual[i] ?? Number.NaN));
  return Math.hypot(...differences) / (norm || 1);
}

/** The greatest relative error over {@link ROWS}. */
export async function greatestError(
  shape: Shape,
  { storage = 'float32', allRows = ROWS }: { storage?: ExpertStorage; allRows?: number[] } = {},
): Promise<number> {
  const { dIn, dOut, experts, expertSize, density } = shape;
  const { ffn } = drawn(shape, 0);
  const weights = weightsOf(ffn);
  const packed = packExperts(weights, expertSize, { storage });
  tf.dispose(Object.values(weights).filter((value) => value instanceof tf.Tensor));
  const errors: number[] = [];
  for (const rows of allRows) {
    const { x, selection } = drawn(shape, rows);
    const input = matrix(x, rows, dIn);
    const chosen = tf.tensor2d(selection, [rows, experts], 'bool');
    const out = dynamicKExperts(input, chosen, packed, { expectedDensity: density });
    expect(out.shape).toEqual([rows, dOut]);
    errors.push(relativeError(await out.data(), referenceDynamicKExperts(x, selection, ffn)));
    tf.dispose([input, chosen, out]);
  }
  packed.dispose();
  return Math.max(...errors);
}
