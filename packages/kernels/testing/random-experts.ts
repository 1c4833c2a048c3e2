import { Random } from '@d2dmoe/core';
import * as tf from '@tensorflow/tfjs-core';
import * as fc from 'fast-check';
import { packExperts } from '../src/pack-experts.js';
import type { ReferenceExperts } from '../src/reference.js';
import type { ExpertStorage, FeedForwardWeights, PackedExperts } from '../src/types.js';
import { differences, norm } from './closeness.js';

/** Every kind of FFN, with a seed for its values. */
export const ffnKinds = {
  activation: fc.constantFrom('relu', 'gelu', 'gelu_tanh', 'silu'),
  gated: fc.boolean(),
  biases: fc.boolean(),
  seed: fc.nat(),
};

/**
 * Shares from 0 to 1 in even steps: fast-check's own doubles are spread evenly over their exponents, so that next to all
 * of them lie at 0 or 1.
 */
export const shares = fc.nat(20).map((twentieths) => twentieths / 20);

/** Odd and small shapes of every kind of FFN. */
export const ffnShapes = fc.record({
  rows: fc.nat(9),
  dIn: fc.integer({ min: 1, max: 13 }),
  dOut: fc.integer({ min: 1, max: 11 }),
  experts: fc.integer({ min: 1, max: 7 }),
  expertSize: fc.integer({ min: 1, max: 12 }),
  ...ffnKinds,
});

export type FfnShape = typeof ffnShapes extends fc.Arbitrary<infer Shape> ? Shape : never;

/** Normal draws that float32 holds exactly. */
export function normals(count: number, random: Random, deviation = 1): Float64Array {
  return Float64Array.from({ length: count }, () => Math.fround(random.normal() * deviation));
}

/**
 * An FFN whose hidden activations and outputs are of the order of 1, and rows for it: they are drawn last, so that the
 * FFN is the same for any number of them.
 *
 * @param draw Draws `count` numbers of a standard deviation.
 */
export function randomExperts(
  shape: FfnShape,
  draw: typeof normals = normals,
): { x: Float64Array; ffn: ReferenceExperts } {
  const { rows, dIn, dOut, experts, expertSize, activation, gated, biases } = shape;
  const random = new Random(shape.seed);
  const hidden = experts * expertSize;
  const ffn: ReferenceExperts = {
    dIn,
    dOut,
    experts,
    expertSize,
    activation,
    up: draw(hidden * dIn, random, 1 / Math.sqrt(dIn)),
    down: draw(hidden * dOut, random, 1 / Math.sqrt(hidden)),
  };
  if (gated) ffn.gate = draw(hidden * dIn, random, 1 / Math.sqrt(dIn));
  if (biases) {
    ffn.upBias = draw(hidden, random);
    ffn.downBias = draw(dOut, random);
    if (gated) ffn.gateBias = draw(hidden, random);
  }
  return { x: draw(rows * dIn, random), ffn };
}

/** A selection of about a `density` of the experts, without regard to any rule. */
export function randomSelection(pairs: number, seed: number, density = 0.5): Uint8Array {
  const random = new Random(seed).fork('selection');
  return Uint8Array.from({ length: pairs }, () => (random.uniform() >= 1 - density ? 1 : 0));
}

export interface LayerShape extends FfnShape {
  /** Share of the experts that a row selects. */
  density: number;
}

/** {@link randomExperts} and a {@link randomSelection} of them. */
export function randomLayer(shape: LayerShape, draw?: typeof normals) {
  const { rows, experts, seed, density } = shape;
  return {
    ...randomExperts(shape, draw),
    selection: randomSelection(rows * experts, seed, density),
  };
}

/** Drawn by {@link randomLayer}. */
export type Layer = ReturnType<typeof randomLayer>;

/**
 * ‖actual − expected‖ / ‖expected‖; where the layer's outputs are few and happen to be small, by what their norm is on
 * average: roundings are as large as ever.
 */
export function errorOf(
  { ffn, selection }: Layer,
  actual: ArrayLike<number>,
  expected: ArrayLike<number>,
): number {
  const pairs = selection.reduce((sum, isSelected) => sum + isSelected, 0);
  // Of a selected expert, 1 / experts of the mean square of about 1/3 that all of them give.
  const average = Math.sqrt((pairs * ffn.dOut) / ffn.experts / 3);
  const size = Math.max(norm(Float64Array.from(expected)), average);
  return norm(differences(actual, expected)) / (size || 1);
}

/** The FFN's weights as tensors of the current backend. */
export function weightsOf(ffn: ReferenceExperts): FeedForwardWeights {
  const { dIn, dOut, experts, expertSize, activation } = ffn;
  const hidden = experts * expertSize;
  const weights: FeedForwardWeights = {
    activation,
    up: matrix(ffn.up, hidden, dIn),
    down: matrix(ffn.down, hidden, dOut),
  };
  if (ffn.gate) weights.gate = matrix(ffn.gate, hidden, dIn);
  if (ffn.upBias) weights.upBias = tf.tensor1d(Float32Array.from(ffn.upBias));
  if (ffn.gateBias) weights.gateBias = tf.tensor1d(Float32Array.from(ffn.gateBias));
  if (ffn.downBias) weights.downBias = tf.tensor1d(Float32Array.from(ffn.downBias));
  return weights;
}

/** The FFN's experts packed for the current backend; to be disposed of. */
export function packOf(ffn: ReferenceExperts, storage: ExpertStorage = 'float32'): PackedExperts {
  const weights = weightsOf(ffn);
  const experts = packExperts(weights, ffn.expertSize, { storage });
  tf.dispose(Object.values(weights).filter((value) => value instanceof tf.Tensor));
  return experts;
}

/** Runs `use` with the FFN's experts packed for the current backend, in a tf.tidy, and frees all. */
export function withExperts<T extends tf.TensorContainer | void>(
  ffn: ReferenceExperts,
  use: (experts: PackedExperts, weights: FeedForwardWeights) => T,
  storage: ExpertStorage = 'float32',
): T {
  return tf.tidy(() => {
    const weights = weightsOf(ffn);
    const experts = packExperts(weights, ffn.expertSize, { storage });
    try {
      return use(experts, weights);
    } finally {
      experts.dispose();
    }
  });
}

/** float32 [rows, columns] */
export function matrix(values: Float64Array, rows: number, columns: number): tf.Tensor2D {
  return tf.tensor2d(Float32Array.from(values), [rows, columns]);
}

/** bool [rows, columns] */
export function booleans(values: Uint8Array, rows: number, columns: number): tf.Tensor2D {
  return tf.tensor2d(values, [rows, columns], 'bool');
}
