import type { ModelShape } from '@d2dmoe/models';
import { expect, test } from 'vitest';
import { type ConvertSettings, defaultSettings } from './defaults.js';
import { useDevice } from './device.js';
import { measureRate, planConversion } from './plan.js';

/** BERT-mini's shape. */
const shape: ModelShape = {
  layers: 4,
  dModel: 256,
  heads: 4,
  kvHeads: 4,
  headDim: 64,
  hidden: 1024,
  gated: false,
  outputPositions: 'first',
  outputs: 6,
  maxPositions: 512,
  patchInputs: 0,
  pooler: true,
};
const parameters = 11.2e6;
const data = { meanLength: 24, validation: 2000, test: 2000 };
const defaults = defaultSettings('bert', shape);

const plan = (settings: Partial<ConvertSettings> = {}, sizes = data, rate = 5e9) =>
  planConversion(shape, parameters, sizes, { ...defaults, ...settings }, rate);

test('the default conversion of a small BERT: minutes, megabytes', () => {
  const { stages, seconds, disk, memory } = plan();
  expect(stages.map(({ name }) => name)).toEqual([
    'sparsify',
    'split',
    'route',
    'finetune',
    'calibrate',
    'evaluate',
  ]);
  for (const stage of stages) expect(stage.seconds).toBeGreaterThan(0);
  expect(seconds).toBeCloseTo(stages.reduce((sum, stage) => sum + stage.seconds, 0));
  expect(seconds).toBeGreaterThan(60);
  expect(seconds).toBeLessThan(3 * 3600);
  // Four checkpoints at least.
  expect(disk).toBeGreaterThan(4 * 4 * parameters);
  expect(disk).toBeLessThan(1e9);
  // Weights, gradients and two moments at least.
  expect(memory).toBeGreaterThan(4 * 4 * parameters);
  expect(memory).toBeLessThan(4e9);
});

test('more work takes longer, a faster device less long', () => {
  const { seconds, memory } = plan();
  const { sparsify, route } = defaults;
  const longer = [
    plan({ sparsify: { ...sparsify, steps: 2 * sparsify.steps } }),
    plan({ sparsify: { ...sparsify, batchSize: 2 * sparsify.batchSize } }),
    plan({ route: { ...route, steps: 2 * route.steps } }),
    plan({ finetune: { ...defaults.finetune, steps: 2 * defaults.finetune.steps } }),
    plan({ split: { ...defaults.split, expertSize: defaults.split.expertSize / 2 } }),
    plan({ taus: [...defaults.taus, 0.5] }),
    plan({}, { ...data, meanLength: 48 }),
    plan({}, { ...data, test: 3000 }),
    plan({}, data, 4e9),
  ];
  for (const other of longer) expect(other.seconds).toBeGreaterThan(seconds);
  expect(longer[1]?.memory).toBeGreaterThan(memory);
});

test('says what each stage will do', () => {
  const [sparsify, split] = plan({
    sparsify: { ...defaults.sparsify, steps: 77 },
    split: { ...defaults.split, expertSize: 8 },
  }).stages;
  expect(sparsify?.work).toContain('77 steps');
  expect(split?.work).toBe('4 FFNs into 128 experts of 8');
});

test('stages that are left out take no time', () => {
  const { sparsify, finetune } = defaults;
  const left = { sparsify: { ...sparsify, steps: 0 }, finetune: { ...finetune, steps: 0 } };
  expect(plan(left).stages.map(({ name }) => name)).toEqual([
    'split',
    'route',
    'calibrate',
    'evaluate',
  ]);
});

test('converting projections is a stage more, and makes calibration longer', () => {
  const attention = { ...defaults.attention, projections: 'qkvo', steps: 70 };
  const without = plan();
  const { stages, seconds } = plan({ attention });
  expect(stages.map(({ name }) => name)).toContain('attention');
  expect(without.stages.map(({ name }) => name)).not.toContain('attention');
  expect(seconds).toBeGreaterThan(without.seconds);
  const work = (name: string) => stages.find((stage) => stage.name === name)?.work;
  expect(work('attention')).toBe('70 steps of 64, 16 projections (qkvo)');
  expect(work('split')).toContain('projections likewise');
});

test('the rate that is measured is one that a machine can have', async () => {
  await useDevice();
  const rate = await measureRate();
  expect(rate).toBeGreaterThan(1e7);
  expect(rate).toBeLessThan(1e13);
});
