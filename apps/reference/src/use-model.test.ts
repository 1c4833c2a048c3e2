import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import '@tensorflow/tfjs-backend-cpu';
import { Random } from '@d2dmoe/core';
import { CostModel, generationCost } from '@d2dmoe/evaluation';
import { dynamicConfig, initModel, type Model, type ModelType } from '@d2dmoe/models';
import { loadModel, loadTokenizer, saveModel } from '@d2dmoe/models/node';
import { openSafetensors } from '@d2dmoe/safetensors';
import { fileSource } from '@d2dmoe/safetensors/node';
import * as tf from '@tensorflow/tfjs-core';
import { expect, test, vi } from 'vitest';
import { runBuilt } from '../testing/command.js';
import { put, putCheckpoint, putData, temporaryFolder, vocabulary } from '../testing/tiny.js';
import { classify, type ClassifyResult } from './classify.js';
import { generate } from './generate.js';

// Each run of the command takes about a second, and more where the machine is busy.
vi.setConfig({ testTimeout: 120_000 });

const fixture = (name: string) =>
  fileURLToPath(new URL(`../../../tools/fixtures/${name}`, import.meta.url));

async function checkpoint(type: ModelType): Promise<string> {
  const folder = join(await temporaryFolder(), type);
  await putCheckpoint(folder, type);
  return folder;
}

/** The tiny model converted by hand: its neurons as they are, 2 to an expert, and routers of random weights. */
async function converted(type: ModelType): Promise<string> {
  const folder = await checkpoint(type);
  const model = await loadModel(folder);
  const random = new Random(7);
  const normals = (rows: number, columns: number) =>
    tf.tensor2d(
      Float32Array.from({ length: rows * columns }, () => random.normal()),
      [rows, columns],
    );
  const ffns = model.sites.filter(({ kind }) => kind === 'feedForward');
  for (const { name, dIn, hidden } of ffns) {
    model.routers.set(name, { hidden: normals(8, dIn), output: normals(hidden / 2, 8) });
  }
  model.config['d2dmoe'] = {
    format_version: 1,
    tau: 0.5,
    sites: Object.fromEntries(ffns.map(({ name }) => [name, { expert_size: 2, router_width: 8 }])),
  };
  await saveModel(model, `${folder}-moe`, { copyFrom: folder });
  model.dispose();
  return `${folder}-moe`;
}

const last = (text: string) => text.trimEnd().replace(/^.*\n/s, '');

test.each(['gpt2', 'gemma'] as const)(
  'generate prints what transformers generated greedily with a tiny %s',
  async (type) => {
    const reference = await openSafetensors(
      await fileSource(join(fixture(`tiny-${type}`), 'reference.safetensors')),
    );
    const promptLength = reference.tensors.get('greedy.input_ids')?.shape[1] as number;
    const length = reference.tensors.get('greedy.output_ids')?.shape[1] as number;
    const output = [...(await reference.readInt32('greedy.output_ids'))].slice(0, length);
    await reference.close();

    const folder = await checkpoint(type);
    const tokenizer = await loadTokenizer(folder);
    const prompt = output
      .slice(0, promptLength)
      .map((id) => vocabulary[id])
      .join(' ');
    expect(tokenizer.encode(prompt)).toEqual(output.slice(0, promptLength));
    const expected = tokenizer
      .decode(output)
      .slice(tokenizer.decode(output.slice(0, promptLength)).length);

    const file = join(folder, 'result.json');
    const args = ['generate', folder, '--max-new-tokens', '24', '--eos-token-id', '-1'];
    const given = [...args, '--prompt', prompt, '--json', file];
    const { stdout, stderr, code } = await runBuilt(given);
    expect({ stdout, code }).toEqual({ stdout: `${expected}\n`, code: 0 });
    expect(last(stderr)).toMatch(
      /^24 tokens in [\d.]+ s, [\d.e+]+ tokens per second; average cost 100\.0 % of the dense model's$/,
    );
    expect(JSON.parse(await readFile(file, 'utf8'))).toMatchObject({
      text: expected,
      tokens: 24,
      cost: 1,
    });
  },
);

