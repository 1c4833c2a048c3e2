import { cpSync, existsSync, mkdirSync, readFileSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { openCheckpoint } from '@d2dmoe/safetensors/node';
import '@tensorflow/tfjs-backend-cpu';
import '@tensorflow/tfjs-backend-wasm';
import * as tf from '@tensorflow/tfjs-core';
import { beforeAll, describe, expect, test } from 'vitest';
import { temporaryFolder } from '../testing/folder.js';
import { fixture, fixtures } from '../testing/reference.js';
import { refusal } from '../testing/refusal.js';
import { logitsOf, maxDifference, tinyModel } from '../testing/tiny.js';
import { loadModel } from './load.js';
import { saveModel } from './save.js';

beforeAll(async () => {
  await tf.setBackend('cpu');
});

/** Every tensor of a checkpoint as raw bytes, with dtype and shape. */
async function contents(directory: string): Promise<Map<string, string>> {
  const reader = await openCheckpoint(directory);
  const result = new Map<string, string>();
  for (const [name, { dtype, shape }] of reader.tensors) {
    const bytes = Buffer.from(await reader.read(name)).toString('base64');
    result.set(name, `${dtype} [${shape.join(', ')}] ${bytes}`);
  }
  await reader.close();
  return result;
}

const readConfig = (directory: string) =>
  JSON.parse(readFileSync(join(directory, 'config.json'), 'utf8')) as Record<string, unknown>;

/** A safetensors file of zeros that takes no room on the disk. */
function writeSparse(path: string, tensors: { name: string; shape: number[] }[]): void {
  let end = 0;
  const header = Object.fromEntries(
    tensors.map(({ name, shape }) => {
      const begin = end;
      end += 4 * tf.util.sizeFromShape(shape);
      return [name, { dtype: 'F32', shape, data_offsets: [begin, end] }];
    }),
  );
  const json = Buffer.from(JSON.stringify(header));
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(json.length));
  writeFileSync(path, Buffer.concat([length, json]));
  truncateSync(path, 8 + json.length + end);
}

describe('saving', () => {
  test.each(fixtures)(
    '%s: loaded and saved again, every tensor is byte for byte the same',
    async (name) => {
      const directory = join(temporaryFolder(), 'new', 'folder');
      const model = await loadModel(fixture(name));
      await saveModel(model, directory);
      expect(await contents(directory)).toEqual(await contents(fixture(name)));
      expect(readConfig(directory)).toEqual(readConfig(fixture(name)));
      const reader = await openCheckpoint(directory);
      expect(reader.metadata).toEqual({ format: 'pt' });
      await reader.close();
      model.dispose();
      expect(tf.memory().numTensors).toBe(0);
    },
  );

  test.each([
    ['F16', 'float16'],
    ['BF16', 'bfloat16'],
  ] as const)(
    '%s survives a second round trip exactly, and config.json says so',
    async (dtype, written) => {
      const [first, second] = [temporaryFolder(), temporaryFolder()];
      const original = tinyModel('gpt2');
      const logits = logitsOf(original);
      original.config['torch_dtype'] = 'float32';
      await saveModel(original, first, { dtype });
      const model = await loadModel(first);
      expect(maxDifference(logitsOf(model), logits)).toBeLessThan(0.1);
      await saveModel(model, second, { dtype });
      expect(await contents(second)).toEqual(await contents(first));
      expect(readConfig(first)).toMatchObject({ torch_dtype: written });
      expect(readConfig(first)).not.toHaveProperty('dtype');
      original.dispose();
      model.dispose();
    },
  );

  test('extra tensors and the files of tokenizer and preprocessor come along', async () => {
    const [source, target] = [temporaryFolder(), temporaryFolder()];
    writeFileSync(join(source, 'tokenizer.json'), '{"a": 1}');
    writeFileSync(join(source, 'preprocessor_config.json'), '{}');
    writeFileSync(join(source, 'eval.json'), '{"accuracy": 1}');
    const model = tinyModel('bert');
    const data = Float32Array.of(1, 2);
    await saveModel(model, target, {
      copyFrom: source,
      extraTensors: [{ name: 'd2dmoe.note', dtype: 'F32', shape: [2], data }],
    });
    expect(readFileSync(join(target, 'tokenizer.json'), 'utf8')).toBe('{"a": 1}');
    expect(existsSync(join(target, 'preprocessor_config.json'))).toBe(true);
    expect(existsSync(join(target, 'eval.json'))).toBe(false);
    const reader = await openCheckpoint(target);
    expect(await reader.readFloat32('d2dmoe.note')).toEqual(data);
    await reader.close();
    model.dispose();
  });

  test('a relufied model loads again with ReLU', async () => {
    const directory = temporaryFolder();
    for (const type of ['vit', 'bert', 'gpt2', 'gemma'] as const) {
      const model = tinyModel(type);
      model.relufy();
      await saveModel(model, directory);
      const loaded = await loadModel(directory);
      expect(loaded.activation).toBe('relu');
      expect(logitsOf(loaded)).toEqual(logitsOf(model));
      model.dispose();
      loaded.dispose();
    }
  });
});

