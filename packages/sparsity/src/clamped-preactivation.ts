import type * as tf from '@tensorflow/tfjs-core';
import { defaultDisplacement, displaced } from './displacement.js';
import { absoluteSum } from './l1.js';
import { meanOverTokens, type RegularizerOptions } from './regularizer.js';

/**
 * For models that keep GELU: the mean over tokens of Σ(max(z, δ) − δ), z = a token's pre-activations
 * (Szatkowski et al. 2024). It pushes pre-activations down to δ, where GELU is as good as zero.
 *
 * @param preActivations [..., neurons]
 */
export function clampedPreactivation(
  preActivations: tf.Tensor,
  { mask, displacement = defaultDisplacement }: RegularizerOptions = {},
): tf.Scalar {
  return meanOverTokens(preActivations, mask, displaced(absoluteSum, displacement));
}
