import * as tf from '@tensorflow/tfjs-core';
import { D2DMoEError } from '@d2dmoe/core';

/**
 * How far a model's predictions are from those of the dense model that it came from: the mean over rows of
 * KL(softmax(teacher) ‖ softmax(logits)) in nats (Hinton et al. 2015, at temperature 1). At least 0, and 0 where the two
 * agree. Differentiable in the logits, not in the teacher's.
 *
 * @param logits [..., classes]
 * @param teacher of the same shape, finite
 * @throws D2DMoEError `SPARSITY_SHAPE` where the shapes differ or there is no row.
 */
export function distillationLoss(logits: tf.Tensor, teacher: tf.Tensor): tf.Scalar {
  const classes = logits.shape.at(-1) ?? 0;
  if (logits.size === 0 || !tf.util.arraysEqual(logits.shape, teacher.shape)) {
    throw new D2DMoEError(
      'SPARSITY_SHAPE',
      `The logits have shape [${logits.shape.join(', ')}] and the teacher's [${teacher.shape.join(', ')}]; expected the same shape, with at least one row.`,
    );
  }
  const rows = logits.size / classes;
  const divergence = tf.customGrad<tf.Scalar>((...inputs) => {
    const [input, save] = inputs as unknown as [tf.Tensor, tf.GradSaveFunc];
    const student = softmaxRows(tf.reshape(input, [rows, classes]));
    const target = softmaxRows(tf.reshape(teacher, [rows, classes]));
    save([student.probabilities, target.probabilities]);
    const gap = tf.sub(target.logs, student.logs);
    return {
      value: tf.div<tf.Scalar>(tf.sum(tf.mul(target.probabilities, gap)), rows),
      gradFunc: (upstream: tf.Scalar, saved: tf.Tensor[]) => {
        const [p, q] = saved as [tf.Tensor2D, tf.Tensor2D];
        return tf.reshape(tf.mul(tf.sub(p, q), tf.div(upstream, rows)), logits.shape);
      },
    };
  });
  return divergence(logits);
}

/** Each row's softmax and its logarithm, which stays finite where the softmax is 0. */
function softmaxRows(logits: tf.Tensor2D): { probabilities: tf.Tensor2D; logs: tf.Tensor2D } {
  const shifted = tf.sub<tf.Tensor2D>(logits, tf.max(logits, 1, true));
  const exponentials = tf.exp(shifted);
  const total = tf.sum<tf.Tensor2D>(exponentials, 1, true);
  return {
    probabilities: tf.div(exponentials, total),
    logs: tf.sub(shifted, tf.log(total)),
  };
}
