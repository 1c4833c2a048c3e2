import { writeFileAtomic } from '@d2dmoe/safetensors/node';
import type { ColumnNames } from '../data/index.js';
import { deviceNames, precisions } from '../device.js';
import { resolveCheckpoint, resolveDataset } from '../hub/index.js';
import type { DataOptions } from '../stages/prepare.js';
import type { StageOptions } from '../stages/stage.js';
import { progressReporter } from '../terminal/progress-bars.js';

/** What the program hands to each command. */
export interface Context {
  /** Aborted by Ctrl-C. */
  signal: AbortSignal;
}

export const checkpointArgument = {
  name: 'CKPT',
  description:
    'checkpoint: a folder in the Hugging Face layout (config.json, model.safetensors, …), or an id on the hub such as openai-community/gpt2',
} as const;

/** Options of every command that computes. */
export const deviceOptions = [
  {
    flag: 'device',
    type: 'string',
    choices: deviceNames,
    default: 'auto',
    description: 'what to compute on',
  },
  {
    flag: 'threads',
    type: 'number',
    integer: true,
    min: 1,
    max: 64,
    description: 'threads of the wasm device; results do not depend on it (default: all cores)',
  },
  {
    flag: 'precision',
    type: 'string',
    choices: precisions,
    default: 'float32',
    description: 'of matrix products on the cuda device; their sums are float32',
  },
] as const;

/** Options of every command that runs converted models. */
export const storageOption = {
  flag: 'storage',
  type: 'string',
  choices: ['float32', 'int8'],
  default: 'float32',
  description: 'how experts are kept in memory; int8 has a scale for each neuron',
} as const;

export const jsonOption = {
  flag: 'json',
  type: 'string',
  placeholder: 'FILE',
  description: 'also write the result to FILE as JSON',
} as const;

export const outOption = {
  flag: 'out',
  type: 'string',
  placeholder: 'DIR',
  required: true,
  description: 'folder to write',
} as const;

export const denseOption = {
  flag: 'dense',
  type: 'string',
  placeholder: 'CKPT',
  required: true,
  description: 'the dense checkpoint that scores and costs are relative to',
} as const;

export const samplesOption = {
  flag: 'samples',
  type: 'number',
  integer: true,
  min: 1,
  description: 'evaluate on at most this many samples of a split, drawn by seed',
} as const;

/** Options of every command that works in stages. */
export const stageOptions = [
  {
    flag: 'seed',
    type: 'number',
    integer: true,
    min: 0,
    default: 0,
    description: 'seed of all randomness',
  },
  {
    flag: 'save-every',
    type: 'number',
    min: 0,
    default: 30,
    description: 'seconds between two saves of the state that an interrupted stage resumes from',
  },
  ...deviceOptions,
  jsonOption,
] as const;

/** Options of every command that reads data. */
export const dataOptions = [
  {
    flag: 'data',
    type: 'string',
    placeholder: 'DIR',
    required: true,
    description:
      'data: a folder with parquet, JSONL, CSV, images by class or text files, or an id on the hub such as dair-ai/emotion',
  },
  { flag: 'text-column', type: 'string', placeholder: 'NAME', description: 'column of the texts' },
  {
    flag: 'label-column',
    type: 'string',
    placeholder: 'NAME',
    description: 'column of the labels',
  },
  {
    flag: 'image-column',
    type: 'string',
    placeholder: 'NAME',
    description: 'column of the images',
  },
] as const;

/** A command's arguments with the folders of its checkpoints and data, which are downloaded where they are hub ids. */
export async function withFolders<A extends { ckpt?: string; dense?: string; data?: string }>(
  args: A,
  { signal }: Context,
): Promise<A> {
  const { ckpt, dense, data } = args;
  const onProgress = progressReporter(process.stderr);
  const options = { onProgress, signal };
  try {
    return {
      ...args,
      ...(ckpt !== undefined && { ckpt: await resolveCheckpoint(ckpt, options) }),
      ...(dense !== undefined && { dense: await resolveCheckpoint(dense, options) }),
      ...(data !== undefined && { data: await resolveDataset(data, options) }),
    };
  } finally {
    onProgress.close();
  }
}

/** The data that a command's options name. */
export function dataOf(args: {
  data: string;
  seed: number;
  textColumn: string | undefined;
  labelColumn: string | undefined;
  imageColumn: string | undefined;
}): DataOptions {
  const columns: ColumnNames = {
    ...(args.textColumn !== undefined && { text: args.textColumn }),
    ...(args.labelColumn !== undefined && { label: args.labelColumn }),
    ...(args.imageColumn !== undefined && { image: args.imageColumn }),
  };
  return { directory: args.data, seed: args.seed, columns };
}

/** Runs stages with a progress display on standard error. */
export async function withProgress<T>(
  args: { ckpt?: string; out: string; seed: number; saveEvery: number },
  { signal }: Context,
  work: (options: StageOptions) => Promise<T>,
): Promise<T> {
  const onProgress = progressReporter(process.stderr);
  try {
    const { ckpt = '', out, seed, saveEvery } = args;
    return await work({ input: ckpt, output: out, seed, saveEvery, onProgress, signal });
  } finally {
    onProgress.close();
  }
}

/** Writes a command's result where `--json` asks for it. */
export async function writeJson(file: string | undefined, result: unknown): Promise<void> {
  if (file !== undefined) await writeFileAtomic(file, `${JSON.stringify(result, undefined, 2)}\n`);
}

/** Options with their values, without those that were not given. */
export type Given<T> = { [Key in keyof T]?: Exclude<T[Key], undefined> };

export function given<T extends object>(values: T): Given<T> {
  const entries = Object.entries(values).filter(([, value]) => value !== undefined);
  return Object.fromEntries(entries) as Given<T>;
}
