import { Random } from '@d2dmoe/core';
import type { Batch } from '@d2dmoe/models';
import * as tf from '@tensorflow/tfjs-core';
import type { EvaluationBatch } from '../src/run-batches.js';

/** Data for the recorded tiny models, by seed: a padded batch and one without a mask; images in one batch. */
export const tinyBatches = {
  'tiny-bert': sentences,
  'tiny-vit': images,
  'tiny-gpt2': texts,
  'tiny-gemma-gqa': texts,
} as const;

/** Lengths of the samples that {@link sentences} and {@link texts} yield. */
export const sentenceLengths: readonly number[] = [7, 4, 1, 6];

function* sentences(seed: number): Generator<EvaluationBatch> {
  const random = new Random(seed);
  const ids = (size: number) => Array.from({ length: size }, () => 1 + random.integer(58));
  const mask = [7, 4, 1].flatMap((length) =>
    Array.from({ length: 7 }, (_, i) => Number(i < length)),
  );
  yield {
    batch: {
      inputIds: tf.tensor2d(ids(21), [3, 7], 'int32'),
      attentionMask: tf.tensor2d(mask, [3, 7], 'int32'),
    },
    labels: Int32Array.from({ length: 3 }, () => random.integer(4)),
  };
  yield {
    batch: { inputIds: tf.tensor2d(ids(6), [1, 6], 'int32') },
    labels: Int32Array.of(random.integer(4)),
  };
}

function* texts(seed: number): Generator<EvaluationBatch> {
  for (const { batch } of sentences(seed)) {
    if (!('inputIds' in batch)) continue;
    const isReal = realTokens(batch);
    const ids = batch.inputIds.dataSync();
    const [, positions] = batch.inputIds.shape;
    const labels = Int32Array.from(ids, (_, i) =>
      (i + 1) % positions !== 0 && isReal(i + 1) ? (ids[i + 1] ?? -1) : -1,
    );
    yield { batch, labels };
  }
}

function* images(seed: number): Generator<EvaluationBatch> {
  const random = new Random(seed);
  const pixels = Float32Array.from({ length: 4 * 3 * 16 * 16 }, () => random.normal());
  yield {
    batch: { pixelValues: tf.tensor4d(pixels, [4, 3, 16, 16]) },
    labels: Int32Array.from({ length: 4 }, () => random.integer(5)),
  };
}

/** Whether a row of a batch's [B · T] is a token. */
export function realTokens(batch: Batch): (row: number) => boolean {
  const mask = 'inputIds' in batch ? batch.attentionMask?.dataSync() : undefined;
  return (row) => mask === undefined || mask[row] === 1;
}
