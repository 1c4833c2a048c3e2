import { existsSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { fileSource } from '@d2dmoe/safetensors/node';
import { openSafetensors } from '@d2dmoe/safetensors';
import '@tensorflow/tfjs-backend-cpu';
import '@tensorflow/tfjs-backend-wasm';
import * as tf from '@tensorflow/tfjs-core';
import { beforeAll, describe, expect, test } from 'vitest';
import {
  batchPrefixes,
  compareWithReference,
  decodeGreedily,
  fixture,
  fixtures,
  readIds,
} from '../testing/reference.js';
import { loadModel } from './load.js';

const tolerance = 1e-4;

/** The recorded tensors that the model computes otherwise, of how many. */
async function compare(directory: string): Promise<{ compared: number; wrong: string[] }> {
  const model = await loadModel(directory);
  const reference = await openReference(directory);
  const errors: [string, number][] = [];
  for (const prefix of batchPrefixes(reference)) {
    errors.push(...Object.entries(await compareWithReference(model, reference, prefix)));
  }
  await reference.close();
  model.dispose();
  const wrong = errors.filter(([, error]) => !(error <= tolerance));
  return { compared: errors.length, wrong: wrong.map(([name, error]) => `${name}: ${error}`) };
}

const openReference = async (directory: string) =>
  openSafetensors(await fileSource(join(directory, 'reference.safetensors')));

describe.each(['cpu', 'wasm'])('on the %s backend', (backend) => {
  beforeAll(async () => {
    await tf.setBackend(backend);
    await tf.ready();
  });

  test.each(fixtures)('%s computes what transformers recorded', async (name) => {
    const { compared, wrong } = await compare(fixture(name));
    expect(wrong).toEqual([]);
    expect(compared).toBe(name === 'tiny-bert' ? 8 : 4);
  });

  test.each(['tiny-gpt2', 'tiny-gemma', 'tiny-gemma-gqa'])(
    '%s decodes greedily as transformers',
    async (name) => {
      const model = await loadModel(fixture(name));
      const reference = await openReference(fixture(name));
      const prompts = await readIds(reference, 'greedy.input_ids');
      const expected = await readIds(reference, 'greedy.output_ids');
      expect(decodeGreedily(model, prompts, 24)).toEqual(expected);
      await reference.close();
      model.dispose();
    },
  );
});

const folder = process.env['D2DMOE_CHECKPOINTS'];
const checkpoints =
  folder !== undefined && existsSync(folder)
    ? readdirSync(folder).filter((name) => existsSync(join(folder, name, 'reference.safetensors')))
    : [];

test.skipIf(checkpoints.length === 0)(
  'every checkpoint under D2DMOE_CHECKPOINTS computes what transformers recorded',
  async () => {
    for (const name of checkpoints) {
      const { compared, wrong } = await compare(join(folder as string, name));
      expect({ name, wrong }).toEqual({ name, wrong: [] });
      expect(compared).toBeGreaterThan(2);
    }
  },
);
