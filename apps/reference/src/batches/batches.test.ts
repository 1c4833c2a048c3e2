import { join } from 'node:path';
import { Random } from '@d2dmoe/core';
import type { TextBatch } from '@d2dmoe/models';
import { loadImageProcessor, loadTokenizer } from '@d2dmoe/models/node';
import * as tf from '@tensorflow/tfjs-core';
import { beforeAll, expect, test } from 'vitest';
import { put, putCheckpoint, putData, temporaryFolder } from '../../testing/tiny.js';
import { loadDataset } from '../data/index.js';
import { useDevice } from '../device.js';
import { prepareData } from '../stages/prepare.js';
import type { Batches, LabelledBatch } from './batches.js';
import { imageBatches, imageDecoder } from './image-batches.js';
import { languageBatches } from './language-batches.js';
import { textBatches } from './text-batches.js';
import { tokenIds } from './token-ids.js';

beforeAll(() => useDevice('cpu'));

/** The ids of a batch row by row; disposes it. */
function rowsOf({ batch }: LabelledBatch): number[][] {
  const { inputIds } = batch as TextBatch;
  const rows = inputIds.arraySync();
  tf.dispose({ ...batch });
  return rows;
}

async function all(batches: Batches, split: 'validation' | 'test', limit?: number) {
  const found: LabelledBatch[] = [];
  for await (const batch of batches.evaluation(split, limit)) found.push(batch);
  return found;
}

/** The tiny BERT's vocabulary begins with [PAD], [UNK], [CLS], [SEP]; the word w0 has the id 4. */
const cls = 2;
const sep = 3;
const w = (word: number) => word + 4;

async function texts(folder: string, batchSize: number) {
  await putCheckpoint(folder, 'bert');
  const dataset = await loadDataset(join(folder, 'data'), 'text-classification', {
    random: new Random(0),
    classes: 4,
  });
  const idsOf = tokenIds(await loadTokenizer(folder), { maxLength: 6 });
  return textBatches(dataset, idsOf, 0, batchSize, new Random(0));
}

const example = (text: string, label: number) => `${JSON.stringify({ text, label })}\n`;

test('texts: padded to the longest of the batch, cut at the most, padding told apart', async () => {
  const folder = await temporaryFolder();
  const long = 'w9 w8 w7 w6 w5 w4 w3';
  await put(folder, {
    'data/train.jsonl': example('w1', 1) + example('w1 w2 w3', 3),
    'data/validation.jsonl': example(long, 0) + example('w5', 2),
    'data/test.jsonl': example('w5 w6', 1) + example('w7 w8', 0),
  });
  const batches = await texts(folder, 2);
  expect(batches.meanLength).toBe(4);

  const train = await batches.train(0);
  const mask = (train.batch as TextBatch).attentionMask?.arraySync();
  const order = [...train.labels];
  expect(new Set(order)).toEqual(new Set([1, 3]));
  const short = order.indexOf(1);
  expect(mask?.[short]).toEqual([1, 1, 1, 0, 0]);
  expect(mask?.[1 - short]).toEqual([1, 1, 1, 1, 1]);
  const firstShort = [0, 1, 2, 5, 6, 7, 8, 9];
  const firstLong = [0, 1, 2, 3, 4, 5, 6, 7];
  expect([...(train.rows ?? [])]).toEqual(short === 0 ? firstShort : firstLong);
  const ids = rowsOf(train);
  expect(ids[short]).toEqual([cls, w(1), sep, 0, 0]);
  expect(ids[1 - short]).toEqual([cls, w(1), w(2), w(3), sep]);

  const [validation] = await all(batches, 'validation');
  expect([...(validation?.labels ?? [])]).toEqual([2, 0]);
  expect(rowsOf(validation as LabelledBatch)).toEqual([
    [cls, w(5), sep, 0, 0, 0],
    [cls, w(9), w(8), w(7), w(6), sep],
  ]);
  const [test] = await all(batches, 'test');
  expect(test?.rows).toBeUndefined();
  tf.dispose({ ...test?.batch });
});

test('fewer texts than a batch are one batch', async () => {
  const folder = await temporaryFolder();
  await put(folder, {
    'data/train.jsonl': example('w1', 1) + example('w2', 2) + example('w3', 3),
    'data/validation.jsonl': example('w1', 1),
    'data/test.jsonl': example('w1', 1),
  });
  const batches = await texts(folder, 64);
  for (const step of [0, 1]) {
    const { batch, labels } = await batches.train(step);
    expect(new Set(labels)).toEqual(new Set([1, 2, 3]));
    expect(labels).toHaveLength(3);
    tf.dispose({ ...batch });
  }
});

test('a limit draws the same samples each time', async () => {
  const folder = await temporaryFolder();
  await putData(join(folder, 'data'), 'bert');
  const batches = await texts(folder, 8);
  expect(batches.evaluationSize('test')).toBe(40);
  const drawn = async () => (await all(batches, 'test', 7)).flatMap(rowsOf);
  const first = await drawn();
  expect(first).toHaveLength(7);
  expect(await drawn()).toEqual(first);
});

