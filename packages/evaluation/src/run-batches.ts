import type { Batch, ForwardOptions, Model, ModelShape } from '@d2dmoe/models';
import * as tf from '@tensorflow/tfjs-core';
import { type Score, ScoreSum } from './score.js';
import type { SelectionCounter } from './selection-counter.js';

/** One batch of evaluation data. */
export interface EvaluationBatch {
  /** The model's input tensors. The evaluation disposes them once the batch has run. */
  batch: Batch;
  /**
   * A classifier's classes, [B]; or for a language model the token that follows each position, [B·T] row by row, −1
   * where a position is not scored.
   */
  labels: Int32Array;
}

/** Evaluation data, read once from beginning to end. */
export type EvaluationBatches = AsyncIterable<EvaluationBatch> | Iterable<EvaluationBatch>;

/** What one pass over the data gave. */
export interface Pass {
  score: Score;
  /** Mean cross-entropy in nats, of classifiers too. */
  loss: number;
  /** Tokens of each sample, without padding. */
  lengths: number[];
}

/** A dynamic forward pass and the counter that it reports its selections to. */
export interface Dynamic {
  substitute: NonNullable<ForwardOptions['substitute']>;
  counter: SelectionCounter;
}

/**
 * Runs every batch through the model and adds up score, lengths and, of a dynamic model, executed experts. There is
 * one read from the device per batch.
 *
 * @param onBatch Called after each batch with the number of batches done and the score so far.
 * @throws The signal's reason, before the next batch, once it is aborted.
 */
export async function runBatches(
  model: Pick<Model, 'shape' | 'task' | 'forward'>,
  batches: EvaluationBatches,
  dynamic: Dynamic | undefined,
  onBatch: (done: number) => void,
  signal: AbortSignal | undefined,
): Promise<Pass> {
  const scores = new ScoreSum(model.task);
  const lengths: number[] = [];
  let done = 0;
  for await (const { batch, labels } of eachBatch(batches, signal)) {
    await runBatch(model, batch, labels, dynamic, scores, lengths);
    onBatch(++done);
  }
  return { score: scores.score(), loss: scores.loss(), lengths };
}

/**
 * Batch after batch, each disposed once the loop's body is done with it, also where the body throws or leaves.
 *
 * @throws The signal's reason, before the next batch, once it is aborted.
 */
export async function* eachBatch<Data extends { batch: Batch }>(
  batches: AsyncIterable<Data> | Iterable<Data>,
  signal: AbortSignal | undefined,
): AsyncGenerator<Data, void, undefined> {
  signal?.throwIfAborted();
  for await (const data of batches) {
    try {
      signal?.throwIfAborted();
      yield data;
    } finally {
      tf.dispose({ ...data.batch });
    }
    // On the CPU backends reading back takes no turn of the event loop, and an abort could never arrive.
    await new Promise((resolve) => setTimeout(resolve, 0));
  }
}

async function runBatch(
  model: Pick<Model, 'shape' | 'forward'>,
  batch: Batch,
  labels: Int32Array,
  dynamic: Dynamic | undefined,
  scores: ScoreSum,
  lengths: number[],
): Promise<void> {
  const mask = tf.tidy(() => tokenMask(model.shape, batch));
  const [samples, positions] = mask.shape;
  try {
    const { packed, scored } = tf.tidy(() => {
      dynamic?.counter.startBatch(tf.reshape(mask, [samples * positions, 1]));
      const options = dynamic ? { substitute: dynamic.substitute } : {};
      const logits = tf.tidy(() => model.forward(batch, options).logits);
      const measured = scores.measure(logits, labels);
      const parts = [tf.sum<tf.Tensor1D>(mask, 1), measured, ...(dynamic?.counter.pending ?? [])];
      return { packed: tf.concat1d(parts), scored: measured.size };
    });
    const figures = (await packed.data()) as Float32Array;
    packed.dispose();
    lengths.push(...figures.subarray(0, samples));
    scores.add(figures.subarray(samples, samples + scored));
    dynamic?.counter.add(figures.subarray(samples + scored));
  } finally {
    dynamic?.counter.endBatch();
    mask.dispose();
  }
}

/** [B, T]: 1 for a real token, 0 for padding. An image is its patches and the class token, all real. */
export function tokenMask(shape: ModelShape, batch: Batch): tf.Tensor2D {
  if ('pixelValues' in batch) {
    const [samples] = batch.pixelValues.shape;
    return tf.ones([samples, batch.pixelValues.size / samples / shape.patchInputs + 1]);
  }
  if (batch.attentionMask) return tf.cast(batch.attentionMask, 'float32');
  return tf.ones(batch.inputIds.shape);
}
