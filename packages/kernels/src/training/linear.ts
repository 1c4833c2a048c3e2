import * as tf from '@tensorflow/tfjs-core';
import { hasKernel, runKernel } from '../dispatch.js';

interface LinearAttributes {
  transposed: boolean;
}

function forward(
  x: tf.Tensor2D,
  weight: tf.Tensor2D,
  bias: tf.Tensor1D | undefined,
  attributes: LinearAttributes,
): tf.Tensor {
  if (hasKernel('Linear')) {
    const inputs = bias ? { x, weight, bias } : { x, weight };
    return runKernel('Linear', inputs, attributes) as tf.Tensor;
  }
  const product = tf.matMul(x, weight, false, !attributes.transposed);
  // tfjs 4.22's own fused product on wasm is wrong with transposeB and a bias.
  return bias ? tf.add(product, bias) : product;
}

/** The gradients of x and weight, and with `bias` that of a bias. */
function backward(
  x: tf.Tensor2D,
  weight: tf.Tensor2D,
  dy: tf.Tensor2D,
  { transposed, bias }: LinearAttributes & { bias: boolean },
): tf.Tensor[] {
  if (hasKernel('LinearGrad')) {
    return runKernel('LinearGrad', { x, weight, dy }, { transposed, bias }) as tf.Tensor[];
  }
  const products = [
    tf.matMul(dy, weight, false, transposed),
    transposed ? tf.matMul(x, dy, true, false) : tf.matMul(dy, x, true, false),
  ];
  if (!bias) return products;
  return [...products, tf.reshape(tf.matMul(tf.ones([1, dy.shape[0]]), dy), [dy.shape[1]])];
}

/**
 * x · weightᵀ + bias, the layer that PyTorch calls Linear, with its gradient; fused where the backend has `Linear` and
 * `LinearGrad` kernels.
 *
 * Elsewhere the gradient of the bias is a product with a row of ones: the sum over the leading axis, without the
 * transposition that tfjs's reductions make of it.
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
  // Two plain gradients, of which tfjs computes those that are asked for.
  if (bias === undefined && !hasKernel('Linear')) return tf.matMul(x, weight, false, !transposed);
  const op = tf.customGrad((...inputs) => {
    const save = inputs.pop() as unknown as tf.GradSaveFunc;
    const [x, weight, bias] = inputs as unknown as [tf.Tensor2D, tf.Tensor2D, tf.Tensor1D?];
    save([x, weight]);
    return {
      value: forward(x, weight, bias, { transposed }),
      gradFunc: (dy: tf.Tensor, saved: tf.Tensor[]) => {
        const [x, weight] = saved as [tf.Tensor2D, tf.Tensor2D];
        return backward(x, weight, dy as tf.Tensor2D, { transposed, bias: bias !== undefined });
      },
    };
  });
  return (bias ? op(x, weight, bias) : op(x, weight)) as tf.Tensor2D;
}
