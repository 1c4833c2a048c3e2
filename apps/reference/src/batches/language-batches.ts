import { D2DMoEError, type Random } from '@d2dmoe/core';
import * as tf from '@tensorflow/tfjs-core';
import type { Dataset, Document } from '../data/index.js';
import { type Batches, evaluationBatchSize, type LabelledBatch, lazily } from './batches.js';
import { sample, shuffledOrder } from './order.js';

/** Blocks of a language model's evaluation batch, whose logits are [blocks · blockLength, vocabulary]. */
const evaluationBlocks = () => evaluationBatchSize() / 8;

/**
 * Documents, whose tokens `idsOf` tells, each preceded by the model's first token, joined and cut into blocks of
 * `blockLength` tokens; block i feeds tokens [i·length, (i+1)·length) and scores the next token at each position. Training draws whole blocks from
 * documents in a random order and tokenizes no more of them than `trainSteps` can use.
 */
export function languageBatches(
  dataset: Dataset<Document>,
  idsOf: (document: Document) => Int32Array,
  firstToken: number,
  blockLength: number,
  batchSize: number,
  trainSteps: number,
  random: Random,
): Batches {
  const join = (documents: Iterable<Document>, enough = Number.POSITIVE_INFINITY) => {
    const parts: Int32Array[] = [];
    let length = 0;
    for (const document of documents) {
      const ids = idsOf(document);
      parts.push(ids);
      length += 1 + ids.length;
      if (length > enough) break;
    }
    const tokens = new Int32Array(length);
    let start = 0;
    for (const ids of parts) {
      tokens[start] = firstToken;
      tokens.set(ids, start + 1);
      start += 1 + ids.length;
    }
    return tokens;
  };
  const blocksOf = (tokens: Int32Array, split: string) => {
    const blocks = Math.floor((tokens.length - 1) / blockLength);
    if (blocks > 0) return blocks;
    throw new D2DMoEError(
      'SPLIT_EMPTY',
      `The ${split} split of ${dataset.source} has ${tokens.length} tokens, fewer than one block of ${blockLength + 1}.`,
    );
  };
  const training = lazily(() => {
    const shuffled = Array.from(
      random.fork('documents').permutation(dataset.train.length),
      (i) => dataset.train[i] as Document,
    );
    const tokens = join(shuffled, trainSteps * batchSize * blockLength + 1);
    const order = shuffledOrder(blocksOf(tokens, 'train'), batchSize, random.fork('order'));
    return { tokens, order };
  });
  const splits = {
    validation: lazily(() => join(dataset.validation)),
    test: lazily(() => join(dataset.test)),
  };

  function load(tokens: Int32Array, blocks: Uint32Array): LabelledBatch {
    const inputs = new Int32Array(blocks.length * blockLength);
    const labels = new Int32Array(blocks.length * blockLength);
    for (const [i, block] of blocks.entries()) {
      const start = block * blockLength;
      inputs.set(tokens.subarray(start, start + blockLength), i * blockLength);
      labels.set(tokens.subarray(start + 1, start + 1 + blockLength), i * blockLength);
    }
    return {
      batch: { inputIds: tf.tensor2d(inputs, [blocks.length, blockLength], 'int32') },
      labels,
    };
  }

  return {
    meanLength: blockLength,
    evaluationSize: (split) => blocksOf(splits[split](), split),
    train: async (step) => {
      const { tokens, order } = training();
      return load(tokens, order(step));
    },
    async *evaluation(split, limit) {
      const tokens = splits[split]();
      const blocks = sample(blocksOf(tokens, split), limit, random.fork(split));
      const size = evaluationBlocks();
      for (let start = 0; start < blocks.length; start += size) {
        yield load(tokens, blocks.subarray(start, start + size));
      }
    },
  };
}
