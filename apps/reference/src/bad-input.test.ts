import { cp, open, readdir, readFile, rm, truncate } from 'node:fs/promises';
import { join } from 'node:path';
import { readArchitecture } from '@d2dmoe/models';
import { afterAll, beforeAll, expect, test, vi } from 'vitest';
import { runBuilt } from '../testing/command.js';
import { jsonl, put, putCheckpoint, putData, temporaryFolder } from '../testing/tiny.js';

// Each run of the command takes about a second, and more where the machine is busy.
vi.setConfig({ testTimeout: 120_000 });

let pristine: string;
const folders: string[] = [];
beforeAll(async () => {
  pristine = await temporaryFolder(true);
  folders.push(pristine);
  await putCheckpoint(join(pristine, 'dense'), 'bert');
  await putData(join(pristine, 'data'), 'bert');
});
afterAll(() => Promise.all(folders.map((folder) => rm(folder, { recursive: true }))));

interface Case {
  /** What is wrong. */
  title: string;
  /** Makes it wrong in a folder with the checkpoint `dense` and the data `data`. */
  spoil?: (folder: string) => Promise<void>;
  args: string;
  /** The error's code, and what its sentence must name. */
  code: string;
  names: readonly string[];
}

const convert = 'convert dense --data data --out out';
const rows = (label: number, count = 20) =>
  jsonl(Array.from({ length: count }, (_, i) => ({ text: `w${i}`, label })));

async function changeConfig(folder: string, changes: object): Promise<void> {
  const path = join(folder, 'dense', 'config.json');
  const config = JSON.parse(await readFile(path, 'utf8')) as object;
  await put(folder, { 'dense/config.json': { ...config, ...changes } });
}

/** GPT-2 XL's shape: 6.2 GB in float32. The file has the header and, where the disk allows holes, nothing else. */
async function putLargeModel(folder: string): Promise<void> {
  const config = {
    model_type: 'gpt2',
    architectures: ['GPT2LMHeadModel'],
    n_embd: 1600,
    n_layer: 48,
    n_head: 25,
    n_positions: 1024,
    vocab_size: 50257,
  };
  const header: Record<string, unknown> = {};
  let end = 0;
  for (const { name, shape } of readArchitecture(config).parameters) {
    const begin = end;
    end += 4 * shape.reduce((product, length) => product * length, 1);
    header[name] = { dtype: 'F32', shape, data_offsets: [begin, end] };
  }
  const json = Buffer.from(JSON.stringify(header));
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(json.length));
  await put(folder, { 'dense/config.json': config });
  const path = join(folder, 'dense', 'model.safetensors');
  const file = await open(path, 'w');
  await file.write(Buffer.concat([length, json]));
  await file.close();
  await truncate(path, 8 + json.length + end);
}

const tooLarge = { spoil: putLargeModel, code: 'MODEL_TOO_LARGE', names: ['5.80 GiB', '4.00 GiB'] };

