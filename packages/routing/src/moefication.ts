import { D2DMoEError } from '@d2dmoe/core';
import type { RouterWeights } from '@d2dmoe/kernels';
import * as tf from '@tensorflow/tfjs-core';
import type { RouterGradients } from './norm-regression.js';

/**
 * What MoEfication's routers learn (Zhang et al. 2022): each expert's summed positive activations, divided by the
 * greatest such sum of the whole batch.
 *
 * @param hidden [N, n·expertSize], the activations of the neurons in the experts' order.
 * @returns [N, n] in [0, 1]; zeros where no neuron is positive.
 * @throws D2DMoEError `EXPERT_SIZE_INVALID` where the expert size does not divide the hidden width.
 */
export function moeficationTargets(hidden: tf.Tensor2D, expertSize: number): tf.Tensor2D {
  const [tokens, width] = hidden.shape;
  if (!Number.isInteger(width / expertSize)) {
    throw new D2DMoEError(
      'EXPERT_SIZE_INVALID',
      `The expert size ${expertSize} does not divide the hidden width ${width}.`,
    );
  }
  return tf.tidy(() => {
    const byExpert = tf.reshape(tf.relu(hidden), [tokens, width / expertSize, expertSize]);
    const sums = tf.sum<tf.Tensor2D>(byExpert, 2);
    return tf.divNoNan<tf.Tensor2D>(sums, tf.max(sums));
  });
}

/**
 * MoEfication's router (Zhang et al. 2022): output · tanh(hidden · x), the same shape of network as ours with another
 * activation and no absolute value. Its scores are logits and may be negative: select by `topK`. Differentiable.
 *
 * @param x [N, dIn]
 * @returns [N, n]
 */
export function moeficationScores(x: tf.Tensor2D, router: RouterWeights): tf.Tensor2D {
  return tf.tidy(() => {
    const hidden = tf.tanh(tf.matMul(x, router.hidden, false, true));
    return tf.matMul(hidden, router.output, false, true);
  });
}

/**
 * MoEfication's loss (Zhang et al. 2022): binary cross-entropy of the scores, as logits, to the targets; mean over
 * tokens and experts. Finite for scores of any size. Differentiable in the scores.
 *
 * @param scores [N, n], from {@link moeficationScores}.
 * @param targets [N, n], from {@link moeficationTargets}.
 */
export function moeficationLoss(scores: tf.Tensor2D, targets: tf.Tensor2D): tf.Scalar {
  const crossEntropy = tf.customGrad<tf.Scalar>((...inputs) => {
    const [logits, save] = inputs as unknown as [tf.Tensor2D, tf.GradSaveFunc];
    save([logits, targets]);
    return {
      // −t·log σ(s) − (1 − t)·log(1 − σ(s)) = log(1 + eˢ) − t·s
      value: tf.mean<tf.Scalar>(tf.sub(tf.softplus(logits), tf.mul(logits, targets))),
      gradFunc: (upstream: tf.Scalar, saved: tf.Tensor[]) => {
        const [s, t] = saved as [tf.Tensor2D, tf.Tensor2D];
        return tf.mul(tf.sub(tf.sigmoid(s), t), tf.div(upstream, s.size));
      },
    };
  });
  return crossEntropy(scores);
}

/**
 * {@link moeficationLoss} of {@link moeficationScores} and its gradient, written out: five matrix products, and no
 * tape. The caller disposes the three tensors.
 *
 * @param input [N, dIn]
 * @param targets [N, n], from {@link moeficationTargets}.
 */
export function moeficationGradients(
  input: tf.Tensor2D,
  targets: tf.Tensor2D,
  router: RouterWeights,
): RouterGradients {
  return tf.tidy(() => {
    const hidden = tf.tanh(tf.matMul(input, router.hidden, false, true));
    const scores = tf.matMul<tf.Tensor2D>(hidden, router.output, false, true);
    const dScores = tf.div<tf.Tensor2D>(tf.sub(tf.sigmoid(scores), targets), scores.size);
    const dHidden = tf.mul<tf.Tensor2D>(
      tf.matMul(dScores, router.output),
      tf.sub(1, tf.square(hidden)),
    );
    return {
      loss: moeficationLoss(scores, targets),
      hidden: tf.matMul<tf.Tensor2D>(dHidden, input, true, false),
      output: tf.matMul<tf.Tensor2D>(dScores, hidden, true, false),
    };
  });
}
