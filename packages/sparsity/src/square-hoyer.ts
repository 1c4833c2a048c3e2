import * as tf from '@tensorflow/tfjs-core';
import { meanOverTokens, type RegularizerOptions, type TokenTerm } from './regularizer.js';
import { sign } from './sign.js';

/** Keeps a token without activity at 0 instead of 0/0. */
const epsilon = 1e-15;

/** ‖a‖₁² / (‖a‖₂² + 1e-15) of each row [tokens, neurons]. */
export function hoyerRatio(rows: tf.Tensor2D): TokenTerm {
  const l1Norms = tf.sum<tf.Tensor2D>(tf.abs(rows), 1, true);
  // r = ‖a‖₁ / (‖a‖₂² + ε) serves both passes: the term is r·‖a‖₁, its derivative 2r·sign(a) − 2r²·a.
  const ratios = tf.div(l1Norms, tf.add(tf.sum(tf.square(rows), 1, true), epsilon));
  return {
    terms: tf.mul(ratios, l1Norms),
    saved: [rows, ratios],
    gradient: (saved, weights) => {
      const [a, r] = saved as [tf.Tensor2D, tf.Tensor2D];
      const slope = tf.mul(tf.mul(r, weights), 2);
      return tf.sub(tf.mul(sign(a), slope), tf.mul(a, tf.mul(slope, r)));
    },
  };
}

/**
 * Square Hoyer (Kurtz et al. 2020): the mean over tokens of `‖a‖₁² / (‖a‖₂² + 1e-15)`, a = a token's activations.
 * It lies between 1 (one neuron active) and the number of neurons (all equally active), whatever the activations'
 * scale; a token without activity has 0, and derivative 0.
 *
 * @param activations [..., neurons]
 */
export function squareHoyer(activations: tf.Tensor, { mask }: RegularizerOptions = {}): tf.Scalar {
  return meanOverTokens(activations, mask, hoyerRatio);
}