test('language: blocks that follow each other, each position labelled with the next token', async () => {
  const folder = await temporaryFolder();
  await putCheckpoint(folder, 'gpt2');
  const documents = ['w1 w2 w3 w4 w5 w6', 'w7 w8 w9 w10'];
  await put(folder, {
    'data/train/a.txt': documents[0],
    'data/train/b.txt': documents[1],
    'data/validation.txt': 'w1 w2 w3 w4 w5 w6 w7 w8 w9 w10',
    'data/test/a.txt': documents[0],
    'data/test/b.txt': documents[1],
  });
  const dataset = await loadDataset(join(folder, 'data'), 'text-generation', {
    random: new Random(0),
  });
  const first = 1;
  const idsOf = tokenIds(await loadTokenizer(folder));
  const batches = languageBatches(dataset, idsOf, first, 4, 2, 10, new Random(0));

  const [batch] = await all(batches, 'test');
  // The first token and document a, the first token and document b; what does not fill a block is left out.
  const tokens = [first, ...[1, 2, 3, 4, 5, 6].map(w), first, ...[7, 8, 9, 10].map(w)];
  expect([...(batch?.labels ?? [])]).toEqual(tokens.slice(1, 9));
  expect(batches.evaluationSize('test')).toBe(2);
  expect(rowsOf(batch as LabelledBatch)).toEqual([tokens.slice(0, 4), tokens.slice(4, 8)]);

  for (const step of [0, 1]) {
    const { labels, ...train } = await batches.train(step);
    const rows = rowsOf({ labels, ...train });
    expect(rows).toHaveLength(2);
    rows.forEach((row, i) => {
      expect([...labels.subarray(4 * i, 4 * i + 3)]).toEqual(row.slice(1));
    });
  }
});

test('images: one [3, side, side] each, or a sentence where preprocessing gives another size', async () => {
  const folder = await temporaryFolder();
  await putCheckpoint(folder, 'vit');
  await putData(join(folder, 'data'), 'vit');
  const dataset = await loadDataset(join(folder, 'data'), 'image-classification', {
    random: new Random(0),
    classes: 5,
  });
  const pixelsOf = imageDecoder(await loadImageProcessor(folder));
  const batchesOf = (side: number) =>
    imageBatches(
      dataset,
      pixelsOf,
      { side, positions: 17, augment: false, mix: false },
      8,
      new Random(0),
    );
  const { batch, labels } = await batchesOf(16).train(3);
  expect('pixelValues' in batch && batch.pixelValues.shape).toEqual([8, 3, 16, 16]);
  expect(labels).toHaveLength(8);
  tf.dispose({ ...batch });
  const scored = await all(batchesOf(16), 'test');
  const counts = [0, 0, 0, 0, 0];
  for (const label of scored.flatMap((part) => [...part.labels])) counts[label]! += 1;
  expect(counts).toEqual([8, 8, 8, 8, 8]);
  for (const part of scored) tf.dispose({ ...part.batch });
  await expect(batchesOf(32).train(0)).rejects.toMatchObject({
    code: 'IMAGE_INVALID',
    message: expect.stringContaining('32 × 32') as string,
  });
});

test('training images are mixed where asked for, others never', async () => {
  const folder = await temporaryFolder();
  await putCheckpoint(folder, 'vit');
  await putData(join(folder, 'data'), 'vit');
  const prepared = await prepareData(folder, { directory: join(folder, 'data'), seed: 0 });
  const pixels = async (settings: { augment?: boolean; distill?: number }) => {
    const batches = prepared.batches({ batchSize: 8, steps: 4, ...settings });
    const trained = await batches.train(1);
    const scored = await all(batches, 'validation');
    const values = [trained, ...scored].map(({ batch }) =>
      'pixelValues' in batch ? [...batch.pixelValues.dataSync()] : [],
    );
    for (const { batch } of [trained, ...scored]) tf.dispose({ ...batch });
    return { labels: [...trained.labels], train: values[0], scored: values.slice(1) };
  };
  const cropped = await pixels({ augment: true, distill: 0.9 });
  const mixed = await pixels({ augment: true, distill: 1 });
  expect(mixed.train).not.toEqual(cropped.train);
  expect({ ...mixed, train: [] }).toEqual({ ...cropped, train: [] });
  const plain = await pixels({ distill: 1 });
  expect(plain).toEqual(await pixels({}));
  expect(plain.train).not.toEqual(cropped.train);
});

test('a text is encoded once, by what it is an example of', () => {
  const encoded: string[] = [];
  const idsOf = tokenIds({
    encode: (text) => {
      encoded.push(text);
      return [text.length];
    },
  });
  const example = { text: 'w1' };
  expect([...idsOf(example)]).toEqual([2]);
  expect(idsOf(example)).toBe(idsOf(example));
  expect([...idsOf({ text: 'w1 w2' })]).toEqual([5]);
  expect(encoded).toEqual(['w1', 'w1 w2']);
});
