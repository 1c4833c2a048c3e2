import type { Batch } from '@d2dmoe/models';
import * as tf from '@tensorflow/tfjs-core';

/** A batch of a task with its labels. The tensors belong to whoever asked for the batch. */
export interface LabelledBatch {
  batch: Batch;
  /** Classifiers: the class of each sample [B]. Language models: the next token at each position [B · T]. */
  labels: Int32Array;
  /** Rows of the [B · T] positions that are tokens, where some are padding. */
  rows?: Int32Array;
}

/** A data set as batches for one model. */
export interface Batches {
  /** Mean positions of a training sample. */
  readonly meanLength: number;
  /** Samples of a split, a language model's blocks of tokens. */
  evaluationSize(split: 'validation' | 'test'): number;
  /**
   * The training batch of a step. It depends on seed and step alone, so that a resumed run sees what an undisturbed
   * one would have seen.
   */
  train(step: number): Promise<LabelledBatch>;
  /** A split in batches, in an order that does not matter; at most `limit` samples of it, drawn by seed. */
  evaluation(split: 'validation' | 'test', limit?: number): AsyncIterable<LabelledBatch>;
}

/** Samples per batch where only a forward pass is done: small ones leave a card waiting for the next. */
export const evaluationBatchSize = (): number => (tf.getBackend() === 'cuda' ? 256 : 64);

/** A value that is computed when it is first asked for. */
export function lazily<T>(compute: () => T): () => T {
  let value: { of: T } | undefined;
  return () => (value ??= { of: compute() }).of;
}
