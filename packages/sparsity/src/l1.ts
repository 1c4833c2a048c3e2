import * as tf from '@tensorflow/tfjs-core';
import { meanOverTokens, type RegularizerOptions, type TokenTerm } from './regularizer.js';
import { sign } from './sign.js';

/** Σ|a| of each row [tokens, neurons]; the derivative at 0 is 0, as in PyTorch. */
export function absoluteSum(rows: tf.Tensor2D): TokenTerm {
  return {
    terms: tf.sum<tf.Tensor2D>(tf.abs(rows), 1, true),
    saved: [rows],
    gradient: ([a], weights) => tf.mul(sign(a as tf.Tensor), weights),
  };
}

/**
 * L1: the mean over tokens of Σ|a|, a = a token's activations (Szatkowski et al. 2024).
 *
 * @param activations [..., neurons]
 */
export function l1(activations: tf.Tensor, { mask }: RegularizerOptions = {}): tf.Scalar {
  return meanOverTokens(activations, mask, absoluteSum);
}
