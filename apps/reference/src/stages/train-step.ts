import { type Adam, clippingScale, softmaxCrossEntropy } from '@d2dmoe/kernels';
import type { Model } from '@d2dmoe/models';
import type { RegularizerEntry } from '@d2dmoe/sparsity';
import * as tf from '@tensorflow/tfjs-core';
import type { LabelledBatch } from '../batches/batches.js';

/** Largest norm of all gradients together; longer ones are scaled down to it. */
const gradientNorm = 1;

/** Puts a saved state of weights and moments back; a fresh start has none. The tensors are taken over. */
export function restoreTraining(
  model: Model,
  adam: Adam,
  steps: number,
  tensors: Map<string, tf.Tensor>,
): void {
  if (tensors.size === 0) return;
  for (const [name, param] of model.params) {
    const saved = tensors.get(name);
    if (saved === undefined) continue;
    param.assign(saved);
    saved.dispose();
    tensors.delete(name);
  }
  adam.restore(steps, tensors);
}

/** Mean task loss of a batch over its labelled rows: nats per sample, or per token. */
function taskLoss(logits: tf.Tensor, labels: Int32Array): tf.Scalar {
  const rows = tf.reshape<tf.Rank.R2>(logits, [labels.length, logits.size / labels.length]);
  return tf.mean(softmaxCrossEntropy(rows, tf.tensor1d(labels, 'int32')));
}

/**
 * One step of training on the task, with a sparsity term on the FFN activations where one is given; disposes of the
 * batch.
 *
 * @returns the task loss, and the sparsity term's mean over layers
 */
export async function trainStep(
  model: Model,
  adam: Adam,
  { batch, labels }: LabelledBatch,
  learningRate: number,
  sparsity?: RegularizerEntry & { alpha: number },
): Promise<{ loss: number; sparsity?: number }> {
  const mask = 'inputIds' in batch ? batch.attentionMask : undefined;
  let figures: tf.Tensor | undefined;
  const gradients = tf.tidy(() => {
    const { grads } = tf.variableGrads(() => {
      const terms: tf.Scalar[] = [];
      const { logits } = model.forward(batch, {
        tap: (_, values) => {
          const tapped = sparsity && values[sparsity.on];
          if (tapped) terms.push(sparsity.term(tapped, mask ? { mask } : {}));
        },
      });
      const task = taskLoss(logits, labels);
      if (sparsity === undefined) {
        figures = tf.keep(tf.stack([task]));
        return task;
      }
      const term = tf.div(tf.addN(terms), terms.length);
      figures = tf.keep(tf.stack([task, term]));
      return tf.add(task, tf.mul(term, sparsity.alpha));
    }, [...model.params.values()]);
    return namedByParameter(model, grads);
  });
  const scale = clippingScale(Object.values(gradients), gradientNorm);
  adam.step(gradients, learningRate, scale);
  const [loss, term] = await (figures as tf.Tensor).data();
  tf.dispose([figures, gradients, scale, batch as unknown as tf.TensorContainer]);
  return { loss: loss as number, ...(term !== undefined && { sparsity: term }) };
}

/** tfjs names gradients by variable; the optimizer wants parameter names. */
function namedByParameter(model: Model, grads: tf.NamedTensorMap): Record<string, tf.Tensor> {
  const named: Record<string, tf.Tensor> = {};
  for (const [name, param] of model.params) {
    const gradient = grads[param.name];
    if (gradient) named[name] = gradient;
  }
  return named;
}
