import type { Random } from '@d2dmoe/core';
import * as tf from '@tensorflow/tfjs-core';
import type { Dataset, TextExample } from '../data/index.js';
import { type Batches, evaluationBatchSize, type LabelledBatch, lazily } from './batches.js';
import { lengthGroupedOrder, sample } from './order.js';

/** Texts padded to the longest of their batch, whose tokens `idsOf` tells; batches hold texts of similar length. */
export function textBatches(
  dataset: Dataset<TextExample>,
  idsOf: (example: TextExample) => Int32Array,
  padding: number,
  batchSize: number,
  random: Random,
): Batches {
  // Evaluation alone does not need the training texts.
  const training = lazily(() => {
    const texts = dataset.train.map(idsOf);
    const lengths = texts.map((ids) => ids.length);
    const order = lengthGroupedOrder(lengths, batchSize, random.fork('order'));
    return { texts, lengths, order };
  });

  function pad(texts: readonly Int32Array[], labels: Int32Array): LabelledBatch {
    const width = Math.max(...texts.map((ids) => ids.length));
    const ids = new Int32Array(texts.length * width).fill(padding);
    const mask = new Int32Array(texts.length * width);
    const rows: number[] = [];
    for (const [i, text] of texts.entries()) {
      ids.set(text, i * width);
      mask.fill(1, i * width, i * width + text.length);
      for (let j = 0; j < text.length; j++) rows.push(i * width + j);
    }
    const shape: [number, number] = [texts.length, width];
    return {
      batch: {
        inputIds: tf.tensor2d(ids, shape, 'int32'),
        attentionMask: tf.tensor2d(mask, shape, 'int32'),
      },
      labels,
      ...(rows.length < ids.length ? { rows: Int32Array.from(rows) } : {}),
    };
  }

  return {
    evaluationSize: (split) => dataset[split].length,
    get meanLength() {
      const { lengths } = training();
      return lengths.reduce((sum, length) => sum + length, 0) / lengths.length;
    },
    train: async (step) => {
      const { texts, order } = training();
      const indices = order(step);
      return pad(
        Array.from(indices, (i) => texts[i] as Int32Array),
        Int32Array.from(indices, (i) => (dataset.train[i] as TextExample).label),
      );
    },
    async *evaluation(split, limit) {
      const examples = dataset[split];
      const chosen = Array.from(
        sample(examples.length, limit, random.fork(split)),
        (i) => examples[i] as TextExample,
      );
      const encoded = chosen.map(idsOf);
      const byLength = chosen
        .map((_, i) => i)
        .sort((a, b) => encoded[a]!.length - encoded[b]!.length);
      const size = evaluationBatchSize();
      for (let start = 0; start < byLength.length; start += size) {
        const part = byLength.slice(start, start + size);
        yield pad(
          part.map((i) => encoded[i] as Int32Array),
          Int32Array.from(part, (i) => (chosen[i] as TextExample).label),
        );
      }
    },
  };
}
