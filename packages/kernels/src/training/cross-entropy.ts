import * as tf from '@tensorflow/tfjs-core';
import { hasKernel, runKernel } from '../dispatch.js';

/**
 * Softmax cross-entropy of each row against a class number, with a gradient of two products instead of the dozen ops
 * that its composition records; fused where the backend has `SoftmaxCrossEntropy` kernels.
 *
 * @param logits [N, classes]
 * @param labels [N] int32; a row with label −1 gives loss 0 and gradient 0
 * @returns [N] nats
 */
export function softmaxCrossEntropy(logits: tf.Tensor2D, labels: tf.Tensor1D): tf.Tensor1D {
  const differentiable = hasKernel('SoftmaxCrossEntropy') ? fused : composed;
  const op = tf.customGrad((...inputs) => {
    const [logits, save] = inputs as unknown as [tf.Tensor2D, tf.GradSaveFunc];
    return differentiable(logits, labels, save);
  });
  return op(logits) as tf.Tensor1D;
}

interface Differentiable {
  value: tf.Tensor;
  gradFunc: (dy: tf.Tensor, saved: tf.Tensor[]) => tf.Tensor;
}

/** Of the forward pass the gradient needs one number a row, the logarithm of the sum of exponentials. */
function fused(logits: tf.Tensor2D, labels: tf.Tensor1D, save: tf.GradSaveFunc): Differentiable {
  const outputs = runKernel('SoftmaxCrossEntropy', { logits, labels }, {});
  const [loss, logSum] = outputs as [tf.Tensor, tf.Tensor];
  save([logits, labels, logSum]);
  return {
    value: loss,
    gradFunc: (dy, saved) => {
      const [logits, labels, logSum] = saved as [tf.Tensor, tf.Tensor, tf.Tensor];
      return runKernel('SoftmaxCrossEntropyGrad', { logits, labels, logSum, dy }, {}) as tf.Tensor;
    },
  };
}

function composed(logits: tf.Tensor2D, labels: tf.Tensor1D, save: tf.GradSaveFunc): Differentiable {
  const classes = logits.shape[1];
  // A label of −1 has a one-hot row of zeros, which is also its weight.
  const target = tf.cast(tf.oneHot(labels, classes), 'float32');
  const weight = tf.sum(target, -1, true);
  const max = tf.max(logits, -1, true);
  const exponentials = tf.exp(tf.sub(logits, max));
  const total = tf.sum(exponentials, -1, true);
  const picked = tf.sum(tf.mul(tf.sub(logits, max), target), -1, true);
  const loss = tf.mul(tf.sub(tf.log(total), picked), weight);
  save([exponentials, tf.div(weight, total), target]);
  return {
    value: tf.reshape(loss, [-1]),
    gradFunc: (dy, saved) => {
      const [exponentials, scale, target] = saved as [tf.Tensor, tf.Tensor, tf.Tensor];
      return tf.mul(tf.sub(tf.mul(exponentials, scale), target), tf.reshape(dy, [-1, 1]));
    },
  };
}
