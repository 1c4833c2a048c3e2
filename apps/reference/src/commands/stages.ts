import { readArchitecture } from '@d2dmoe/models';
import { readConfig } from '@d2dmoe/models/node';
import { defaultBudgets, defaultSettings, defaultTaus } from '../defaults.js';
import { useDevice } from '../device.js';
import { operatingPointLines } from '../report.js';
import { calibrate } from '../stages/calibrate.js';
import { evaluateCurve } from '../stages/evaluate.js';
import { prepareData } from '../stages/prepare.js';
import { route } from '../stages/route.js';
import { sparsify } from '../stages/sparsify.js';
import { split } from '../stages/split.js';
import type { StageRecord } from '../stages/stage.js';
import { defineCommand } from '../terminal/arguments.js';
import { formatDuration } from '../terminal/format.js';
import {
  budgetsOf,
  calibrateOptions,
  routeOptions,
  settingsOf,
  sparsifyOptions,
  splitOptions,
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

export const splitCommand = defineCommand(
  {
    name: 'split',
    summary: 'Stage 2: split every FFN into experts',
    positionals: [checkpointArgument],
    options: [outOption, ...splitOptions, ...stageOptions],
  },
  async (named, context: Context) => {
    const args = await withFolders(named, context);
    await useDevice(args.device, args);
    const { modelType, shape } = readArchitecture(await readConfig(args.ckpt));
    const settings = { ...defaultSettings(modelType, shape).split, ...settingsOf(args).split };
    const record = await withProgress(args, context, (options) => split(options, settings));
    await report(record, args.out, args.json);
  },
);

export const routeCommand = defineCommand(
  {
    name: 'route',
    summary: 'Stage 3: train a router for every split FFN',
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

export const calibrateCommand = defineCommand(
  {
    name: 'calibrate',
    summary: 'Stage 4: find thresholds for costs or shares of the score on the validation split',
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
