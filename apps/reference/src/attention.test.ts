import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { replacementWidth } from '@d2dmoe/attention';
import { Random } from '@d2dmoe/core';
import { convertedSiteCost, denseCost, evaluateDense } from '@d2dmoe/evaluation';
import {
  type DynamicConfig,
  dynamicSubstitute,
  initModel,
  type ModelType,
  replacementNames,
  type Site,
} from '@d2dmoe/models';
import { saveModel } from '@d2dmoe/models/node';
import { openCheckpoint } from '@d2dmoe/safetensors/node';
import * as tf from '@tensorflow/tfjs-core';
import { beforeAll, expect, test } from 'vitest';
import { put, putCheckpoint, putData, temporaryFolder } from '../testing/tiny.js';
import type { Batches } from './batches/batches.js';
import { shapeNames } from './demo/shapes.js';
import { writeShapes } from './demo/write-shapes.js';
import { convert, loadModel, prepareData, useDevice } from './index.js';
import { attention, type AttentionSettings } from './stages/attention.js';

beforeAll(() => useDevice());

const expertSize = 4;
const roles = ['q', 'k', 'v', 'o'] as const;

async function readJson<T>(path: string): Promise<T> {
  return JSON.parse(await readFile(path, 'utf8')) as T;
}

async function readTensors(folder: string): Promise<Map<string, Float32Array>> {
  const reader = await openCheckpoint(folder);
  const tensors = new Map<string, Float32Array>();
  for (const name of reader.tensors.keys()) tensors.set(name, await reader.readFloat32(name));
  await reader.close();
  return tensors;
}

function maxDifference(a: ArrayLike<number>, b: ArrayLike<number>): number {
  expect(a.length).toBe(b.length);
  return Array.from(a).reduce((most, x, i) => Math.max(most, Math.abs(x - (b[i] ?? NaN))), 0);
}

const types: ModelType[] = ['vit', 'bert', 'gpt2', 'gemma'];

test.each(types)('%s: all four projections are converted', { timeout: 120_000 }, async (type) => {
  const folder = await temporaryFolder();
  const [input, output] = [join(folder, 'dense'), join(folder, 'converted')];
  const data = { directory: join(folder, 'data'), seed: 0 };
  await putCheckpoint(input, type);
  await putData(data.directory, type);
  const tensorsBefore = tf.memory().numTensors;
  const { curve, records } = await convert({
    input,
    output,
    data,
    seed: 0,
    settings: {
      sparsify: { steps: 4, batchSize: 8 },
      attention: { projections: 'qkvo', steps: 6, batchSize: 8 },
      split: { expertSize },
      route: { steps: 6, batchSize: 8, width: 32 },
      finetune: { steps: 0 },
      taus: [0, 0.5],
      budgets: [{ keep: 0.5 }],
      perLayer: true,
    },
  });
  expect(tf.memory().numTensors).toBe(tensorsBefore);
  expect(records.map(({ stage }) => stage)).toEqual([
    'sparsify',
    'attention',
    'split',
    'route',
    'calibrate',
    'evaluate',
  ]);
  const imitation = records[1]?.metrics ?? [];
  expect(imitation).toHaveLength(7);
  expect(Object.keys(imitation[5] ?? {})).toEqual(['step', 'error']);
  expect(imitation[6]).toMatchObject({ split: 'validation' });
  const score = type === 'gpt2' || type === 'gemma' ? 'loss' : 'accuracy';
  for (const name of [score, `own ${score}`]) expect(imitation[6]?.[name]).toBeGreaterThan(0);

  const model = await loadModel(output);
  const { sites, shape } = model;
  const { d2dmoe } = await readJson<{ d2dmoe: DynamicConfig }>(join(output, 'config.json'));
  const projections = sites.filter(({ kind }) => kind === 'projection');
  expect(projections).toHaveLength(4 * shape.layers);
  const { dModel, hidden: ffnHidden, gated } = shape;
  const ffnCost = (gated ? 3 : 2) * dModel * ffnHidden;
  const routerOf = ({ kind, dIn, dOut }: Site) =>
    kind === 'feedForward' ? 32 : Math.max(8, Math.round((32 * dIn * dOut) / ffnCost));
  for (const site of projections) {
    const { name, dIn, dOut, hidden } = site;
    const width = replacementWidth({ dIn, dOut, expertSize, bias: type !== 'gemma' });
    expect(hidden).toBe(width);
    expect(d2dmoe.projections?.[name]).toEqual({ hidden_width: width });
    expect(d2dmoe.sites[name]).toEqual({ expert_size: expertSize, router_width: routerOf(site) });
  }
  expect(d2dmoe.sites['layers.0.ffn']).toEqual({ expert_size: expertSize, router_width: 32 });

  // Others open it without noticing: what the sparsified checkpoint had is there, projections unchanged.
  const [sparsified, tensors] = await Promise.all(
    [join(output, 'stages', 'sparsify'), output].map(readTensors),
  );
  const isAttention = /attention|attn/;
  const original = [...(sparsified ?? [])];
  for (const [name, { length }] of original) expect(tensors?.get(name)).toHaveLength(length);
  for (const [name, values] of original.filter(([name]) => isAttention.test(name))) {
    expect(tensors?.get(name)).toEqual(values);
  }
  for (const { name } of projections) {
    const { up, downBias } = replacementNames(name);
    expect(tensors?.has(up) && tensors.has(downBias)).toBe(true);
  }

  // With every expert it is the model whose replacements run densely, and that is not the sparsified one.
  const prepared = await prepareData(output, data);
  const batches = prepared.batches({ batchSize: 1, steps: 1 });
  const before = await loadModel(join(output, 'stages', 'sparsify'));
  const substitute = dynamicSubstitute(model, { rule: { rule: 'threshold', value: 0 } });
  for await (const { batch } of batches.evaluation('test', 8)) {
    const logits = async (options: object, of = model) => of.forward(batch, options).logits.data();
    const densely = await logits({});
    expect(maxDifference(await logits({ substitute }), densely)).toBeLessThan(1e-4);
    expect(maxDifference(await logits({}, before), densely)).toBeGreaterThan(1e-6);
  }
  substitute.dispose();

  // The cost at tau 0, site by site.
  const [all, few] = curve.points;
  expect(Object.values(all?.executed ?? {})).toEqual(sites.map(() => 1));
  expect(Object.keys(all?.executed ?? {})).toEqual(sites.map(({ name }) => name));
  const lengths = await lengthsOf(shape.maxPositions, batches);
  const tokens = lengths.reduce((sum, length) => sum + length, 0);
  const dense = lengths.reduce((sum, length) => sum + denseCost(shape, length).total, 0);
  const more = sites.map((site) => {
    const { experts, perExpert, router } = convertedSiteCost(site, expertSize, routerOf(site));
    const own = site.kind === 'projection' ? site.dIn * site.dOut : experts * perExpert;
    return router + experts * perExpert - own;
  });
  const expected = 1 + (tokens * more.reduce((a, b) => a + b)) / dense;
  expect(all?.cost).toBeCloseTo(expected, 6);
  expect(few?.cost).toBeLessThan((all?.cost as number) - 0.05);
  model.dispose();
  before.dispose();
});

