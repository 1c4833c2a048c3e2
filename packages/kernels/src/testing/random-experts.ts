import { Random } from '@d2dmoe/core';
import * as tf from '@tensorflow/tfjs-core';
import * as fc from 'fast-check';
import { packExperts } from '../pack-experts.js';
import type { ReferenceExperts } from '../reference.js';
import type { FeedForwardWeights, PackedExperts } from '../types.js';

/** Odd and small shapes of every kind of FFN, with a seed for their values. */
export const ffnShapes = fc.record({
  rows: fc.nat(9),
  dIn: fc.integer({ min: 1, max: 13 }),
  dOut: fc.integer({ min: 1, max: 11 }),
  experts: fc.integer({ min: 1, max: 7 }),
  expertSize: fc.integer({ min: 1, max: 12 }),
  activation: fc.constantFrom('relu', 'gelu', 'gelu_tanh', 'silu'),
  gated: fc.boolean(),
  biases: fc.boolean(),
  seed: fc.nat(),
});

export type FfnShape = typeof ffnShapes extends fc.Arbitrary<infer Shape> ? Shape : never;

/** Normal draws that float32 holds exactly. */
export function normals(count: number, random: Random, deviation = 1): Float64Array {
  return Float64Array.from({ length: count }, () => Math.fround(random.normal() * deviation));
}

/** An FFN whose hidden activations and outputs are of the order of 1, and rows for it. */
export function randomExperts(shape: FfnShape): { x: Float64Array; ffn: ReferenceExperts } {
  const { rows, dIn, dOut, experts, expertSize, activation, gated, biases } = shape;
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
  return { x: normals(rows * dIn, random), ffn };
}

/** A selection of about half of the experts, without regard to any rule. */
export function randomSelection(pairs: number, seed: number): Uint8Array {
  const random = new Random(seed).fork('selection');
  return Uint8Array.from({ length: pairs }, () => random.integer(2));
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

/** Runs `use` with the FFN's experts packed for the current backend, in a tf.tidy, and frees all. */
export function withExperts<T extends tf.TensorContainer | void>(
  ffn: ReferenceExperts,
  use: (experts: PackedExperts, weights: FeedForwardWeights) => T,
): T {
  return tf.tidy(() => {
    const weights = weightsOf(ffn);
    const experts = packExperts(weights, ffn.expertSize);
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
