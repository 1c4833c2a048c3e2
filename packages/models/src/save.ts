import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { D2DMoEError } from '@d2dmoe/core';
import {
  type LazyTensorEntry,
  makeFolder,
  writeFileAtomic,
  writeSafetensors,
} from '@d2dmoe/safetensors/node';
import type * as tf from '@tensorflow/tfjs-core';
import { routerNames, routerSpecs } from './dynamic-config.js';
import { isMissing } from './files.js';
import type { Model } from './model.js';

/** Options of {@link saveModel}. */
export interface SaveOptions {
  /** Element type of the weights in the file; routers too. Default F32. */
  dtype?: 'F32' | 'F16' | 'BF16';
  /** More tensors to write beside the model's. */
  extraTensors?: readonly LazyTensorEntry[];
  /** A checkpoint folder whose tokenizer, preprocessor and generation files are copied, as they are. */
  copyFrom?: string;
}

const dtypeNames = { F32: 'float32', F16: 'float16', BF16: 'bfloat16' } as const;

/** What stands beside config and weights in a Hugging Face folder and holds for the converted model as well. */
const sideFiles = [
  'tokenizer.json',
  'tokenizer_config.json',
  'tokenizer.model',
  'special_tokens_map.json',
  'added_tokens.json',
  'vocab.txt',
  'vocab.json',
  'merges.txt',
  'chat_template.jinja',
  'preprocessor_config.json',
  'processor_config.json',
  'generation_config.json',
];

/**
 * Writes a model as a checkpoint folder in the Hugging Face layout: its tensors under the names that they came with,
 * its routers, and config.json with the `dtype` (or `torch_dtype`) of the weights brought up to date. Each file appears
 * by atomic rename, config.json last.
 *
 * @param directory Made if it does not exist.
 * @throws D2DMoEError `ROUTER_MISMATCH` if routers and config.json's `d2dmoe` object disagree, `WEIGHTS_RELEASED`
 *   after packModel, `DISK_FULL`,
 *   `WRITE_FAILED`
 */
export async function saveModel(
  model: Model,
  directory: string,
  options: SaveOptions = {},
): Promise<void> {
  const { dtype = 'F32', extraTensors = [], copyFrom } = options;
  if (model.experts.size > 0) {
    throw new D2DMoEError(
      'WEIGHTS_RELEASED',
      'A model whose experts are packed has no dense weights to save: load it again.',
    );
  }
  const entry = (name: string, tensor: tf.Tensor): LazyTensorEntry => ({
    name,
    dtype,
    shape: tensor.shape,
    data: () => tensor.data<'float32'>(),
  });
  const entries = [
    ...Array.from(model.params, ([name, variable]) => entry(name, variable)),
    ...routerTensors(model).map(([name, tensor]) => entry(name, tensor)),
    ...extraTensors,
  ];

  await makeFolder(directory);
  if (copyFrom !== undefined) await copySideFiles(copyFrom, directory);
  // transformers refuses files without this entry.
  const metadata = { format: 'pt' };
  await writeSafetensors(join(directory, 'model.safetensors'), entries, { metadata });
  const config = { ...model.config };
  const dtypeField = 'torch_dtype' in config ? 'torch_dtype' : 'dtype';
  config[dtypeField] = dtypeNames[dtype];
  await writeFileAtomic(join(directory, 'config.json'), `${JSON.stringify(config, null, 2)}\n`);
}

/** The routers under their names in the checkpoint, checked against what config.json says of them. */
function routerTensors(model: Model): [string, tf.Tensor][] {
  const expected = new Map(
    routerSpecs(model.config, model.sites).map(({ name, shape }) => [name, shape.join(', ')]),
  );
  const tensors = Array.from(model.routers, ([siteName, router]): [string, tf.Tensor][] => {
    const names = routerNames(siteName);
    return [
      [names.hidden, router.hidden],
      [names.output, router.output],
    ];
  }).flat();
  for (const [name, { shape }] of tensors) {
    if (expected.get(name) !== shape.join(', ')) {
      throw new D2DMoEError(
        'ROUTER_MISMATCH',
        `Router tensor "${name}" has shape [${shape.join(', ')}], but the d2dmoe object of the model's config asks for ${expected.has(name) ? `[${expected.get(name)}]` : 'none of that name'}.`,
      );
    }
    expected.delete(name);
  }
  for (const name of expected.keys()) {
    throw new D2DMoEError(
      'ROUTER_MISMATCH',
      `The d2dmoe object of the model's config asks for router tensor "${name}", but the model has no such router.`,
    );
  }
  return tensors;
}

async function copySideFiles(from: string, to: string): Promise<void> {
  for (const name of sideFiles) {
    let data: Uint8Array;
    try {
      data = await readFile(join(from, name));
    } catch (error) {
      if (isMissing(error)) continue;
      throw new D2DMoEError(
        'FILE_UNREADABLE',
        `${join(from, name)} cannot be read: ${String(error)}.`,
        { cause: error },
      );
    }
    await writeFileAtomic(join(to, name), data);
  }
}
