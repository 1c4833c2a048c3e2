import { join } from 'node:path';
import { type BaselineName, baselineNames } from '@d2dmoe/evaluation';
import { readArchitecture } from '@d2dmoe/models';
import { readConfig } from '@d2dmoe/models/node';
import { defaultSettings, defaultTaus } from '../defaults.js';
import { useDevice } from '../device.js';
import { evaluate, type EvaluateOptions, rulesOf } from '../evaluate.js';
import { curveReport } from '../report.js';
import { routedSites, type SplitSite } from '../stages/sites.js';
import { readRecord } from '../stages/stage.js';
import { defineCommand } from '../terminal/arguments.js';
import {
  checkpointArgument,
  type Context,
  dataOf,
  dataOptions,
  denseOption,
  outOption,
  samplesOption,
  stageOptions,
  storageOption,
  withFolders,
  withProgress,
  writeJson,
} from './options.js';

export const evaluateCommand = defineCommand(
  {
    name: 'evaluate',
    summary: 'Measure the cost–quality curve of a converted checkpoint on the test split',
    positionals: [checkpointArgument],
    options: [
      ...dataOptions,
      denseOption,
      outOption,
      {
        flag: 'rule',
        type: 'string',
        choices: ['threshold', 'topK', 'cumulativeShare'],
        default: 'threshold',
        description: 'how experts are selected',
      },
      {
        flag: 'tau',
        type: 'list',
        of: 'number',
        min: 0,
        max: 1,
        description: 'thresholds of the curve',
      },
      {
        flag: 'baselines',
        type: 'list',
        choices: ['all', ...baselineNames],
        description: 'methods to compare with on the same data and cost model',
      },
      {
        flag: 'baseline-steps',
        type: 'number',
        integer: true,
        min: 1,
        description:
          'training steps of MoEfication’s routers and of early exits (default: as our routers had)',
      },
      samplesOption,
      storageOption,
      {
        flag: 'report',
        type: 'string',
        placeholder: 'DIR',
        description: 'new folder for report.html and its figures (default: the folder of --out)',
      },
      ...stageOptions,
    ],
  },
  async (named, context: Context) => {
    const args = await withFolders(named, context);
    await useDevice(args.device, args);
    const [{ site, entry }] = (await routedSites(args.ckpt)) as [SplitSite];
    const experts = site.hidden / entry.expert_size;
    const curve = await withProgress(args, context, async (options) =>
      evaluate({
        ...options,
        dense: args.dense,
        data: dataOf(args),
        storage: args.storage,
        rules: rulesOf(args.rule, args.tau.length > 0 ? args.tau : defaultTaus, experts),
        ...(args.samples !== undefined && { samples: args.samples }),
        ...(args.report !== undefined && { report: args.report }),
        ...(args.baselines.length > 0 && { baselines: await baselinesOf(args) }),
      }),
    );
    console.log(curveReport(curve));
    console.log(`\nReport: ${join(args.report ?? args.out, 'report.html')}`);
    await writeJson(args.json, curve);
  },
);

/** The methods to compare with; what they train is trained as the checkpoint's routers were. */
async function baselinesOf(args: {
  ckpt: string;
  baselines: ('all' | BaselineName)[];
  baselineSteps: number | undefined;
}): Promise<NonNullable<EvaluateOptions['baselines']>> {
  const { modelType, shape, task } = readArchitecture(await readConfig(args.ckpt));
  const { steps, batchSize, learningRate } = defaultSettings(modelType, shape).route;
  const possible = baselineNames.filter(
    (name) => name !== 'earlyExit' || task !== 'text-generation',
  );
  const named = args.baselines.filter((name) => name !== 'all');
  return {
    which: args.baselines.includes('all') ? possible : named,
    training: {
      steps: args.baselineSteps ?? (await routerSteps(args.ckpt)) ?? steps,
      batchSize,
      learningRate,
    },
  };
}

/** How many steps the routers of a converted checkpoint had, where its stage records are still there. */
async function routerSteps(checkpoint: string): Promise<number | undefined> {
  const folders = [checkpoint, join(checkpoint, 'stages', 'route')];
  const records = await Promise.all(folders.map((folder) => readRecord(folder, 'route')));
  const steps = records.find((record) => record)?.settings['steps'];
  return typeof steps === 'number' ? steps : undefined;
}
