import * as tf from '@tensorflow/tfjs-core';
import type { TokenTerm } from './regularizer.js';

/** δ of the published runs that kept GELU (Szatkowski et al. 2024). */
export const defaultDisplacement = -10;

/**
 * A term of max(z, δ) − δ in place of z. The result is never negative, and the terms' derivatives are 0 where an
 * activation is 0, which is just where the clamp holds: they are the derivatives in z as they stand.
 */
export function displaced(
  term: (rows: tf.Tensor2D) => TokenTerm,
  displacement: number,
): (rows: tf.Tensor2D) => TokenTerm {
  return (rows) => term(tf.relu(tf.sub<tf.Tensor2D>(rows, displacement)));
}
