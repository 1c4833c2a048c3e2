import { join } from 'node:path';
import { expertCount } from '@d2dmoe/clustering';
import type { BudgetTarget, CurveJson } from '@d2dmoe/evaluation';
import type { Architecture } from '@d2dmoe/models';
import { checkCheckpoint } from '@d2dmoe/models/node';
import { type ConvertSettings, defaultSettings, finetuneSteps } from './defaults.js';
import { measureRate, type Plan, planConversion } from './plan.js';
import { attention, checkProjections } from './stages/attention.js';
import { calibrate } from './stages/calibrate.js';
import { evaluateCurve } from './stages/evaluate.js';
import { finetune } from './stages/finetune.js';
import { type DataOptions, type PreparedData, prepareData } from './stages/prepare.js';
import { hasReport, writeReport } from './stages/report.js';
import { route } from './stages/route.js';
import { sparsify } from './stages/sparsify.js';
import { split } from './stages/split.js';
import { requireOwnOutput, type StageOptions, type StageRecord } from './stages/stage.js';

/** What {@link convert} takes. */
export interface ConvertOptions extends StageOptions {
  data: DataOptions;
  /** Settings other than the defaults of {@link defaultSettings}. */
  settings?: { [Key in keyof ConvertSettings]?: Partial<ConvertSettings[Key]> | undefined };
  /** Receives the plan before any work begins. */
  onPlan?: (plan: Plan, data: PreparedData, settings: ConvertSettings) => void;
}

/** What a conversion gave. */
export interface Conversion {
  records: StageRecord[];
  /** What could not be reached on the validation split, a sentence for each budget. */
  unreachable: string[];
  /** The test split's curve with the operating points, also in `curve.json`. */
  curve: CurveJson;
}

/**
 * Converts a dense checkpoint into a dynamic-k Mixture-of-Experts: sparsify, attention where projections are
 * asked for, split, route, calibrate, evaluate. The
 * converted checkpoint, its curve and a report appear in `output`, the stages' own results in `output/stages`. Stages that are
 * done already are skipped; one that was interrupted goes on. A tfjs backend must have been chosen, see `useDevice`.
 *
 * @throws D2DMoEError where checkpoint, data or settings are not right; `INTERRUPTED` when the signal is aborted
 */
export async function convert(options: ConvertOptions): Promise<Conversion> {
  const { input, output } = options;
  await checkCheckpoint(input);
  await requireOwnOutput(input, output);
  const data = await prepareData(input, options.data);
  const settings = resolveSettings(data.architecture, options.settings);
  // What can be known to fail must not fail after hours of training.
  expertCount(data.architecture.shape.hidden, settings.split.expertSize);
  const { projections } = settings.attention;
  if (projections !== '') checkProjections(projections);
  options.onPlan?.(await planOf(data, settings), data, settings);

  const folder = (name: string) => join(output, 'stages', name);
  const sampled = settings.samples === undefined ? {} : { samples: settings.samples };
  const batched = (stage: Parameters<PreparedData['batches']>[0]) => ({
    hash: data.dataset.hash,
    batches: data.batches(stage),
  });
  const records: StageRecord[] = [];
  let trained = input;
  if (settings.sparsify.steps > 0) {
    const tuning = { ...options, output: folder('sparsify') };
    records.push(await sparsify(tuning, batched(settings.sparsify), settings.sparsify));
    trained = folder('sparsify');
  }
  if (projections !== '') {
    const imitating = { ...options, input: trained, output: folder('attention') };
    // Experts of one size everywhere.
    const imitation = { ...settings.attention, expertSize: settings.split.expertSize, ...sampled };
    records.push(await attention(imitating, batched(settings.attention), imitation));
    trained = folder('attention');
  }
  records.push(
    await split(
      { ...options, input: trained, output: folder('split') },
      batched(settings.route),
      settings.split,
    ),
    await route(
      { ...options, input: folder('split'), output: folder('route') },
      batched(settings.route),
      settings.route,
    ),
  );
  let routed = folder('route');
  if (settings.finetune.steps > 0) {
    const tuning = { ...options, input: routed, output: folder('finetune') };
    records.push(await finetune(tuning, input, batched(settings.finetune), settings.finetune));
    routed = folder('finetune');
  }
  const evaluation = batched({ batchSize: 1, steps: 1 });
  const calibrated = await calibrate({ ...options, input: routed }, input, evaluation, {
    budgets: settings.budgets,
    perLayer: settings.perLayer,
    taus: settings.taus,
    strict: false,
    ...sampled,
  });
  const { record, curve } = await evaluateCurve({ ...options, input: output }, input, evaluation, {
    rules: settings.taus.map((value) => ({ rule: 'threshold' as const, value })),
    ...sampled,
  });
  if (!(await hasReport(output))) {
    const reported = {
      directory: output,
      dense: input,
      data,
      curve,
      records: [output],
      ...sampled,
    };
    await writeReport({ ...options, ...reported, input: output });
  }
  return {
    records: [...records, calibrated, record],
    unreachable: calibrated.metrics.flatMap(({ unreachable }) => (unreachable as string) ?? []),
    curve,
  };
}

function resolveSettings(
  { modelType, shape }: Architecture,
  given: ConvertOptions['settings'] = {},
): ConvertSettings {
  const defaults = defaultSettings(modelType, shape);
  return {
    ...defaults,
    ...(given.taus && { taus: given.taus as readonly number[] }),
    ...(given.budgets && { budgets: given.budgets as readonly BudgetTarget[] }),
    ...(given.perLayer !== undefined && { perLayer: given.perLayer }),
    ...(given.samples !== undefined && { samples: given.samples }),
    sparsify: { ...defaults.sparsify, ...given.sparsify },
    attention: { ...defaults.attention, ...given.attention },
    split: { ...defaults.split, ...given.split },
    route: { ...defaults.route, ...given.route },
    finetune: {
      ...defaults.finetune,
      ...(given.sparsify?.steps !== undefined && {
        steps: finetuneSteps(given.sparsify.steps),
      }),
      ...given.finetune,
    },
  };
}

async function planOf(data: PreparedData, settings: ConvertSettings): Promise<Plan> {
  const { architecture } = data;
  const batches = data.batches(settings.sparsify);
  const count = (size: number) => Math.min(size, settings.samples ?? Number.POSITIVE_INFINITY);
  const parameters = architecture.parameters
    .map(({ shape }) => shape.reduce((product, length) => product * length, 1))
    .reduce((sum, size) => sum + size, 0);
  const sizes = {
    meanLength: batches.meanLength,
    validation: count(batches.evaluationSize('validation')),
    test: count(batches.evaluationSize('test')),
  };
  return planConversion(architecture.shape, parameters, sizes, settings, await measureRate());
}
