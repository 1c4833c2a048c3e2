import { linear } from '@d2dmoe/kernels';
import * as tf from '@tensorflow/tfjs-core';
import type { TrainableReplacement } from './replacement.js';

/** A sparsity term over activations [N, hidden], such as `regularizers.squareHoyer.term` of `@d2dmoe/sparsity`. */
export type SparsityTerm = (activations: tf.Tensor2D) => tf.Scalar;

/** Outputs that vary less have nothing left to imitate. */
const smallestVariance = 1e-12;

/**
 * How far a replacement is off: mean squared error over the mean variance of the targets' columns. 0 is perfect, 1 what
 * their mean alone would give, whatever the projection's scale.
 *
 * @param outputs [N, dOut]
 * @param targets [N, dOut], the projection's own outputs.
 */
export function imitationError(outputs: tf.Tensor2D, targets: tf.Tensor2D): tf.Scalar {
  return tf.tidy(() =>
    tf.div<tf.Scalar>(tf.mean(tf.squaredDifference(outputs, targets)), meanVariance(targets)),
  );
}

/** A replacement's two parts of the loss on a batch, and the derivatives of error + alpha · sparsity in its weights. */
export type ImitationGradients = {
  /** {@link imitationError} */
  error: tf.Scalar;
  /** The sparsity term of its activations, where there is one. */
  sparsity?: tf.Scalar;
  /** [hidden, dIn] */
  up: tf.Tensor2D;
  /** [hidden] */
  upBias: tf.Tensor1D;
  /** [hidden, dOut] */
  down: tf.Tensor2D;
  /** [dOut] */
  downBias: tf.Tensor1D;
};

/**
 * {@link imitationError} plus alpha times a sparsity term of the activations, with its gradient in the replacement's
 * weights (Szatkowski et al. 2024, section 3.5), written out: six matrix products, and a tape for the term alone, for
 * which tfjs's gradients must be registered. The caller disposes the tensors.
 *
 * @param input [N, dIn]
 * @param target [N, dOut]
 */
export function imitationGradients(
  input: tf.Tensor2D,
  target: tf.Tensor2D,
  { up, upBias, down, downBias }: TrainableReplacement,
  sparsity?: { term: SparsityTerm; alpha: number },
): ImitationGradients {
  return tf.tidy<ImitationGradients>(() => {
    const activations = tf.relu(linear(input, up, upBias));
    const outputs = linear(activations, down, downBias, { transposed: true });
    const variance = meanVariance(target);
    const difference = tf.sub<tf.Tensor2D>(outputs, target);
    const dOutputs = tf.mul<tf.Tensor2D>(difference, tf.div(2 / difference.size, variance));
    const dError = tf.matMul<tf.Tensor2D>(dOutputs, down, false, true);
    const term = sparsity && withGradient(activations, sparsity);
    const dActivations = term?.gradient ? tf.add(dError, term.gradient) : dError;
    const dHidden = tf.mul<tf.Tensor2D>(dActivations, tf.step(activations));
    return {
      error: tf.div<tf.Scalar>(tf.mean(tf.square(difference)), variance),
      ...(term && { sparsity: term.value }),
      up: tf.matMul<tf.Tensor2D>(dHidden, input, true, false),
      upBias: columnSums(dHidden),
      down: tf.matMul<tf.Tensor2D>(activations, dOutputs, true, false),
      downBias: columnSums(dOutputs),
    };
  });
}

/** A sparsity term, and alpha times its gradient where alpha is not 0. */
function withGradient(
  activations: tf.Tensor2D,
  { term, alpha }: { term: SparsityTerm; alpha: number },
): { value: tf.Scalar; gradient?: tf.Tensor2D } {
  if (alpha === 0) return { value: term(activations) };
  const { value, grad } = tf.valueAndGrad((a: tf.Tensor2D) => term(a))(activations);
  return { value: value, gradient: tf.mul<tf.Tensor2D>(grad, alpha) };
}

/** The sum over rows, as a product: tfjs's own would transpose first. */
function columnSums(x: tf.Tensor2D): tf.Tensor1D {
  return tf.reshape(tf.matMul(tf.ones([1, x.shape[0]]), x), [x.shape[1]]);
}

/** The variance of each column, mean over the columns. */
function meanVariance(targets: tf.Tensor2D): tf.Scalar {
  const [rows] = targets.shape;
  const means = tf.mul<tf.Tensor2D>(tf.matMul(tf.ones([1, rows]), targets), 1 / rows);
  const variance = tf.mean<tf.Scalar>(tf.square(tf.sub(targets, means)));
  return tf.maximum(variance, smallestVariance);
}
