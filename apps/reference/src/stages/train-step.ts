import { type Adam, clippingScale, softmaxCrossEntropy } from '@d2dmoe/kernels';
import type { ForwardOptions, Model } from '@d2dmoe/models';
import { distillationLoss, type RegularizerEntry } from '@d2dmoe/sparsity';
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

/** What a model is trained for beside its task. */
export interface Objective {
  /** A term on the FFN activations, of this weight. */
  sparsity?: RegularizerEntry & { alpha: number };
  /** Predictions to stay near to: the loss is (1 − weight) of the task's and weight of the distance to the teacher. */
  distillation?: { teacher: Model; weight: number };
  /** Which activations are used, see ForwardOptions. */
  edit?: NonNullable<ForwardOptions['edit']>;
}

/**
 * One step of training on the task and what the objective adds to it; disposes of the batch.
 *
 * @returns by name the task's `loss`, the `distance` to the teacher, and `sparsity`, the term's mean over layers; what is
 *   not asked for is left out
 */
export async function trainStep(
  model: Model,
  adam: Adam,
  { batch, labels }: LabelledBatch,
  learningRate: number,
  { sparsity, distillation, edit }: Objective = {},
): Promise<Record<string, number>> {
  const mask = 'inputIds' in batch ? batch.attentionMask : undefined;
  const names: string[] = [];
  let figures: tf.Tensor | undefined;
  const gradients = tf.tidy(() => {
    // Outside of the tape: nothing flows back into the teacher.
    const teacher = distillation?.teacher.forward(batch).logits;
    const { grads } = tf.variableGrads(() => {
      const terms: tf.Scalar[] = [];
      const { logits } = model.forward(batch, {
        ...(edit && { edit }),
        tap: ({ kind }, values) => {
          const tapped = sparsity && values[sparsity.on];
          // Replaced projections are sparse in their experts, not in their neurons.
          if (tapped && kind === 'feedForward')
            terms.push(sparsity.term(tapped, mask ? { mask } : {}));
        },
      });
      const weight = 1 - (distillation?.weight ?? 0);
      const parts = [{ name: 'loss', value: taskLoss(logits, labels), weight }];
      if (distillation && teacher) {
        const value = distillationLoss(logits, teacher);
        parts.push({ name: 'distance', value, weight: distillation.weight });
      }
      if (sparsity) {
        const value = tf.div<tf.Scalar>(tf.addN(terms), terms.length);
        parts.push({ name: 'sparsity', value, weight: sparsity.alpha });
      }
      names.push(...parts.map(({ name }) => name));
      figures = tf.keep(tf.stack(parts.map(({ value }) => value)));
      return tf.addN(parts.map(({ value, weight }) => tf.mul(value, weight)));
    }, [...model.params.values()]);
    return namedByParameter(model, grads);
  });
  const scale = clippingScale(Object.values(gradients), gradientNorm);
  adam.step(gradients, learningRate, scale);
  const values = await (figures as tf.Tensor).data();
  tf.dispose([figures, gradients, scale, batch as unknown as tf.TensorContainer]);
  return Object.fromEntries(names.map((name, i) => [name, values[i] as number]));
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
