import type { Batch } from '@d2dmoe/models';

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
  /** Samples (or blocks of tokens) that training draws from. */
  trainSize: number;
  /** Mean positions of a sample, for estimates. */
  meanLength: number;
  /**
   * The training batch of a step. It depends on seed and step alone, so that a resumed run sees what an undisturbed
   * one would have seen.
   */
  train(step: number): Promise<LabelledBatch>;
  /** A split in batches, in an order that does not matter; at most `limit` samples of it, drawn by seed. */
  evaluation(split: 'validation' | 'test', limit?: number): AsyncIterable<LabelledBatch>;
}

/** Samples per batch where only a forward pass is done. */
export const evaluationBatchSize = 64;
