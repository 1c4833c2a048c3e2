import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { CurveJson } from '@d2dmoe/evaluation';
import { type DynamicConfig, dynamicSubstitute, type ModelType } from '@d2dmoe/models';
import { openCheckpoint } from '@d2dmoe/safetensors/node';
import * as tf from '@tensorflow/tfjs-core';
import { beforeAll, expect, test } from 'vitest';
import { relativeError } from '../../../packages/kernels/testing/closeness.js';
import { putCheckpoint, putData, temporaryFolder } from '../testing/tiny.js';
import { convert, loadModel, type Plan, prepareData, useDevice } from './index.js';

beforeAll(() => useDevice());

const taus = [0, 0.1, 0.3, 0.6, 1];

async function readJson(path: string): Promise<Record<string, unknown>> {
  return JSON.parse(await readFile(path, 'utf8')) as Record<string, unknown>;
}

async function shapes(folder: string): Promise<Map<string, string>> {
  const reader = await openCheckpoint(folder);
  await reader.close();
  return new Map(Array.from(reader.tensors, ([name, { shape }]) => [name, shape.join(' × ')]));
}

const activationFields: [ModelType, string[]][] = [
  ['vit', ['hidden_act']],
  ['bert', ['hidden_act']],
  ['gpt2', ['activation_function']],
  ['gemma', ['hidden_act', 'hidden_activation']],
];

test.each(activationFields)('%s is converted', async (type, activations) => {
  const folder = await temporaryFolder();
  const input = join(folder, 'dense');
  const output = join(folder, 'converted');
  const data = { directory: join(folder, 'data'), seed: 0 };
  await putCheckpoint(input, type);
  await putData(data.directory, type);
  const tensorsBefore = tf.memory().numTensors;
  const events: string[] = [];
  const plans: Plan[] = [];
  const { curve, unreachable, records } = await convert({
    input,
    output,
    data,
    seed: 0,
    settings: {
      sparsify: { steps: 8, batchSize: 8 },
      split: { expertSize: 8 },
      route: { steps: 24, batchSize: 8, width: 8 },
      taus,
      budgets: [{ keep: 0.5 }, { cost: 0.01 }],
    },
    onPlan: (plan) => {
      expect(events).toEqual([]);
      plans.push(plan);
    },
    onProgress: ({ status, name }) => status !== 'progress' && events.push(`${name} ${status}`),
  });
  expect(tf.memory().numTensors).toBe(tensorsBefore);

  const stages = ['sparsify', 'split', 'route', 'finetune', 'calibrate', 'evaluate'];
  expect(plans.map((plan) => plan.stages.map(({ name }) => name))).toEqual([stages]);
  expect(events.slice(0, 12)).toEqual(
    stages.flatMap((stage) => [`${stage} initiate`, `${stage} done`]),
  );
  expect(records.map(({ stage }) => stage)).toEqual(stages);
  expect(records[0]?.metrics).toHaveLength(8);
  expect(records[3]?.metrics).toHaveLength(4);
  // A conversion is not thrown away for a budget that cannot be had.
  expect(unreachable).toEqual([expect.stringMatching(/^A cost of 0.01 cannot be reached/)]);

  // Others open it as a dense model with the activation that it was trained with.
  const config = await readJson(join(output, 'config.json'));
  const denseConfig = await readJson(join(input, 'config.json'));
  const relu = Object.fromEntries(activations.map((field) => [field, 'relu']));
  expect(config).toEqual({ ...denseConfig, ...relu, d2dmoe: config['d2dmoe'] });
  const sites = Object.keys(curve.model.sites);
  expect(sites).toHaveLength(2);
  const { calibration } = config['d2dmoe'] as DynamicConfig;
  expect(Object.keys(calibration?.operating_points ?? {})).toEqual(['keep-0.5']);
  expect(curve.operating_points?.map(({ name }) => name)).toEqual(['keep-0.5']);
  const { format_version, name, ...stored } = await readJson(join(output, 'calibration.json'));
  expect([format_version, name, stored]).toEqual([1, 'converted', calibration]);
  expect(config['d2dmoe']).toEqual({
    format_version: 1,
    tau: calibration?.operating_points['keep-0.5']?.tau,
    calibration,
    sites: Object.fromEntries(sites.map((site) => [site, { expert_size: 8, router_width: 8 }])),
  });
  const dense = await shapes(input);
  const converted = await shapes(output);
  const extra = [...converted.keys()].filter((name) => !dense.has(name));
  for (const [name, shape] of dense) expect([name, converted.get(name)]).toEqual([name, shape]);
  expect(extra).toHaveLength(4);
  for (const name of extra) expect(name).toMatch(/^d2dmoe\..+\.router\.(hidden|output)\.weight$/);

  // With tau 0 every expert runs, and the model is the dense one.
  const model = await loadModel(output);
  const prepared = await prepareData(output, data);
  const substitute = dynamicSubstitute(model, { rule: { rule: 'threshold', value: 0 } });
  for await (const { batch } of prepared
    .batches({ batchSize: 1, steps: 1 })
    .evaluation('test', 8)) {
    const densely = (await model.forward(batch).logits.data()) as Float32Array;
    const dynamically = (await model.forward(batch, { substitute }).logits.data()) as Float32Array;
    expect(relativeError(dynamically, densely)).toBeLessThan(1e-4);
  }
  substitute.dispose();
  model.dispose();

  expect(await readJson(join(output, 'curve.json'))).toEqual(curve);
  expectCurve(curve, sites);
  expect(curve.score.name).toBe(type === 'vit' || type === 'bert' ? 'accuracy' : 'loss');
});

