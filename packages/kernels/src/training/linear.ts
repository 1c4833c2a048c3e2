import * as tf from '@tensorflow/tfjs-core';

/**
 * x · weightᵀ + bias, the layer that PyTorch calls Linear.
 *
 * The gradient of the bias is a product with a row of ones: the sum over the leading axis, without the transposition
 * that tfjs's reductions make of it.
 *
 * @param x [N, dIn]
 * @param weight [dOut, dIn], or [dIn, dOut] with `transposed` (what GPT-2's checkpoints call Conv1D)
 * @param bias [dOut]
 * @returns [N, dOut]
 */
export function linear(
  x: tf.Tensor2D,
  weight: tf.Tensor2D,
  bias?: tf.Tensor1D,
  { transposed = false }: { transposed?: boolean } = {},
): tf.Tensor2D {
  if (bias === undefined) return tf.matMul(x, weight, false, !transposed);
  const op = tf.customGrad((...inputs) => {
    const [x, weight, bias, save] = inputs as unknown as [
      tf.Tensor2D,
      tf.Tensor2D,
      tf.Tensor1D,
      tf.GradSaveFunc,
    ];
    save([x, weight]);
    return {
      // tfjs 4.22's own fused product on wasm is wrong with transposeB and a bias.
      value: tf.add(tf.matMul(x, weight, false, !transposed), bias),
      gradFunc: (dy: tf.Tensor, saved: tf.Tensor[]) => {
        const [x, weight] = saved as [tf.Tensor2D, tf.Tensor2D];
        const d = dy as tf.Tensor2D;
        return [
          tf.matMul(d, weight, false, transposed),
          transposed ? tf.matMul(x, d, true, false) : tf.matMul(d, x, true, false),
          tf.reshape(tf.matMul(tf.ones([1, d.shape[0]]), d), [d.shape[1]]),
        ];
      },
    };
  });
  return op(x, weight, bias) as tf.Tensor2D;
}