test('generate runs a converted model, whose tau decides its cost, and counts what was executed', async () => {
  await tf.setBackend('cpu');
  const folder = await converted('gpt2');
  const prompt = 'w1 w2 w3';
  const run = async (...more: string[]) => {
    const args = ['generate', folder, '--prompt', prompt, '--max-new-tokens', '9'];
    const { stdout, stderr, code } = await runBuilt([...args, '--eos-token-id', '-1', ...more]);
    expect(code).toBe(0);
    const cost = Number(/average cost ([\d.]+) %/.exec(last(stderr))?.[1]) / 100;
    return { stdout, cost };
  };
  const dense = await checkpoint('gpt2');
  const options = { prompt, maxNewTokens: 9, eosTokenId: -1 };
  const whole = await generate({ checkpoint: dense, ...options });

  const all = await run('--tau', '0');
  expect(all.stdout).toBe(`${whole.text}\n`);
  const model = await loadModel(folder);
  const { sites } = new CostModel(model);
  const everything = new Map(sites.map(({ name, experts }) => [name, 11 * experts]));
  const full = generationCost(model, { promptTokens: 3, newTokens: 9, executed: everything });
  expect(all.cost).toBeCloseTo(full.relativeTotal, 3);
  const one = new Map(sites.map(({ name }) => [name, 11]));
  const least = generationCost(model, { promptTokens: 3, newTokens: 9, executed: one });
  expect((await run('--tau', '1')).cost).toBeCloseTo(least.relativeTotal, 3);
  expect(dynamicConfig(model)?.tau).toBe(0.5);
  model.dispose();

  const stored = await run();
  expect(stored.cost).toBeGreaterThan(least.relativeTotal);
  expect(stored.cost).toBeLessThan(full.relativeTotal);
  expect(await run('--tau', '0.5')).toEqual(stored);
});

test('sampling follows its seed; the pieces of a text join to it; the prompt may come from a file', async () => {
  await tf.setBackend('cpu');
  const folder = await checkpoint('gemma');
  const options = { checkpoint: folder, prompt: 'w5 w6', doSample: true, temperature: 2, topK: 0 };
  let pieces = '';
  const onText = (piece: string) => {
    pieces += piece;
  };
  const { text, tokens } = await generate({ ...options, seed: 1, eosTokenId: -1, onText });
  expect(tokens).toBe(46);
  expect(pieces).toBe(text);
  const other = await generate({ ...options, seed: 2, eosTokenId: -1 });
  expect(other.text).not.toBe(text);

  await put(folder, { 'prompt.txt': 'w5 w6' });
  const sampling = ['--do-sample', '--temperature', '2', '--top-k', '0', '--seed', '1'];
  const source = ['--prompt-file', join(folder, 'prompt.txt'), '--device', 'cpu'];
  const args = ['generate', folder, ...source, ...sampling, '--eos-token-id', '-1'];
  expect((await runBuilt(args)).stdout).toBe(`${text}\n`);
});

test('the id that the checkpoint names ends the text', async () => {
  await tf.setBackend('cpu');
  const folder = await checkpoint('gpt2');
  const options = { checkpoint: folder, prompt: 'w1 w2 w3 w4', maxNewTokens: 10 };
  const { text } = await generate({ ...options, eosTokenId: -1 });
  const tokenizer = await loadTokenizer(folder);
  const [first] = tokenizer.encode(text.trim());
  await put(folder, { 'generation_config.json': { eos_token_id: [1, first] } });
  expect((await generate(options)).tokens).toBe(1);
});

test('Ctrl-C ends a generation with 130; what was printed stays, on a line of its own', async () => {
  await tf.setBackend('cpu');
  const folder = await checkpoint('gpt2');
  const config = JSON.parse(await readFile(join(folder, 'config.json'), 'utf8')) as object;
  const large: Model = initModel({ ...config, n_positions: 20_000 }, new Random(1));
  await saveModel(large, folder);
  large.dispose();
  const args = ['generate', folder, '--prompt', 'w1', '--eos-token-id', '-1'];
  const outcome = await runBuilt([...args, '--max-new-tokens', '19000'], {
    onStdout: (text, kill) => {
      if (!text.endsWith('\n')) kill('SIGINT');
    },
  });
  expect(outcome.code).toBe(130);
  expect(outcome.stdout).toMatch(/^( \S+)+\n$/);
  expect(outcome.stderr).toBe(
    'stopping; press Ctrl-C again to quit now\ninterrupted; the text ends where it was.\n',
  );
});

