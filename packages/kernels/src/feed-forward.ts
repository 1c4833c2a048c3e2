import * as tf from '@tensorflow/tfjs-core';
import type { Tensor, Tensor2D } from '@tensorflow/tfjs-core';
import { activate } from './activation.js';
import { linear } from './training/linear.js';
import type { FeedForwardWeights } from './types.js';

/**
 * What an FFN's down projection is multiplied with: `act(up·x + upBias)`, or with a gate
 * `act(gate·x + gateBias) ⊙ (up·x + upBias)`. Differentiable.
 *
 * @param x [N, dIn]
 * @returns [N, hidden]
 */
export function hiddenActivations(x: Tensor2D, weights: FeedForwardWeights): Tensor2D {
  const { up, upBias, gate, gateBias, activation } = weights;
  return tf.tidy(() => {
    const projected = linear(x, up, upBias);
    if (!gate) return activate(projected, activation);
    return tf.mul(activate(linear(x, gate, gateBias), activation), projected);
  });
}

/** hidden·down + downBias: [N, hidden] to [N, dOut]. */
export function projectDown(hidden: Tensor2D, { down, downBias }: FeedForwardWeights): Tensor2D {
  return linear(hidden, down, downBias, { transposed: true });
}

/**
 * The dense FFN, every neuron of it. Differentiable.
 *
 * @param x [N, dIn]
 * @returns [N, dOut]
 */
export function feedForward(x: Tensor2D, weights: FeedForwardWeights): Tensor2D {
  return tf.tidy(() => projectDown(hiddenActivations(x, weights), weights));
}

/** An FFN's tensors alone, without keys for those that it lacks: tfjs's gradient tape trips over undefined inputs. */
export function weightTensors(
  weights: FeedForwardWeights,
): Omit<FeedForwardWeights, 'activation'> & Record<string, Tensor> {
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
