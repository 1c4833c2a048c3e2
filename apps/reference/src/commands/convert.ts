import { join } from 'node:path';
import type { BudgetTarget } from '@d2dmoe/evaluation';
import { regularizers, schedules } from '@d2dmoe/sparsity';
import { type Conversion, convert } from '../convert.js';
import { useDevice } from '../device.js';
import { defineCommand } from '../terminal/arguments.js';
import { formatDuration } from '../terminal/format.js';
import { curveReport, planReport } from '../report.js';
import {
  checkpointArgument,
  type Context,
  dataOf,
  dataOptions,
  given,
  outOption,
  samplesOption,
  stageOptions,
  withFolders,
  withProgress,
  writeJson,
} from './options.js';

const names = <T extends object>(registry: T) => Object.keys(registry) as (keyof T & string)[];

const count = { type: 'number', integer: true, min: 1 } as const;
const positive = { type: 'number', min: 1e-12 } as const;

/** Options that the stages which train the model itself have in common. */
export const trainingOptions = [
  {
    flag: 'distill',
    type: 'number',
    min: 0,
    max: 1,
    description: 'share of the loss that is the distance to the dense model’s predictions',
  },
  {
    flag: 'augment',
    type: 'boolean',
    default: true,
    description: 'show images as they are in training, not cropped, flipped and mixed at random',
  },
] as const;

/** Options of the sparsify stage. */
export const sparsifyOptions = [
  { ...count, flag: 'steps', description: 'steps of sparsifying fine-tuning' },
  {
    ...count,
    flag: 'batch-size',
    description: 'samples per step (blocks of tokens for language models)',
  },
  { ...positive, flag: 'learning-rate', description: 'peak learning rate of the fine-tuning' },
  { flag: 'alpha', type: 'number', min: 0, description: 'weight of the sparsity term' },
  {
    flag: 'regularizer',
    type: 'string',
    choices: names(regularizers),
    description: 'sparsity term; those on activations replace the activation by ReLU',
  },
  { flag: 'schedule', type: 'string', choices: names(schedules), description: 'how alpha grows' },
  ...trainingOptions,
] as const;

/** Options of the attention stage, its projections apart. */
export const attentionOptions = [
  { ...count, flag: 'projection-steps', description: 'steps of training replacements' },
  {
    ...positive,
    flag: 'projection-learning-rate',
    description: 'peak learning rate of the replacements',
  },
  {
    flag: 'projection-alpha',
    type: 'number',
    min: 0,
    description: 'weight of the sparsity term on the replacements’ activations',
  },
] as const;

/** Options of the split stage. */
export const splitOptions = [
  { ...count, flag: 'expert-size', description: 'neurons per expert; divides the hidden width' },
  {
    flag: 'split-by',
    type: 'string',
    choices: ['coActivation', 'weights'],
    description:
      'what neurons of an expert share: the tokens that they are active for, or their weights',
  },
] as const;

/** Options of the route stage. */
export const routeOptions = [
  { ...count, flag: 'router-steps', description: 'steps of router training' },
  { ...count, flag: 'router-batch-size', description: 'samples per step of router training' },
  { ...count, flag: 'router-width', description: 'hidden width of the routers' },
  { ...positive, flag: 'router-learning-rate', description: 'peak learning rate of the routers' },
] as const;

/** Options of the finetune stage. */
export const finetuneOptions = [
  {
    flag: 'finetune-steps',
    type: 'number',
    integer: true,
    min: 0,
    description: 'steps of fine-tuning through the selected experts',
  },
  {
    ...positive,
    flag: 'finetune-learning-rate',
    description:
      'peak learning rate of fine-tuning through the selected experts (default: --learning-rate)',
  },
] as const;

/** Options of the calibrate stage. */
export const calibrateOptions = [
  {
    flag: 'tau',
    type: 'list',
    of: 'number',
    min: 0,
    max: 1,
    description: 'thresholds of the curve',
  },
  {
    flag: 'keep',
    type: 'list',
    of: 'number',
    min: 1e-3,
    max: 1,
    description:
      'shares of the dense validation score to find thresholds for; a loss may grow by 1 − keep (default: 0.99, 0.97, 0.95)',
  },
  {
    flag: 'cost',
    type: 'list',
    of: 'number',
    min: 1e-3,
    description: 'costs relative to the dense model to find thresholds for',
  },
  {
    flag: 'per-layer',
    type: 'boolean',
    default: true,
    description: 'look for one threshold for all layers only, not for one for each',
  },
  samplesOption,
] as const;