/** The lengths of the test split's samples. */
async function lengthsOf(positions: number, batches: Batches): Promise<number[]> {
  const lengths: number[] = [];
  for await (const { batch } of batches.evaluation('test')) {
    if ('pixelValues' in batch) {
      lengths.push(...Array.from({ length: batch.pixelValues.shape[0] }, () => positions));
    } else {
      const mask = batch.attentionMask ?? tf.onesLike(batch.inputIds);
      lengths.push(...(await tf.sum(tf.cast(mask, 'float32'), 1).data()));
    }
    tf.dispose({ ...batch });
  }
  return lengths;
}

test('some projections only: k and v', async () => {
  const { folder, data, run } = await tinyStage('gemma');
  const record = await run('kv', { projections: 'vk', steps: 2 });
  expect(record.settings).toMatchObject({ projections: 'vk' });
  const model = await loadModel(join(folder, 'kv'));
  const replaced = model.sites.filter(({ kind, hidden }) => kind === 'projection' && hidden > 0);
  expect(new Set(replaced.map(({ role }) => role))).toEqual(new Set(['k', 'v']));
  expect(replaced).toHaveLength(2 * model.shape.layers);
  for await (const { batch } of data.batches.evaluation('test', 4)) {
    expect((await model.forward(batch).logits.data()).every(Number.isFinite)).toBe(true);
  }
  model.dispose();
});

test('a stage that is interrupted goes on to the same tensors, and one that is done is skipped', async () => {
  const { folder, run } = await tinyStage('gpt2');
  const undisturbed = await run('undisturbed', {});
  const abort = new AbortController();
  const interrupted = run(
    'interrupted',
    {},
    {
      saveEvery: 0,
      signal: abort.signal,
      onProgress: ({ status, step }) => {
        if (status === 'progress' && step === 3) abort.abort();
      },
    },
  );
  await expect(interrupted).rejects.toThrow(
    expect.objectContaining({ code: 'INTERRUPTED', message: expect.stringContaining('step 3') }),
  );
  const resumed = await run('interrupted', {});
  expect(resumed.metrics).toEqual(undisturbed.metrics);
  expect(await readTensors(join(folder, 'interrupted'))).toEqual(
    await readTensors(join(folder, 'undisturbed')),
  );
  const events: string[] = [];
  await run('undisturbed', {}, { onProgress: ({ status }) => events.push(status) });
  expect(events).toEqual(['skip']);
  await run('undisturbed', { alpha: 0.5 }, { onProgress: ({ status }) => events.push(status) });
  expect(events[1]).toBe('initiate');
});

