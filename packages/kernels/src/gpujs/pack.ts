import { D2DMoEError } from '@d2dmoe/core';
import * as tf from '@tensorflow/tfjs-core';
import type { Tensor, Tensor2D } from '@tensorflow/tfjs-core';
import type { PackExpertsAttrs } from '../pack-experts.js';
import type { FeedForwardWeights } from '../types.js';

/** The weights of a gpu.js kernel: what {@link FeedForwardWeights} has of them, zeros for the biases that it lacks. */
export interface GpuJsWeights {
  /** [n, dIn, expertSize] */
  up: Tensor;
  /** [n, expertSize] */
  upBias: Tensor;
  /** [n, dIn, expertSize] */
  gate?: Tensor;
  /** [n, expertSize], where there is a gate. */
  gateBias?: Tensor;
  /** [n, expertSize, dOut] */
  down: Tensor;
  /** [dOut] */
  downBias: Tensor;
}

/**
 * Lays an FFN out for gpu.js. To be called in a tf.tidy.
 *
 * @param multiple what dIn, dOut and expertSize are filled up to a multiple of, with zeros
 *
 * @throws D2DMoEError `STORAGE_UNSUPPORTED` for any storage but float32
 */
export function packForGpuJs(
  weights: Omit<FeedForwardWeights, 'activation'>,
  { expertSize, storage }: PackExpertsAttrs,
  multiple = 1,
): GpuJsWeights {
  if (storage !== 'float32') {
    throw new D2DMoEError(
      'STORAGE_UNSUPPORTED',
      `The ${tf.getBackend()} backend with gpu.js has no packed experts in ${storage}: use float32.`,
    );
  }
  const { up, upBias, gate, gateBias, down, downBias } = weights;
  const [hidden, dIn] = up.shape;
  const experts = hidden / expertSize;
  const dOut = down.shape[1];
  const fill = <T extends Tensor>(tensor: T, axes: number[]): T => fillUp(tensor, axes, multiple);
  const columns = (matrix: Tensor2D) =>
    fill(tf.transpose(tf.reshape(matrix, [experts, expertSize, dIn]), [0, 2, 1]), [1, 2]);
  const bias = (vector: Tensor | undefined) =>
    fill(
      vector
        ? tf.reshape(tf.clone(vector), [experts, expertSize])
        : tf.zeros([experts, expertSize]),
      [1],
    );
  return {
    up: columns(up),
    upBias: bias(upBias),
    ...(gate && { gate: columns(gate), gateBias: bias(gateBias) }),
    down: fill(tf.reshape(tf.clone(down), [experts, expertSize, dOut]), [1, 2]),
    downBias: fill(downBias ? tf.clone(downBias) : tf.zeros([dOut]), [0]),
  };
}

/** Adds zeros at the end of some axes, up to a multiple of a number. */
export function fillUp<T extends Tensor>(tensor: T, axes: number[], multiple: number): T {
  const paddings = tensor.shape.map((size, axis): [number, number] => [
    0,
    axes.includes(axis) ? roundUp(size, multiple) - size : 0,
  ]);
  return paddings.some(([, after]) => after > 0) ? tf.pad(tensor, paddings) : tensor;
}

/** The least multiple of a number that is not below `size`. */
export function roundUp(size: number, multiple: number): number {
  return Math.ceil(size / multiple) * multiple;
}
