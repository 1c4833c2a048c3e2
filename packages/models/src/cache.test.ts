import '@tensorflow/tfjs-backend-cpu';
import '@tensorflow/tfjs-backend-wasm';
import { Random } from '@d2dmoe/core';
import * as tf from '@tensorflow/tfjs-core';
import { beforeAll, describe, expect, test } from 'vitest';
import { relativeError } from '../../kernels/testing/closeness.js';
import { refusal } from '../testing/refusal.js';
import { tinyBatch, tinyModel } from '../testing/tiny.js';
import { KeyValueCache } from './cache.js';
import type { Model } from './model.js';

const positionFields = { gpt2: 'n_positions', gemma: 'max_position_embeddings' } as const;
type LanguageModel = keyof typeof positionFields;
const languageModels = Object.keys(positionFields) as LanguageModel[];

/** A tiny language model with room for 12 positions. */
const roomy = (modelType: LanguageModel) =>
  tinyModel(modelType, { [positionFields[modelType]]: 12 });

function randomIds(rows: number, columns: number): number[][] {
  const random = new Random(5);
  return Array.from({ length: rows }, () =>
    Array.from({ length: columns }, () => random.integer(11)),
  );
}

/** The logits of all positions, the ids fed in pieces of the given lengths. */
function logitsInPieces(model: Model, ids: number[][], pieces: number[], mask?: number[][]) {
  const cache = new KeyValueCache();
  const logits = tf.tidy(() => {
    let start = 0;
    const parts = pieces.map((length) => {
      const end = start + length;
      const inputIds = tf.tensor2d(
        ids.map((row) => row.slice(start, end)),
        undefined,
        'int32',
      );
      const attentionMask =
        mask &&
        tf.tensor2d(
          mask.map((row) => row.slice(0, end)),
          undefined,
          'int32',
        );
      start = end;
      return model.forward({ inputIds, ...(attentionMask && { attentionMask }) }, { cache }).logits;
    });
    return tf.concat(parts, 1).dataSync<'float32'>();
  });
  expect(cache.length).toBe(ids[0]?.length);
  cache.dispose();
  expect(cache.length).toBe(0);
  return logits;
}

function logitsAtOnce(model: Model, ids: number[][], mask?: number[][]) {
  return tf.tidy(() => {
    const inputIds = tf.tensor2d(ids, undefined, 'int32');
    const attentionMask = mask && tf.tensor2d(mask, undefined, 'int32');
    return model
      .forward({ inputIds, ...(attentionMask && { attentionMask }) })
      .logits.dataSync<'float32'>();
  });
}

describe.each(['cpu', 'wasm'])('on the %s backend', (backend) => {
  beforeAll(async () => {
    await tf.setBackend(backend);
    await tf.ready();
  });

  test.each(languageModels)('%s in pieces with a cache has the logits of one pass', (modelType) => {
    const model = roomy(modelType);
    const ids = randomIds(3, 11);
    const expected = logitsAtOnce(model, ids);
    for (const pieces of [[11], [4, 1, 1, 1, 1, 1, 1, 1], [1, 5, 2, 3], [1, 1, 9]]) {
      expect(relativeError(logitsInPieces(model, ids, pieces), expected)).toBeLessThan(1e-5);
    }
    model.dispose();
  });

  test.each(languageModels)('%s with padding too', (modelType) => {
    const model = roomy(modelType);
    const ids = randomIds(2, 8);
    const mask = [
      [1, 1, 1, 1, 1, 1, 1, 1],
      [0, 0, 1, 1, 1, 1, 1, 1],
    ];
    // What padded positions themselves compute is of no interest: their rows see nothing but padding.
    const real = (logits: Float32Array) =>
      Float32Array.from([...logits.subarray(0, 8 * 11), ...logits.subarray(10 * 11)]);
    const expected = real(logitsAtOnce(model, ids, mask));
    const actual = real(logitsInPieces(model, ids, [5, 1, 2], mask));
    expect(relativeError(actual, expected)).toBeLessThan(1e-5);
    expect(relativeError(actual, real(logitsAtOnce(model, ids)))).toBeGreaterThan(1e-3);
    model.dispose();
  });
});

test('a cache keeps two tensors per layer and gives them back', () => {
  const model = tinyModel('gemma');
  const ids = tf.tensor2d([[1, 2]], [1, 2], 'int32');
  const before = tf.memory().numTensors;
  const cache = new KeyValueCache();
  for (const seen of [2, 4, 6]) {
    tf.tidy(() => void model.forward({ inputIds: ids }, { cache }));
    expect([cache.length, cache.batch]).toEqual([seen, 1]);
    expect(tf.memory().numTensors).toBe(before + 2 * 2);
  }
  cache.dispose();
  expect(tf.memory().numTensors).toBe(before);
  ids.dispose();
  model.dispose();
});

test('what does not fit the cache is refused', () => {
  const model = tinyModel('gpt2');
  const cache = new KeyValueCache();
  const forward = (ids: number[][], attentionMask?: number[][]) =>
    tf.tidy(
      () =>
        void model.forward(
          {
            inputIds: tf.tensor2d(ids, undefined, 'int32'),
            ...(attentionMask && {
              attentionMask: tf.tensor2d(attentionMask, undefined, 'int32'),
            }),
          },
          { cache },
        ),
    );
  forward([[1, 2, 3, 4]]);
  expect(() => forward([[1], [2]])).toThrow(
    refusal('INPUT_INVALID', /inputIds has 2 sequences, but the key\/value cache holds 1/),
  );
  expect(() => forward([[1, 2, 3]])).toThrow(
    refusal('INPUT_INVALID', /3 positions after 4 cached ones, but the model has at most 6/),
  );
  expect(() => forward([[1]], [[1]])).toThrow(
    refusal('INPUT_INVALID', /must be that of inputIds and the cached positions, \[1, 5\]/),
  );
  cache.dispose();
  model.dispose();

  const classifier = tinyModel('bert');
  const batch = tinyBatch('bert');
  expect(() => tf.tidy(() => classifier.forward(batch, { cache }))).toThrow(
    refusal('INPUT_INVALID', /serves text generation, but this model is for text-classification/),
  );
  tf.dispose(Object.values(batch));
  classifier.dispose();
});
