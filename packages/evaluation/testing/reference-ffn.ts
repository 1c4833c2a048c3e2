import type { FeedForwardWeights } from '@d2dmoe/kernels';
import { referenceActivate } from '@d2dmoe/kernels';
import * as tf from '@tensorflow/tfjs-core';

type Matrix = number[][];

/** An FFN in float64, one token at a time. */
export interface ReferenceFeedForward {
  /** `gate` of a GLU, else `up`, times x, plus bias, through the activation. */
  activations(x: readonly number[]): number[];
  /** What the down projection multiplies. */
  hidden(x: readonly number[]): number[];
  /** The output of these hidden values. */
  project(hidden: readonly number[]): number[];
  /** The output's norm of the neurons start … end − 1 alone, without bias. */
  norm(hidden: readonly number[], start: number, end: number): number;
}

export const dot = (a: readonly number[], b: readonly number[]): number =>
  a.reduce((sum, value, i) => sum + value * (b[i] ?? Number.NaN), 0);

/** Reads an FFN's weights back; the weights' transposes, if some were made, are disposed. */
export function referenceFeedForward(weights: () => FeedForwardWeights): ReferenceFeedForward {
  const { up, upBias, gate, gateBias, down, downBias, activation } = tf.tidy(() => {
    const w = weights();
    return {
      up: w.up.arraySync(),
      gate: w.gate?.arraySync(),
      down: w.down.arraySync(),
      upBias: w.upBias?.arraySync(),
      gateBias: w.gateBias?.arraySync(),
      downBias: w.downBias?.arraySync(),
      activation: w.activation,
    };
  });
  const linear = (x: readonly number[], matrix: Matrix, bias?: number[]) =>
    matrix.map((row, i) => dot(row, x) + (bias?.[i] ?? 0));
  const activations = (x: readonly number[]) =>
    (gate ? linear(x, gate, gateBias) : linear(x, up, upBias)).map((value) =>
      referenceActivate(value, activation),
    );
  const sum = (hidden: readonly number[]) =>
    (down[0] ?? []).map((_, o) =>
      hidden.reduce((total, value, j) => total + value * (down[j]?.[o] ?? Number.NaN), 0),
    );
  return {
    activations,
    hidden: (x) => {
      const factors = gate ? linear(x, up, upBias) : undefined;
      return activations(x).map((value, j) => value * (factors?.[j] ?? 1));
    },
    project: (hidden) => sum(hidden).map((value, o) => value + (downBias?.[o] ?? 0)),
    norm: (hidden, start, end) =>
      Math.hypot(...sum(hidden.map((value, j) => (j >= start && j < end ? value : 0)))),
  };
}
