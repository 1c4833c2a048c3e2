import { join } from 'node:path';
import '@tensorflow/tfjs-backend-cpu';
import '@tensorflow/tfjs-backend-wasm';
import { Random } from '@d2dmoe/core';
import { openSafetensors } from '@d2dmoe/safetensors';
import { fileSource } from '@d2dmoe/safetensors/node';
import * as tf from '@tensorflow/tfjs-core';
import { beforeAll, describe, expect, test } from 'vitest';
import { fixture, readIds } from '../testing/reference.js';
import { tinyModel } from '../testing/tiny.js';
import { generate, type GenerateOptions } from './generate.js';
import { loadModel } from './load.js';
import type { Model } from './model.js';

/** Prompts with what was generated behind each. */
async function generated(model: Model, prompts: number[][], options: GenerateOptions = {}) {
  const rows = prompts.map((ids) => [...ids]);
  for await (const ids of generate(model, prompts, options)) {
    for (const [row, id] of ids.entries()) rows[row]?.push(id);
  }
  return rows;
}

describe.each(['cpu', 'wasm'])('on the %s backend', (backend) => {
  beforeAll(async () => {
    await tf.setBackend(backend);
    await tf.ready();
  });

  test.each(['tiny-gpt2', 'tiny-gemma', 'tiny-gemma-gqa'])(
    '%s generates greedily what transformers did, with and without cache',
    async (name) => {
      const model = await loadModel(fixture(name));
      const reference = await openSafetensors(
        await fileSource(join(fixture(name), 'reference.safetensors')),
      );
      const prompts = await readIds(reference, 'greedy.input_ids');
      const expected = await readIds(reference, 'greedy.output_ids');
      await reference.close();
      for (const useCache of [true, false]) {
        const rows = await generated(model, prompts, { maxNewTokens: 24, useCache });
        expect(rows).toEqual(expected);
      }
      model.dispose();
    },
  );
});

const prompts = [
  [1, 2],
  [3, 4],
];

describe('a tiny model', () => {
  beforeAll(async () => {
    await tf.setBackend('cpu');
  });

  const sampling = (seed: number): GenerateOptions => ({
    doSample: true,
    temperature: 1.5,
    topK: 8,
    topP: 0.9,
    repetitionPenalty: 1.2,
    random: new Random(seed),
  });

  test('draws the same text from the same seed, with and without cache', async () => {
    const model = tinyModel('gemma', { max_position_embeddings: 40 });
    const first = await generated(model, prompts, sampling(1));
    expect(first.map((row) => row.length)).toEqual([40, 40]);
    expect(await generated(model, prompts, sampling(1))).toEqual(first);
    expect(await generated(model, prompts, { ...sampling(1), useCache: false })).toEqual(first);
    expect(await generated(model, prompts, sampling(2))).not.toEqual(first);
    model.dispose();
  });

  test('gives a batch the texts that its rows have alone', async () => {
    const model = tinyModel('gpt2', { n_positions: 20 });
    const alone = await Promise.all(prompts.map((prompt) => generated(model, [prompt])));
    expect(await generated(model, prompts)).toEqual(alone.flat());
    model.dispose();
  });

  test('stops at maxNewTokens, at the last position and at the end of the sequence', async () => {
    const model = tinyModel('gpt2');
    const whole = await generated(model, prompts);
    expect(whole.map((row) => row.length)).toEqual([6, 6]);
    const two = await generated(model, prompts, { maxNewTokens: 2 });
    expect(two).toEqual(whole.map((row) => row.slice(0, 4)));

    const [first, second] = whole as [number[], number[]];
    const end = first[2] as number;
    const at = second.indexOf(end, 2);
    const ended = await generated(model, prompts, { eosTokenId: [end] });
    const length = at === -1 ? 6 : at + 1;
    expect(ended[0]).toEqual([1, 2, ...Array.from({ length: length - 2 }, () => end)]);
    expect(ended[1]).toEqual(second.slice(0, length));
    expect(await generated(model, [prompts[0] as number[]], { eosTokenId: end })).toEqual([
      [1, 2, end],
    ]);
    model.dispose();
  });

  test('asks the substitute at every site of every pass, one row a token after the prompt', async () => {
    const model = tinyModel('gpt2');
    const rows: number[] = [];
    await generated(model, [[1, 2, 3]], {
      substitute: (site, x) => {
        if (site.name === 'layers.1.ffn') rows.push(x.shape[0]);
        return undefined;
      },
    });
    expect(rows).toEqual([3, 1, 1]);
    model.dispose();
  });

  test('leaks no tensor over 50 steps, nor when the loop is left early', async () => {
    const model = tinyModel('gemma', { max_position_embeddings: 60 });
    const before = tf.memory().numTensors;
    const counts = new Set<number>();
    for await (const _ of generate(model, prompts, { ...sampling(1), maxNewTokens: 50 })) {
      counts.add(tf.memory().numTensors);
    }
    // Keys and values of two layers, as many after the last step as after the first.
    expect([...counts]).toEqual([before + 4]);
    expect(tf.memory().numTensors).toBe(before);
    for await (const _ of generate(model, prompts)) break;
    expect(tf.memory().numTensors).toBe(before);
    model.dispose();
  });

  test.each<[string, number[][], GenerateOptions, RegExp]>([
    ['INPUT_INVALID', [[]], {}, /The prompt is empty/],
    ['INPUT_INVALID', [[1], [1, 2]], {}, /same number of tokens/],
    ['INPUT_INVALID', [[1, 2, 3, 4, 5, 6]], {}, /has 6 tokens, but the model's context of 6 takes/],
    ['INPUT_INVALID', [[11]], {}, /token 11, but the vocabulary ends at 10/],
    ['GENERATION_INVALID', [[1]], { maxNewTokens: 0 }, /at least 1, not 0/],
    ['GENERATION_INVALID', [[1]], { doSample: true }, /needs a Random/],
  ])('%s for %o, %o', async (code, ids, options, message) => {
    const model = tinyModel('gpt2');
    const first = generate(model, ids, options).next();
    await expect(first).rejects.toMatchObject({
      code,
      message: expect.stringMatching(message) as string,
    });
    model.dispose();
  });

  test('refuses a classifier', async () => {
    const model = tinyModel('bert');
    await expect(generate(model, [[1]]).next()).rejects.toMatchObject({ code: 'INPUT_INVALID' });
    model.dispose();
  });
});