test.each(['', 'qkz', 'qq', 'query'])('projections "%s" are refused', async (projections) => {
  const { run } = await tinyStage('bert');
  await expect(run('out', { projections })).rejects.toThrow(
    expect.objectContaining({ code: 'PROJECTIONS_INVALID' }),
  );
});

test('a checkpoint that was split is refused', async () => {
  const { folder, run } = await tinyStage('bert');
  const config = await readJson<Record<string, unknown>>(join(folder, 'dense', 'config.json'));
  const sites = { 'layers.0.ffn': { expert_size: 4 } };
  await put(folder, {
    'dense/config.json': { ...config, d2dmoe: { format_version: 1, tau: 0, sites } },
  });
  await expect(run('out', {})).rejects.toThrow(
    expect.objectContaining({ code: 'ALREADY_CONVERTED' }),
  );
});

/** The stage on the tiny checkpoint of a type, writing into a folder of the given name. */
async function tinyStage(type: ModelType) {
  const folder = await temporaryFolder();
  const input = join(folder, 'dense');
  await putCheckpoint(input, type);
  await putData(join(folder, 'data'), type);
  const settings: AttentionSettings = {
    projections: 'qkvo',
    expertSize,
    steps: 6,
    batchSize: 8,
    learningRate: 1e-3,
    alpha: 1e-3,
    schedule: 'linear',
  };
  const prepared = await prepareData(input, { directory: join(folder, 'data'), seed: 0 });
  const data = { hash: prepared.dataset.hash, batches: prepared.batches(settings) };
  const run = (
    out: string,
    change: Partial<AttentionSettings>,
    more: Partial<Parameters<typeof attention>[0]> = {},
  ) =>
    attention({ input, output: join(folder, out), seed: 0, ...more }, data, {
      ...settings,
      ...change,
    });
  return { folder, data, run };
}

test('on a model of the demo’s size the replacements keep its accuracy, in seconds', {
  timeout: 300_000,
}, async () => {
  const folder = await temporaryFolder();
  const size = 16;
  const images = join(folder, 'images');
  const counts = { train: 600, validation: 60, test: 200 };
  await writeShapes(images, { ...counts, size, random: new Random(3) });
  const input = join(folder, 'dense');
  const model = initModel(
    {
      model_type: 'vit',
      hidden_size: 64,
      num_hidden_layers: 3,
      num_attention_heads: 4,
      intermediate_size: 256,
      hidden_act: 'gelu',
      image_size: size,
      patch_size: 4,
      id2label: Object.fromEntries(shapeNames.map((name, i) => [i, name])),
    },
    new Random(4),
  );
  await saveModel(model, input);
  model.dispose();
  const preprocessor = {
    image_processor_type: 'ViTImageProcessor',
    size: { height: size, width: size },
  };
  await put(input, { 'preprocessor_config.json': preprocessor });
  const output = join(folder, 'converted');
  const started = process.cpuUsage();
  const { curve } = await convert({
    input,
    output,
    data: { directory: images, seed: 0 },
    seed: 0,
    settings: {
      // From scratch.
      sparsify: { steps: 60, batchSize: 32, learningRate: 2e-3, alpha: 1e-4, distill: 0 },
      attention: { projections: 'qkvo', steps: 40, batchSize: 16 },
      split: { expertSize: 8 },
      route: { steps: 10, batchSize: 16, width: 16 },
      finetune: { steps: 4, batchSize: 16 },
      taus: [0],
      budgets: [{ cost: 2 }],
      perLayer: false,
    },
  });
  const { user, system } = process.cpuUsage(started);
  expect((user + system) / 1e6).toBeLessThan(60);
  expect(Object.keys(curve.model.sites)).toHaveLength(3 * (1 + roles.length));
  const prepared = await prepareData(output, { directory: images, seed: 0 });
  const accuracy = async (stage: string) => {
    const loaded = await loadModel(join(output, 'stages', stage));
    const batches = prepared.batches({ batchSize: 1, steps: 1 }).evaluation('test');
    const { score } = await evaluateDense(loaded, batches);
    loaded.dispose();
    return score.value;
  };
  const [before, after] = [await accuracy('sparsify'), await accuracy('attention')];
  expect(before).toBeGreaterThan(1.5 / shapeNames.length);
  expect(after).toBeGreaterThanOrEqual(0.95 * before);
});
