import { D2DMoEError } from '@d2dmoe/core';
import * as tf from '@tensorflow/tfjs-core';
import type { Tensor, Tensor2D } from '@tensorflow/tfjs-core';
import { hasKernel, runKernel } from './dispatch.js';
import { hiddenActivations, projectDown } from './feed-forward.js';
import { PackExperts } from './pack-experts.js';
import type { Activation, ExpertStorage, FeedForwardWeights, PackedExperts } from './types.js';

/**
 * The tfjs kernel that a backend registers to execute selected experts only. Inputs: {@link DynamicKExpertsInputs};
 * attributes: {@link DynamicKExpertsAttrs}; output: float32 [N, dOut].
 */
export const DynamicKExperts = 'DynamicKExperts';

/**
 * Inputs of the {@link DynamicKExperts} kernel: x, the selection, and the packed experts' tensors. These are what the
 * backend's PackExperts kernel made, `packed0`, `packed1`, …, or for a backend without one those of
 * {@link FeedForwardWeights}, absent where the FFN has none.
 */
export type DynamicKExpertsInputs = {
  /** [N, dIn] */
  x: Tensor2D;
  /** bool [N, n], or what the backend's own SelectExperts kernel made. */
  selection: Tensor2D;
} & Readonly<Record<string, Tensor>>;

/** Attributes of the {@link DynamicKExperts} kernel. */
export type DynamicKExpertsAttrs = {
  activation: Activation;
  /** Neurons per expert. */
  expertSize: number;
  dOut: number;
  storage: ExpertStorage;
  /** Share of (token, expert) pairs that the caller expects to be selected, in [0, 1]; absent if unknown. */
  expectedDensity?: number;
};

/**
 * The FFN with only each token's selected experts: their unweighted sum plus downBias once (Szatkowski et al. 2024,
 * section 3.4). Runs the backend's {@link DynamicKExperts} kernel where there is one. Elsewhere it is composed of tfjs
 * ops as a masked dense FFN, correct everywhere and no cheaper than dense; in that form it is differentiable with
 * respect to x and the weights. Nothing is read back to the host.
 *
 * @param x [N, dIn]; N may be 0.
 * @param selection bool [N, n], from {@link selectExperts} on the same backend.
 * @param options.expectedDensity Share of (token, expert) pairs that will be selected, in [0, 1]: a hint by which a
 *   kernel may size its work and choose how it adds up. The result depends on it by rounding at most.
 * @returns [N, dOut]
 * @throws D2DMoEError `SHAPE_MISMATCH` if x or selection do not fit the experts, `BACKEND_MISMATCH` if they were packed
 *   in the layout of a backend that is not the current one.
 */
export function dynamicKExperts(
  x: Tensor2D,
  selection: Tensor2D,
  experts: PackedExperts,
  options: { expectedDensity?: number } = {},
): Tensor2D {
  checkShapes(x, selection, experts);
  const { activation, expertSize, dOut, storage, backend, tensors } = experts;
  if (backend !== undefined && backend !== tf.getBackend()) {
    throw new D2DMoEError(
      'BACKEND_MISMATCH',
      `The experts were packed for the ${backend} backend, but the current one is ${tf.getBackend()}: pack them again.`,
    );
  }
  // A kernel with a layout of its own cannot read weights that were packed before it was registered.
  if (backend !== undefined || (hasKernel(DynamicKExperts) && !hasKernel(PackExperts))) {
    const inputs: DynamicKExpertsInputs = { x, selection, ...tensors };
    const attrs: DynamicKExpertsAttrs = { activation, expertSize, dOut, storage, ...options };
    return runKernel(DynamicKExperts, inputs, attrs) as Tensor2D;
  }
  return maskedDense(x, selection, experts);
}

function maskedDense(x: Tensor2D, selection: Tensor2D, experts: PackedExperts): Tensor2D {
  const [rows] = x.shape;
  const { experts: count, expertSize, activation, tensors } = experts;
  const weights = { ...tensors, activation } as unknown as FeedForwardWeights;
  return tf.tidy(() => {
    const hidden = tf.reshape(hiddenActivations(x, weights), [rows, count, expertSize]);
    const mask = tf.reshape(tf.cast(selection, 'float32'), [rows, count, 1]);
    const executed = tf.reshape<tf.Rank.R2>(tf.mul(hidden, mask), [rows, count * expertSize]);
    return projectDown(executed, weights);
  });
}

function checkShapes(x: Tensor2D, selection: Tensor2D, experts: PackedExperts): void {
  const [rows, dIn] = x.shape;
  const expectedIn = experts.dIn;
  if (dIn !== expectedIn) {
    throw new D2DMoEError(
      'SHAPE_MISMATCH',
      `The experts take rows of ${expectedIn} numbers, but x has shape [${x.shape.join(', ')}].`,
    );
  }
  if (selection.shape[0] !== rows || selection.shape[1] !== experts.experts) {
    throw new D2DMoEError(
      'SHAPE_MISMATCH',
      `The selection must have shape [${rows}, ${experts.experts}] for these rows and experts, not [${selection.shape.join(', ')}].`,
    );
  }
}
