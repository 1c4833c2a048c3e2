import { D2DMoEError } from '@d2dmoe/core';
import * as tf from '@tensorflow/tfjs-core';
import type { Tensor2D, Tensor3D } from '@tensorflow/tfjs-core';
import type { PackedExperts } from './types.js';

/**
 * Each expert's Gram matrix Gᵢ = downᵢ·downᵢᵀ, from which {@link contributionNorms} computes norms. Worth keeping while
 * many batches go through the same experts. The caller disposes it.
 *
 * @returns [n, e, e], e = expertSize.
 */
export function expertGrams(experts: PackedExperts): Tensor3D {
  return tf.tidy(() => {
    const down = downByExpert(experts);
    return tf.matMul(down, tf.transpose(down, [0, 2, 1]));
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
 * @param grams The experts' {@link expertGrams}, if they are at hand.
 * @returns [N, n]
 * @throws D2DMoEError `SHAPE_MISMATCH` if hidden does not fit the experts.
 */
export function contributionNorms(
  hidden: Tensor2D,
  experts: PackedExperts,
  grams?: Tensor3D,
): Tensor2D {
  const [rows, width] = hidden.shape;
  const { experts: count, expertSize } = experts;
  if (width !== count * expertSize) {
    throw new D2DMoEError(
      'SHAPE_MISMATCH',
      `The experts have ${count * expertSize} neurons, but hidden has shape [${hidden.shape.join(', ')}].`,
    );
  }
  if (rows === 0) return tf.zeros([0, count]);
  return tf.tidy(() => {
    // [n, N, e]
    const byExpert = tf.transpose<Tensor3D>(
      tf.reshape(hidden, [rows, count, expertSize]),
      [1, 0, 2],
    );
    const squares =
      expertSize > experts.down.shape[1]
        ? tf.square(tf.matMul(byExpert, downByExpert(experts)))
        : tf.mul(byExpert, tf.matMul(byExpert, grams ?? expertGrams(experts)));
    // Rounding may leave a sum that should be 0 just below it.
    return tf.transpose<Tensor2D>(tf.sqrt(tf.relu(tf.sum<Tensor2D>(squares, 2))));
  });
}

/** The rows of `down` by expert, [n, e, dOut]. */
function downByExpert({ down, experts, expertSize }: PackedExperts): Tensor3D {
  return tf.reshape(down, [experts, expertSize, down.shape[1]]);
}
