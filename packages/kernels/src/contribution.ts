import { D2DMoEError } from '@d2dmoe/core';
import * as tf from '@tensorflow/tfjs-core';
import type { Tensor2D, Tensor3D } from '@tensorflow/tfjs-core';

/**
 * Each expert's Gram matrix Gᵢ = downᵢ·downᵢᵀ, from which {@link contributionNorms} computes norms. Worth keeping while
 * many batches go through the same experts. The caller disposes it.
 *
 * @param down [hidden, dOut], neuron-major
 * @returns [n, e, e], e = expertSize.
 */
export function expertGrams(down: Tensor2D, expertSize: number): Tensor3D {
  return tf.tidy(() => {
    const experts = byExpert(down, expertSize);
    return tf.matMul(experts, tf.transpose(experts, [0, 2, 1]));
  });
}

/**
 * The L2 norm of each expert's own output ‖downᵢᵀ·hiddenᵢ‖, downBias left out: what a router is trained to predict
 * (Szatkowski et al. 2024, section 3.3). With a = hiddenᵢ the squared norm is aᵀGᵢa, which takes N·hidden·expertSize
 * multiply-adds where the outputs themselves take N·hidden·dOut; experts larger than dOut go through their outputs.
 * A norm that is small because an expert's neurons cancel each other is known to about 3e-4 of what they would give
 * without cancelling, the square root of float32's precision.
 *
 * @param hidden [N, hidden], from {@link hiddenActivations}.
 * @param down [hidden, dOut], neuron-major
 * @param grams The experts' {@link expertGrams}, if they are at hand.
 * @returns [N, n]
 * @throws D2DMoEError `SHAPE_MISMATCH` if hidden does not fit the experts.
 */
export function contributionNorms(
  hidden: Tensor2D,
  down: Tensor2D,
  expertSize: number,
  grams?: Tensor3D,
): Tensor2D {
  const [rows, width] = hidden.shape;
  const [neurons, dOut] = down.shape;
  const count = neurons / expertSize;
  if (width !== neurons) {
    throw new D2DMoEError(
      'SHAPE_MISMATCH',
      `The experts have ${neurons} neurons, but hidden has shape [${hidden.shape.join(', ')}].`,
    );
  }
  if (rows === 0) return tf.zeros([0, count]);
  return tf.tidy(() => {
    // [n, N, e]
    const activations = tf.transpose<Tensor3D>(
      tf.reshape(hidden, [rows, count, expertSize]),
      [1, 0, 2],
    );
    const squares =
      expertSize > dOut
        ? tf.square(tf.matMul(activations, byExpert(down, expertSize)))
        : tf.mul(activations, tf.matMul(activations, grams ?? expertGrams(down, expertSize)));
    // Rounding may leave a sum that should be 0 just below it.
    return tf.transpose<Tensor2D>(tf.sqrt(tf.relu(tf.sum<Tensor2D>(squares, 2))));
  });
}

/** The rows of `down` by expert, [n, e, dOut]. */
function byExpert(down: Tensor2D, expertSize: number): Tensor3D {
  const [neurons, dOut] = down.shape;
  return tf.reshape(down, [neurons / expertSize, expertSize, dOut]);
}
