import type { RouterWeights } from '@d2dmoe/kernels';
import * as tf from '@tensorflow/tfjs-core';

/**
 * The loss that routers are trained by (Szatkowski et al. 2024, section 3.3): mean squared error over tokens and
 * experts.
 *
 * @param predicted [N, n], the router's forecast of the norm of each expert's output.
 * @param targets [N, n], those norms.
 * @param weights [N], how much each token counts, e.g. 0 for padding; a batch of weights 0 gives 0.
 */
export function normRegressionLoss(
  predicted: tf.Tensor2D,
  targets: tf.Tensor2D,
  weights?: tf.Tensor1D,
): tf.Scalar {
  return tf.tidy(() => {
    const squares = tf.squaredDifference(predicted, targets);
    if (weights === undefined) return tf.mean<tf.Scalar>(squares);
    const total = tf.sum(tf.mul(tf.mean(squares, 1), weights));
    return tf.divNoNan<tf.Scalar>(total, tf.sum(weights));
  });
}

/** A router's loss on a batch, and its derivatives in the router's weights. */
export interface RouterGradients {
  /** The mean squared error over tokens and experts. */
  loss: tf.Scalar;
  /** [width, dIn] */
  hidden: tf.Tensor2D;
  /** [experts, width] */
  output: tf.Tensor2D;
}

/**
 * {@link normRegressionLoss} of `predictNorms(input, router)` and its gradient, written out: five matrix products, and
 * no tape. The caller disposes the three tensors.
 *
 * @param input [N, dIn]
 * @param targets [N, n]
 */
export function normRegressionGradients(
  input: tf.Tensor2D,
  targets: tf.Tensor2D,
  router: RouterWeights,
): RouterGradients {
  return tf.tidy(() => {
    const hidden = tf.relu(tf.matMul(input, router.hidden, false, true));
    const signed = tf.matMul(hidden, router.output, false, true);
    const difference = tf.sub(tf.abs(signed), targets);
    const dSigned = tf.mul<tf.Tensor2D>(
      tf.mul(difference, tf.step(signed, -1)),
      2 / difference.size,
    );
    const dHidden = tf.mul<tf.Tensor2D>(tf.matMul(dSigned, router.output), tf.step(hidden));
    return {
      loss: tf.mean<tf.Scalar>(tf.square(difference)),
      hidden: tf.matMul<tf.Tensor2D>(dHidden, input, true, false),
      output: tf.matMul<tf.Tensor2D>(dSigned, hidden, true, false),
    };
  });
}
