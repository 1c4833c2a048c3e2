import * as tf from '@tensorflow/tfjs-core';
import { D2DMoEError } from '@d2dmoe/core';

/**
 * The hidden activations of an FFN with those of experts that are not selected set to 0, as training through a selection
 * needs them: what a down projection makes of the result is the selected experts' sum. Differentiable in the activations;
 * the selection is a constant.
 *
 * @param hidden [N, n·e], in the experts' order
 * @param selection bool [N, n], from `selectExperts`
 * @returns [N, n·e]
 * @throws D2DMoEError `SHAPE_MISMATCH` where the selection does not fit the activations
 */
export function maskExperts(hidden: tf.Tensor2D, selection: tf.Tensor2D): tf.Tensor2D {
  const [rows, width] = hidden.shape;
  const [selected, experts] = selection.shape;
  const size = width / experts;
  if (selected !== rows || !Number.isInteger(size)) {
    throw new D2DMoEError(
      'SHAPE_MISMATCH',
      `A selection of shape [${selection.shape.join(', ')}] does not fit activations of shape [${hidden.shape.join(', ')}]: both need the same rows, and the experts must divide the neurons.`,
    );
  }
  const masked = (values: tf.Tensor, mask: tf.Tensor) =>
    tf.reshape<tf.Rank.R2>(tf.mul(tf.reshape(values, [rows, experts, size]), mask), [rows, width]);
  const mask = tf.customGrad<tf.Tensor2D>((...inputs) => {
    const [values, save] = inputs as unknown as [tf.Tensor2D, tf.GradSaveFunc];
    const ones = tf.reshape(tf.cast(selection, 'float32'), [rows, experts, 1]);
    save([ones]);
    return {
      value: masked(values, ones),
      gradFunc: (dy: tf.Tensor, saved: tf.Tensor[]) => masked(dy, saved[0] as tf.Tensor),
    };
  });
  return mask(hidden);
}
