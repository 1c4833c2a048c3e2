import * as tf from '@tensorflow/tfjs-core';
import { hasKernel, runKernel } from '../dispatch.js';

/**
 * The factor min(1, maxNorm / (‖g‖ + 1e-12)) that clips gradients by their common norm (Pascanu et al. 2013), for
 * `Adam.step` to multiply them with; nothing is read back to the host.
 *
 * @param gradients at least one; ‖g‖ is the L2 norm of all their elements together
 */
export function clippingScale(gradients: readonly tf.Tensor[], maxNorm: number): tf.Scalar {
  if (hasKernel('ClippingScale')) {
    const inputs = gradients as unknown as Record<string, tf.Tensor>;
    return runKernel('ClippingScale', inputs, { maxNorm }) as tf.Scalar;
  }
  return tf.tidy(() => {
    const squares = gradients.map((gradient) => {
      const row = tf.reshape<tf.Rank.R2>(gradient, [1, gradient.size]);
      return tf.reshape(tf.matMul(row, row, false, true), []);
    });
    const norm = tf.sqrt(tf.addN(squares));
    return tf.minimum(tf.div(maxNorm, tf.add(norm, 1e-12)), 1);
  });
}
