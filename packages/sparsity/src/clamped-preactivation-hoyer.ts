import type * as tf from '@tensorflow/tfjs-core';
import { defaultDisplacement, displaced } from './displacement.js';
import { meanOverTokens, type RegularizerOptions } from './regularizer.js';
import { hoyerRatio } from './square-hoyer.js';

/**
 * For models that keep GELU: square Hoyer (Kurtz et al. 2020) of the clamped pre-activations max(z, δ) − δ
 * (Szatkowski et al. 2024).
 *
 * @param preActivations [..., neurons]
 */
export function clampedPreactivationHoyer(
  preActivations: tf.Tensor,
  { mask, displacement = defaultDisplacement }: RegularizerOptions = {},
): tf.Scalar {
  return meanOverTokens(preActivations, mask, displaced(hoyerRatio, displacement));
}