describe('bad input', () => {
  const copyOf = (name: string) => {
    const directory = temporaryFolder();
    cpSync(fixture(name), directory, { recursive: true });
    return directory;
  };

  test('no folder, no config.json, none that is JSON', async () => {
    await expect(loadModel('/nowhere/at/all')).rejects.toThrow(
      refusal('FILE_MISSING', /\/nowhere\/at\/all\/config.json does not exist/),
    );
    const directory = temporaryFolder();
    await expect(loadModel(directory)).rejects.toThrow(
      refusal('FILE_MISSING', /config.json does not exist/),
    );
    writeFileSync(join(directory, 'config.json'), '{"model_type": ');
    await expect(loadModel(directory)).rejects.toThrow(
      refusal('JSON_INVALID', /config.json is not JSON/),
    );
    writeFileSync(join(directory, 'config.json'), '[]');
    await expect(loadModel(directory)).rejects.toThrow(
      refusal('JSON_INVALID', /config.json must hold a JSON object/),
    );
    mkdirSync(join(directory, 'sub', 'config.json'), { recursive: true });
    await expect(loadModel(join(directory, 'sub'))).rejects.toThrow(
      refusal('FILE_UNREADABLE', /config.json cannot be read/),
    );
  });

  test('no weights', async () => {
    const directory = temporaryFolder();
    cpSync(join(fixture('tiny-bert'), 'config.json'), join(directory, 'config.json'));
    await expect(loadModel(directory)).rejects.toThrow(
      refusal('SAFETENSORS_CHECKPOINT_MISSING', /model.safetensors/),
    );
  });

  test('weights whose shapes do not fit the config', async () => {
    const directory = copyOf('tiny-bert');
    const config = { ...readConfig(directory), intermediate_size: 128 };
    writeFileSync(join(directory, 'config.json'), JSON.stringify(config));
    await expect(loadModel(directory)).rejects.toThrow(
      refusal(
        'SHAPE_MISMATCH',
        /"bert.encoder.layer.0.intermediate.dense.weight" has shape \[64, 32\], .* \[128, 32\]/,
      ),
    );
  });

  test('another family', async () => {
    await expect(loadModel(fixture('tiny-llama'))).rejects.toThrow(
      refusal('MODEL_TYPE_UNSUPPORTED', /"llama".*vit, bert, gpt2, gemma/),
    );
  });

  test('a model larger than the memory, before a tensor is read', async () => {
    const directory = copyOf('tiny-gpt2');
    const bytes =
      4 *
      [
        60 * 32,
        48 * 32,
        2 * (32 * 96 + 96 + 32 * 32 + 32 + 2 * 32 * 128 + 128 + 32 + 128),
        64,
      ].reduce((a, b) => a + b);
    const message = new RegExp(`${bytes} bytes.*cpu backend.*${bytes - 1} bytes`);
    await expect(loadModel(directory, { memoryLimit: bytes - 1 })).rejects.toThrow(
      refusal('MODEL_TOO_LARGE', message),
    );
    expect(tf.memory().numTensors).toBe(0);
    const model = await loadModel(directory, { memoryLimit: bytes });
    model.dispose();
  });

  test('4 GiB is the limit on wasm unless told otherwise', async () => {
    const directory = temporaryFolder();
    const config = { ...readConfig(fixture('tiny-gpt2')), n_embd: 32, vocab_size: 40_000_000 };
    writeFileSync(join(directory, 'config.json'), JSON.stringify(config));
    const model = await loadModel(fixture('tiny-gpt2'));
    // A file as large as its header says, sparse on the disk.
    const entries = Array.from(model.params, ([name, { shape }]) => ({ name, shape: [...shape] }));
    for (const entry of entries) {
      if (entry.name.endsWith('wte.weight')) entry.shape = [40_000_000, 32];
    }
    model.dispose();
    writeSparse(join(directory, 'model.safetensors'), entries);
    await tf.setBackend('wasm');
    await expect(loadModel(directory)).rejects.toThrow(
      refusal('MODEL_TOO_LARGE', /take 4\.77 GiB .* wasm backend may use 4\.00 GiB/),
    );
    await tf.setBackend('cpu');
  });
});