/** The budgets that a command line names; undefined where it names none. */
export function budgetsOf(args: { keep: number[]; cost: number[] }): BudgetTarget[] | undefined {
  const budgets = [...args.keep.map((keep) => ({ keep })), ...args.cost.map((cost) => ({ cost }))];
  return budgets.length > 0 ? budgets : undefined;
}

interface StageArguments {
  steps?: number | undefined;
  batchSize?: number | undefined;
  learningRate?: number | undefined;
  alpha?: number | undefined;
  regularizer?: keyof typeof regularizers | undefined;
  schedule?: keyof typeof schedules | undefined;
  projections?: string | undefined;
  projectionSteps?: number | undefined;
  projectionLearningRate?: number | undefined;
  projectionAlpha?: number | undefined;
  expertSize?: number | undefined;
  splitBy?: 'coActivation' | 'weights' | undefined;
  routerSteps?: number | undefined;
  routerBatchSize?: number | undefined;
  routerWidth?: number | undefined;
  routerLearningRate?: number | undefined;
  finetuneSteps?: number | undefined;
  finetuneLearningRate?: number | undefined;
  distill?: number | undefined;
  augment?: boolean | undefined;
}

/** The settings that a command line names, without those that it leaves to the defaults. */
export function settingsOf(args: StageArguments) {
  const { steps, batchSize, learningRate, alpha, regularizer, schedule, distill, augment } = args;
  return {
    sparsify: given({
      steps,
      batchSize,
      learningRate,
      alpha,
      regularizer,
      schedule,
      distill,
      augment,
    }),
    attention: given({
      projections: args.projections,
      steps: args.projectionSteps,
      learningRate: args.projectionLearningRate,
      alpha: args.projectionAlpha,
    }),
    split: given({ expertSize: args.expertSize, by: args.splitBy }),
    route: given({
      steps: args.routerSteps,
      batchSize: args.routerBatchSize,
      width: args.routerWidth,
      learningRate: args.routerLearningRate,
      augment,
    }),
    finetune: given({
      steps: args.finetuneSteps,
      batchSize,
      learningRate: args.finetuneLearningRate ?? learningRate,
      alpha,
      distill,
      augment,
    }),
  };
}

/** Settings that leave the stages out which train the model itself. */
function withoutTraining(settings: ReturnType<typeof settingsOf>) {
  return {
    ...settings,
    sparsify: { ...settings.sparsify, steps: 0 },
    finetune: { ...settings.finetune, steps: 0 },
  };
}

export const convertCommand = defineCommand(
  {
    name: 'convert',
    summary: 'Convert a dense checkpoint and measure its cost–quality curve',
    positionals: [checkpointArgument],
    options: [
      ...dataOptions,
      outOption,
      {
        flag: 'sparsify',
        type: 'boolean',
        default: true,
        description:
          'leave the model itself as it is: split it, train routers and calibrate, which takes minutes on a CPU',
      },
      ...sparsifyOptions,
      {
        flag: 'projections',
        type: 'string',
        placeholder: 'LETTERS',
        description:
          'attention projections to convert as well, some of q, k, v and o, such as qkvo (default: none)',
      },
      ...attentionOptions,
      ...splitOptions,
      ...routeOptions,
      ...finetuneOptions,
      ...calibrateOptions,
      ...stageOptions,
    ],
  },
  async (named, context: Context) => {
    const args = await withFolders(named, context);
    await useDevice(args.device, args);
    const conversion = await withProgress(args, context, (options) =>
      convert({
        ...options,
        data: dataOf(args),
        settings: {
          ...(args.sparsify ? settingsOf(args) : withoutTraining(settingsOf(args))),
          ...(args.tau.length > 0 && { taus: args.tau }),
          ...given({ budgets: budgetsOf(args), perLayer: args.perLayer, samples: args.samples }),
        },
        onPlan: (plan, data) => console.log(planReport(plan, data)),
      }),
    );
    reportConversion(conversion, args.out);
    await writeJson(args.json, conversion);
  },
);

/** Prints a conversion's curve, its operating points and where it is. */
export function reportConversion(conversion: Conversion, out: string): void {
  const { curve, unreachable, records } = conversion;
  console.log(curveReport(curve));
  for (const sentence of unreachable) console.log(`\nOn the validation split: ${sentence}`);
  const seconds = records.reduce((sum, record) => sum + record.seconds, 0);
  console.log(
    `\nConverted in ${formatDuration(seconds)} of work: ${out}, with the report in ${join(out, 'report.html')}.`,
  );
}