test('without training the model stays as it is, its activation too', async () => {
  const folder = await temporaryFolder();
  const [input, output] = [join(folder, 'dense'), join(folder, 'converted')];
  const data = { directory: join(folder, 'data'), seed: 0 };
  await putCheckpoint(input, 'bert');
  await putData(data.directory, 'bert');
  const { records } = await convert({
    input,
    output,
    data,
    seed: 0,
    settings: {
      sparsify: { steps: 0 },
      split: { expertSize: 8, by: 'weights' },
      route: { steps: 4, batchSize: 8, width: 8 },
      taus: [0, 0.5],
      budgets: [{ keep: 0.5 }],
    },
  });
  expect(records.map(({ stage }) => stage)).toEqual(['split', 'route', 'calibrate', 'evaluate']);
  const [dense, converted] = [await loadModel(input), await loadModel(output)];
  expect(converted.activation).toBe(dense.activation);
  const prepared = await prepareData(output, data);
  const batches = prepared.batches({ batchSize: 1, steps: 1 });
  for await (const { batch } of batches.evaluation('test', 8)) {
    const logits = async (model: typeof dense) =>
      (await model.forward(batch).logits.data()) as Float32Array;
    expect(relativeError(await logits(converted), await logits(dense))).toBeLessThan(1e-5);
  }
  dense.dispose();
  converted.dispose();
});

function expectCurve(curve: CurveJson, sites: readonly string[]): void {
  expect(curve.points.map((point) => point.tau)).toEqual(taus);
  for (const { score, cost, converted_cost, executed } of curve.points) {
    for (const value of [score, cost, converted_cost]) expect(value).toBeGreaterThanOrEqual(0);
    expect(Object.keys(executed)).toEqual(sites);
    for (const share of Object.values(executed)) {
      expect(share).toBeGreaterThanOrEqual(1 / 32);
      expect(share).toBeLessThanOrEqual(1);
    }
  }
  const [first, ...rest] = curve.points;
  expect(Object.values(first?.executed ?? {})).toEqual(sites.map(() => 1));
  // All experts and the routers on top.
  expect(first?.cost).toBeGreaterThan(1);
  let last = first?.cost as number;
  for (const { cost } of rest) {
    expect(cost).toBeLessThanOrEqual(last);
    last = cost;
  }
  expect(last).toBeLessThan((first?.cost as number) - 0.05);
}
