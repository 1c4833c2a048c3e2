import { D2DMoEError } from '@d2dmoe/core';
import * as tf from '@tensorflow/tfjs-core';

/** What a regularizer may be told beside the values. */
export interface RegularizerOptions {
  /** One number per token, in any shape with as many elements as there are tokens: 1 counts, 0 (padding) does not. */
  mask?: tf.Tensor;
  /** Displacement δ, read by the clamped pre-activation terms alone; −10 unless told otherwise. */
  displacement?: number;
}

/**
 * A sparsity term over one layer: values [..., neurons], of rank 2 or more, whose leading axes are tokens, to the
 * scalar mean over the tokens. Differentiable in the values, not in the mask. A mask that counts no token gives 0.
 *
 * @throws D2DMoEError `SPARSITY_SHAPE` where the values have no token axis or the mask does not fit them.
 */
export type Regularizer = (values: tf.Tensor, options?: RegularizerOptions) => tf.Scalar;

/** Each token's term and its derivative, written by hand: on tfjs's wasm backend autodiff takes three times as long. */
export interface TokenTerm {
  /** [tokens, 1], each token's term. */
  terms: tf.Tensor2D;
  /** What `gradient` reads; kept alive for the backward pass. */
  saved: tf.Tensor[];
  /** From `saved` and each token's weight [tokens, 1] to the derivative of the weighted sum of terms [tokens, neurons]. */
  gradient: (saved: tf.Tensor[], weights: tf.Tensor2D) => tf.Tensor;
}

/** Views values as rows [tokens, neurons], and a mask as counts [tokens, 1]: ones where there is no mask. */
export function tokenRows(
  values: tf.Tensor,
  mask: tf.Tensor | undefined,
): { rows: tf.Tensor2D; counts: tf.Tensor2D } {
  const neurons = values.shape.at(-1);
  if (values.rank < 2 || neurons === undefined || values.size === 0) {
    throw new D2DMoEError(
      'SPARSITY_SHAPE',
      `Activations have shape [${values.shape.join(', ')}]; expected [..., neurons] with at least one token axis and no empty axis.`,
    );
  }
  const tokens = values.size / neurons;
  if (mask !== undefined && mask.size !== tokens) {
    throw new D2DMoEError(
      'SPARSITY_SHAPE',
      `The token mask has ${mask.size} elements; expected ${tokens}, one for each token of activations [${values.shape.join(', ')}].`,
    );
  }
  return {
    rows: tf.reshape(values, [tokens, neurons]),
    counts: mask ? tf.reshape(tf.cast(mask, 'float32'), [tokens, 1]) : tf.ones([tokens, 1]),
  };
}

/** The mean over the counted tokens of a term, as one differentiable operation. */
export function meanOverTokens(
  values: tf.Tensor,
  mask: tf.Tensor | undefined,
  term: (rows: tf.Tensor2D) => TokenTerm,
): tf.Scalar {
  const mean = tf.customGrad<tf.Scalar>((...inputs) => {
    const [input, save] = inputs as unknown as [tf.Tensor, tf.GradSaveFunc];
    const { rows, counts } = tokenRows(input, mask);
    const weights = tf.div<tf.Tensor2D>(counts, tf.maximum(tf.sum(counts), 1));
    const { terms, saved, gradient } = term(rows);
    save([weights, ...saved]);
    return {
      value: tf.sum<tf.Scalar>(tf.mul(terms, weights)),
      gradFunc: (upstream: tf.Scalar, kept: tf.Tensor[]) => {
        const [keptWeights, ...keptSaved] = kept as [tf.Tensor2D, ...tf.Tensor[]];
        const scaled = tf.mul<tf.Tensor2D>(keptWeights, upstream);
        return tf.reshape(gradient(keptSaved, scaled), values.shape);
      },
    };
  });
  return mean(values);
}
