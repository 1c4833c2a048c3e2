import { D2DMoEError } from '@d2dmoe/core';
import * as tf from '@tensorflow/tfjs-core';
import type { Tensor1D, Tensor2D } from '@tensorflow/tfjs-core';
import { hasKernel, runKernel } from './dispatch.js';
import { hiddenActivations, projectDown } from './feed-forward.js';
import type { Activation, FeedForwardWeights, PackedExperts } from './types.js';

/**
 * The tfjs kernel that a backend registers to execute selected experts only. Inputs: {@link DynamicKExpertsInputs};
 * attributes: {@link DynamicKExpertsAttrs}; output: float32 [N, dOut].
 */
export const DynamicKExperts = 'DynamicKExperts';

/** Inputs of the {@link DynamicKExperts} kernel; the optional ones are absent where the FFN has none. */
export type DynamicKExpertsInputs = {
  /** [N, dIn] */
  x: Tensor2D;
  /** bool [N, n], or what the backend's own SelectExperts kernel made. */
  selection: Tensor2D;
  /** [hidden, dIn] */
  up: Tensor2D;
  /** [hidden, dOut] */
  down: Tensor2D;
  /** [hidden] */
  upBias?: Tensor1D;
  /** [hidden, dIn] */
  gate?: Tensor2D;
  /** [hidden] */
  gateBias?: Tensor1D;
  /** [dOut] */
  downBias?: Tensor1D;
};

/** Attributes of the {@link DynamicKExperts} kernel. */
export type DynamicKExpertsAttrs = {
  activation: Activation;
  /** Neurons per expert. */
  expertSize: number;
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
 *   kernel may size its work. The result does not depend on it.
 * @returns [N, dOut]
 * @throws D2DMoEError `SHAPE_MISMATCH` if x or selection do not fit the experts.
 */
export function dynamicKExperts(
  x: Tensor2D,
  selection: Tensor2D,
  experts: PackedExperts,
  options: { expectedDensity?: number } = {},
): Tensor2D {
  checkShapes(x, selection, experts);
  if (hasKernel(DynamicKExperts)) {
    const inputs: DynamicKExpertsInputs = { x, selection, ...weightTensors(experts) };
    const attrs: DynamicKExpertsAttrs = {
      activation: experts.activation,
      expertSize: experts.expertSize,
      ...options,
    };
    return runKernel(DynamicKExperts, inputs, attrs) as Tensor2D;
  }
  return maskedDense(x, selection, experts);
}

function maskedDense(x: Tensor2D, selection: Tensor2D, experts: PackedExperts): Tensor2D {
  const [rows] = x.shape;
  const { experts: count, expertSize } = experts;
  return tf.tidy(() => {
    const hidden = tf.reshape(hiddenActivations(x, experts), [rows, count, expertSize]);
    const mask = tf.reshape(tf.cast(selection, 'float32'), [rows, count, 1]);
    const executed = tf.reshape<tf.Rank.R2>(tf.mul(hidden, mask), [rows, count * expertSize]);
    return projectDown(executed, experts);
  });
}

/** The FFN's tensors alone, without keys for those that it lacks: tfjs's gradient tape trips over undefined inputs. */
function weightTensors(
  weights: FeedForwardWeights,
): Omit<DynamicKExpertsInputs, 'x' | 'selection'> {
  const { up, down, upBias, gate, gateBias, downBias } = weights;
  return {
    up,
    down,
    ...(upBias && { upBias }),
    ...(gate && { gate }),
    ...(gateBias && { gateBias }),
    ...(downBias && { downBias }),
  };
}

function checkShapes(x: Tensor2D, selection: Tensor2D, experts: PackedExperts): void {
  const [rows, dIn] = x.shape;
  const expectedIn = experts.up.shape[1];
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