test('classify prints the likeliest classes of texts, and all of them as JSON', async () => {
  await tf.setBackend('cpu');
  const folder = await checkpoint('bert');
  const inputs = ['w1 w2', Array.from({ length: 60 }, () => 'w3').join(' ')];
  const file = join(folder, 'result.json');
  const { stdout, code } = await runBuilt(['classify', folder, ...inputs, '--json', file]);
  expect(code).toBe(0);
  const result = JSON.parse(await readFile(file, 'utf8')) as ClassifyResult;
  const model = await loadModel(folder);
  const { maxPositions } = model.shape;
  for (const [i, { input, tokens, truncated, classes }] of result.classifications.entries()) {
    expect(input).toBe(inputs[i]);
    expect({ tokens, truncated }).toEqual(
      i === 0 ? { tokens: 4, truncated: false } : { tokens: maxPositions, truncated: true },
    );
    const ids = (await loadTokenizer(folder)).encode(input, { maxLength: maxPositions });
    const probabilities = tf.tidy(() => {
      const { logits } = model.forward({ inputIds: tf.tensor2d([ids], undefined, 'int32') });
      return [...tf.softmax(logits).dataSync()];
    });
    expect(classes.map(({ label }) => label).sort()).toEqual([...(model.labels ?? [])].sort());
    for (const [rank, { label, probability }] of classes.entries()) {
      const index = (model.labels ?? []).indexOf(label);
      expect(probability).toBeCloseTo(probabilities[index] as number, 5);
      expect(probability).toBeLessThanOrEqual(classes[rank - 1]?.probability ?? 1);
      expect(stdout).toContain(`${label}  `);
    }
  }
  model.dispose();
  expect(stdout).toContain(`(cut after ${maxPositions} tokens)`);
  expect(last(stdout)).toBe("average cost 100.0 % of the dense model's");
});

test('classify shows five classes of an image, and runs a converted model at a tau', async () => {
  await tf.setBackend('cpu');
  const data = await temporaryFolder();
  await putData(data, 'vit');
  const images = [0, 1].map((i) => join(data, 'test', `LABEL_${i}`, `${i}.png`));
  const folder = await converted('vit');
  const { stdout, code } = await runBuilt(['classify', folder, ...images, '--tau', '0']);
  expect(code).toBe(0);
  expect(stdout.match(/^ {2}LABEL_\d +[\d.]+ %$/gm)).toHaveLength(10);
  const dense = await classify({ checkpoint: await checkpoint('vit'), inputs: images });
  const all = await classify({ checkpoint: folder, inputs: images, tau: 0 });
  const few = await classify({ checkpoint: folder, inputs: images, tau: 1 });
  expect(dense.cost).toBe(1);
  expect(all.cost).toBeGreaterThan(1);
  expect(few.cost).toBeLessThan(all.cost);
  for (const [i, { classes }] of all.classifications.entries()) {
    const expected = dense.classifications[i]?.classes;
    expect(classes.map(({ label }) => label)).toEqual(expected?.map(({ label }) => label));
    expect(classes[0]?.probability).toBeCloseTo(expected?.[0]?.probability as number, 4);
  }
  expect(few.classifications).not.toEqual(all.classifications);
});

test.each<[ModelType, string[], string, RegExp]>([
  [
    'gpt2',
    ['generate', '--prompt', Array.from({ length: 48 }, () => 'w1').join(' ')],
    'INPUT_INVALID',
    /The prompt has 48 tokens, but the model's context of 48 takes at most 47/,
  ],
  ['gpt2', ['generate', '--prompt', ''], 'INPUT_INVALID', /The prompt is empty/],
  ['gpt2', ['generate'], 'USAGE', /either --prompt TEXT or --prompt-file FILE/],
  [
    'gpt2',
    ['generate', '--prompt-file', 'none.txt'],
    'FILE_UNREADABLE',
    /none\.txt cannot be read/,
  ],
  ['gpt2', ['generate', '--prompt', 'w1', '--tau', '0.5'], 'NOT_CONVERTED', /has no routers/],
  ['gpt2', ['generate', '--prompt', 'w1', '--top-p', '0.5'], 'GENERATION_INVALID', /topP has no/],
  ['bert', ['generate', '--prompt', 'w1'], 'INPUT_INVALID', /is for text-classification, but/],
  ['gpt2', ['classify', 'w1'], 'INPUT_INVALID', /is for text-generation, but/],
  ['bert', ['classify'], 'USAGE', /classify needs INPUT/],
  ['vit', ['classify', 'none.png'], 'IMAGE_INVALID', /none\.png cannot be read as an image/],
])('with a tiny %s %o is one sentence, %s', async (type, [command, ...args], code, sentence) => {
  const folder = await checkpoint(type);
  const outcome = await runBuilt([command as string, folder, ...args]);
  expect(outcome.code).toBe(2);
  expect(outcome.stdout).toBe('');
  expect(outcome.stderr).toMatch(sentence);
  expect(outcome.stderr).toMatch(new RegExp(`^error: [^\\n]+ \\[${code}\\]\\n$`));
});
