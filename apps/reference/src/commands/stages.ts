import { checkCheckpoint } from '@d2dmoe/models/node';
import { defaultBudgets, defaultSettings, defaultTaus } from '../defaults.js';
import { useDevice } from '../device.js';
import { operatingPointLines } from '../report.js';
import { attention } from '../stages/attention.js';
import { calibrate } from '../stages/calibrate.js';
import { evaluateCurve } from '../stages/evaluate.js';
import { finetune } from '../stages/finetune.js';
import { prepareData } from '../stages/prepare.js';
import { route } from '../stages/route.js';
import { sparsify } from '../stages/sparsify.js';
import { split } from '../stages/split.js';
import type { StageRecord } from '../stages/stage.js';
import { defineCommand } from '../terminal/arguments.js';
import { formatDuration } from '../terminal/format.js';
import {
  attentionOptions,
  budgetsOf,
  calibrateOptions,
  finetuneOptions,
  routeOptions,
  settingsOf,
  sparsifyOptions,
  splitOptions,
  trainingOptions,
} from './convert.js';
import {
  checkpointArgument,
  type Context,
  dataOf,
  dataOptions,
  denseOption,
  given,
  outOption,
  stageOptions,
  withFolders,
  withProgress,
  writeJson,
} from './options.js';

export const sparsifyCommand = defineCommand(
  {
    name: 'sparsify',
    summary: 'Stage 1: fine-tune for sparse activations',
    positionals: [checkpointArgument],
    options: [...dataOptions, outOption, ...sparsifyOptions, ...stageOptions],
  },
  async (named, context: Context) => {
    const args = await withFolders(named, context);
    await useDevice(args.device, args);
    const data = await prepareData(args.ckpt, dataOf(args));
    const { modelType, shape } = data.architecture;
    const settings = {
      ...defaultSettings(modelType, shape).sparsify,
      ...settingsOf(args).sparsify,
    };
    const batches = { hash: data.dataset.hash, batches: data.batches(settings) };
    const record = await withProgress(args, context, (options) =>
      sparsify(options, batches, settings),
    );
    await report(record, args.out, args.json);
  },
);

export const attentionCommand = defineCommand(
  {
    name: 'attention',
    summary: 'Stage 2, if wanted: replace attention projections by networks that can be split',
    positionals: [checkpointArgument],
    options: [
      ...dataOptions,
      outOption,
      {
        flag: 'projections',
        type: 'string',
        placeholder: 'LETTERS',
        default: 'qkvo',
        description: 'attention projections to replace: some of q, k, v and o',
      },
      ...attentionOptions,
      ...splitOptions,
      ...stageOptions,
    ],
  },
  async (named, context: Context) => {
    const args = await withFolders(named, context);
    await useDevice(args.device, args);
    const data = await prepareData(args.ckpt, dataOf(args));
    const { modelType, shape } = data.architecture;
    const defaults = defaultSettings(modelType, shape);
    const given = settingsOf(args);
    const settings = {
      ...defaults.split,
      ...defaults.attention,
      ...given.split,
      ...given.attention,
    };
    const batches = { hash: data.dataset.hash, batches: data.batches(settings) };
    const record = await withProgress(args, context, (options) =>
      attention(options, batches, settings),
    );
    await report(record, args.out, args.json);
  },
);

export const splitCommand = defineCommand(
  {
    name: 'split',
    summary: 'Stage 3: split every FFN and replaced projection into experts',
    positionals: [checkpointArgument],
    options: [...dataOptions, outOption, ...splitOptions, ...stageOptions],
  },
  async (named, context: Context) => {
    const args = await withFolders(named, context);
    await useDevice(args.device, args);
    await checkCheckpoint(args.ckpt);
    const data = await prepareData(args.ckpt, dataOf(args));
    const { modelType, shape } = data.architecture;
    const defaults = defaultSettings(modelType, shape);
    const settings = { ...defaults.split, ...settingsOf(args).split };
    const batches = { hash: data.dataset.hash, batches: data.batches(defaults.route) };
    const record = await withProgress(args, context, (options) =>
      split(options, batches, settings),
    );
    await report(record, args.out, args.json);
  },
);

export const routeCommand = defineCommand(
  {
    name: 'route',
    summary: 'Stage 4: train a router for every FFN and projection that was split',
    positionals: [checkpointArgument],
    options: [...dataOptions, outOption, ...routeOptions, ...stageOptions],
  },
  async (named, context: Context) => {
    const args = await withFolders(named, context);
    await useDevice(args.device, args);
    const data = await prepareData(args.ckpt, dataOf(args));
    const { modelType, shape } = data.architecture;
    const settings = { ...defaultSettings(modelType, shape).route, ...settingsOf(args).route };
    const batches = { hash: data.dataset.hash, batches: data.batches(settings) };
    const record = await withProgress(args, context, (options) =>
      route(options, batches, settings),
    );
    await report(record, args.out, args.json);
  },
);

export const finetuneCommand = defineCommand(
  {
    name: 'finetune',
    summary: 'Stage 5, if wanted: train on through the experts that the routers select',
    positionals: [checkpointArgument],
    options: [
      ...dataOptions,
      denseOption,
      outOption,
      ...finetuneOptions,
      ...trainingOptions,
      ...stageOptions,
    ],
  },
  async (named, context: Context) => {
    const args = await withFolders(named, context);
    await useDevice(args.device, args);
    const data = await prepareData(args.ckpt, dataOf(args));
    const { modelType, shape } = data.architecture;
    const settings = {
      ...defaultSettings(modelType, shape).finetune,
      ...settingsOf(args).finetune,
    };
    const batches = { hash: data.dataset.hash, batches: data.batches(settings) };
    const record = await withProgress(args, context, (options) =>
      finetune(options, args.dense, batches, settings),
    );
    await report(record, args.out, args.json);
  },
);

export const calibrateCommand = defineCommand(
  {
    name: 'calibrate',
    summary: 'Stage 6: find thresholds for costs or shares of the score on the validation split',
    positionals: [checkpointArgument],
    options: [...dataOptions, denseOption, outOption, ...calibrateOptions, ...stageOptions],
  },
  async (named, context: Context) => {
    const args = await withFolders(named, context);
    await useDevice(args.device, args);
    const data = await prepareData(args.ckpt, dataOf(args));
    const batches = { hash: data.dataset.hash, batches: data.batches({ batchSize: 1, steps: 1 }) };
    const samples = given({ samples: args.samples });
    const curve = await withProgress(args, context, async (options) => {
      await calibrate(options, args.dense, batches, {
        budgets: budgetsOf(args) ?? defaultBudgets,
        perLayer: args.perLayer,
        taus: args.tau.length > 0 ? args.tau : defaultTaus,
        strict: true,
        ...samples,
      });
      const evaluation = { ...options, input: options.output };
      return (await evaluateCurve(evaluation, args.dense, batches, { rules: [], ...samples }))
        .curve;
    });
    console.log(operatingPointLines(curve).join('\n'));
    console.log(`\nWritten to ${args.out}.`);
    await writeJson(args.json, curve);
  },
);

async function report(record: StageRecord, out: string, json: string | undefined): Promise<void> {
  const last = Object.entries(record.metrics.at(-1) ?? {})
    .map(
      ([name, value]) =>
        `${name} ${typeof value === 'number' ? Number(value.toPrecision(5)) : value}`,
    )
    .join(', ');
  console.log(`${record.stage}: ${last}; ${formatDuration(record.seconds)}; written to ${out}`);
  await writeJson(json, record);
}
