import * as tf from '@tensorflow/tfjs-core';
import type { Tensor2D } from '@tensorflow/tfjs-core';
import { linear } from './training/linear.js';
import type { RouterWeights } from './types.js';

/**
 * The router's forecast of the norm of each expert's output, |output · relu(hidden · x)| (Szatkowski et al. 2024,
 * section 3.3). Differentiable.
 *
 * @param x The layer's inputs, [N, dIn].
 * @returns [N, n], at least 0.
 */
export function predictNorms(x: Tensor2D, router: RouterWeights): Tensor2D {
  return tf.tidy(() => tf.abs(linear(tf.relu(linear(x, router.hidden)), router.output)));
}