const cases: Case[] = [
  { title: 'no command of that name', args: 'convrt', code: 'USAGE', names: ['convrt', 'convert'] },
  {
    title: 'an unknown option',
    args: `${convert} --step 3`,
    code: 'USAGE',
    names: ['--step', 'did you mean --steps'],
  },
  {
    title: 'not a number',
    args: `${convert} --steps many`,
    code: 'USAGE',
    names: ['--steps', 'many', 'whole number'],
  },
  { title: 'no data named', args: 'convert dense --out out', code: 'USAGE', names: ['--data'] },
  {
    title: 'no checkpoint folder',
    args: 'convert ./nowhere --data data --out out',
    code: 'CHECKPOINT_NOT_FOUND',
    names: ['nowhere', 'folder', 'id on the hub'],
  },
  {
    title: 'no checkpoint folder to inspect',
    args: 'inspect ./nowhere',
    code: 'CHECKPOINT_NOT_FOUND',
    names: ['nowhere', 'folder', 'id on the hub'],
  },
  {
    title: 'no weights',
    spoil: (folder) => rm(join(folder, 'dense/model.safetensors')),
    args: convert,
    code: 'SAFETENSORS_CHECKPOINT_MISSING',
    names: ['dense', 'model.safetensors'],
  },
  {
    title: 'no tokenizer',
    spoil: (folder) => rm(join(folder, 'dense/tokenizer.json')),
    args: convert,
    code: 'FILE_MISSING',
    names: ['dense/tokenizer.json'],
  },
  {
    title: 'a config that is not JSON',
    spoil: (folder) => put(folder, { 'dense/config.json': '{"model_type": "bert",' }),
    args: convert,
    code: 'JSON_INVALID',
    names: ['dense/config.json'],
  },
  {
    title: 'a config field of the wrong type',
    spoil: (folder) => changeConfig(folder, { hidden_size: '32' }),
    args: convert,
    code: 'CONFIG_INVALID',
    names: ['config.json', '"hidden_size"', '"32"', 'positive integer'],
  },
  {
    title: 'an unsupported model_type',
    spoil: (folder) => changeConfig(folder, { model_type: 'mamba' }),
    args: convert,
    code: 'MODEL_TYPE_UNSUPPORTED',
    names: ['mamba', 'vit', 'bert', 'gpt2', 'gemma'],
  },
  ...[convert, 'split dense --data data --out out', 'sparsify dense --data data --out out'].map(
    (args): Case => ({
      title: 'weights that do not fit the config',
      spoil: (folder) => changeConfig(folder, { intermediate_size: 48 }),
      args,
      code: 'SHAPE_MISMATCH',
      names: ['bert.encoder.layer.0.intermediate.dense.weight', '[64, 32]', '[48, 32]'],
    }),
  ),
  {
    title: 'a truncated weights file',
    spoil: (folder) => truncate(join(folder, 'dense/model.safetensors'), 80_000),
    args: convert,
    code: 'SAFETENSORS_TRUNCATED',
    names: ['dense/model.safetensors', '80000'],
  },
  ...[convert, 'split dense --data data --out out'].map(
    (args): Case => ({
      title: 'an expert size that does not divide',
      args: `${args} --expert-size 7`,
      code: 'EXPERT_SIZE_INVALID',
      names: ['7', '64', '8'],
    }),
  ),
  ...[convert, 'split dense --data data --out out'].map(
    (args): Case => ({ title: 'a model that memory cannot hold', args, ...tooLarge }),
  ),
  {
    title: 'an output folder that is the checkpoint',
    args: 'convert dense --data data --out data/../dense',
    code: 'OUTPUT_IS_INPUT',
    names: ['data/../dense'],
  },
  {
    title: 'no data folder',
    args: 'convert dense --data ./nowhere --out out',
    code: 'DATA_NOT_FOUND',
    names: ['nowhere'],
  },
  {
    title: 'labels outside the classes',
    spoil: (folder) => put(folder, { 'data/train.jsonl': rows(1) + rows(9, 1) }),
    args: convert,
    code: 'LABEL_OUT_OF_RANGE',
    names: ['train.jsonl', '21', '9', '0 to 3'],
  },
  {
    title: 'an empty split',
    spoil: (folder) => put(folder, { 'data/validation.jsonl': '' }),
    args: convert,
    code: 'SPLIT_EMPTY',
    names: ['validation'],
  },
  {
    title: 'a missing column',
    spoil: (folder) => put(folder, { 'data/test.jsonl': jsonl([{ text: 'w1', klass: 1 }]) }),
    args: convert,
    code: 'COLUMN_MISSING',
    names: ['test.jsonl', 'label', 'klass'],
  },
  {
    title: 'a column that is named and missing',
    args: `${convert} --text-column utterance`,
    code: 'COLUMN_MISSING',
    names: ['test.jsonl', 'utterance', '"text"'],
  },
  {
    title: 'a text that is shorter than one block',
    spoil: async (folder) => {
      await rm(join(folder, 'data'), { recursive: true });
      await putCheckpoint(join(folder, 'dense'), 'gpt2');
      await putData(join(folder, 'data'), 'gpt2');
      await put(folder, { 'data/test.txt': 'w1 w2 w3' });
    },
    args: convert,
    code: 'SPLIT_EMPTY',
    names: ['test', '4', '49'],
  },
  {
    title: 'routers for what has no experts',
    args: 'route dense --data data --out out',
    code: 'NOT_SPLIT',
    names: ['dense', 'd2dmoe split'],
  },
  {
    title: 'a threshold for a dense checkpoint',
    args: 'calibrate dense --dense dense --data data --out out',
    code: 'NOT_CONVERTED',
    names: ['dense', 'd2dmoe convert'],
  },
  {
    title: 'the curve of a dense checkpoint',
    args: 'evaluate dense --dense dense --data data --out out',
    code: 'NOT_CONVERTED',
    names: ['dense', 'd2dmoe convert'],
  },
];

test.concurrent.each(cases)('$title: $args', async ({ spoil, args, code, names }) => {
  const folder = await temporaryFolder(true);
  folders.push(folder);
  await cp(pristine, folder, { recursive: true });
  await spoil?.(folder);
  const before = await readdir(folder, { recursive: true });

  const outcome = await runBuilt(args.split(' '), { cwd: folder });

  expect(outcome).toMatchObject({ code: 2, stdout: '' });
  expect(outcome.stderr).toMatch(new RegExp(`^error: [^\\n]+ \\[${code}\\]\\n$`));
  for (const name of names) expect(outcome.stderr).toContain(name);
  expect(await readdir(folder, { recursive: true })).toEqual(before);
});
