import * as tf from '@tensorflow/tfjs-core';

/**
 * How far a router is off, independent of the layer's scale: ‖predicted − targets‖ / ‖targets‖ over all tokens and
 * experts. 0 is perfect, 1 no better than predicting 0.
 *
 * @param predicted [N, n]
 * @param targets [N, n], not all 0.
 */
export function relativeError(predicted: tf.Tensor2D, targets: tf.Tensor2D): tf.Scalar {
  return tf.tidy(() => {
    const squaredError = tf.sum(tf.squaredDifference(predicted, targets));
    return tf.sqrt(tf.div<tf.Scalar>(squaredError, tf.sum(tf.square(targets))));
  });
}
