import { basename, join } from 'node:path';
import { D2DMoEError } from '@d2dmoe/core';
import {
  budgetName,
  type BudgetTarget,
  type DenseEvaluation,
  type EvaluationBatches,
  type EvaluationOptions,
  evaluateDense,
  meetBudget,
  type MeasuredThresholds,
  type MetBudget,
  type ThresholdPaths,
  thresholdPaths,
} from '@d2dmoe/evaluation';
import { packModel, type StoredCalibration, type StoredPoint } from '@d2dmoe/models';
import { loadModel, saveModel } from '@d2dmoe/models/node';
import { writeFileAtomic } from '@d2dmoe/safetensors/node';
import type { Batches } from '../batches/batches.js';
import { deviceKey, deviceStorage } from '../device.js';
import { routedSites } from './sites.js';
import {
  hashCheckpoint,
  type Metrics,
  requireOwnOutput,
  runStage,
  type StageOptions,
  type StageRecord,
} from './stage.js';

/** Settings of {@link calibrate}. */
export interface CalibrateSettings {
  /** What to find thresholds for; the checkpoint runs at the first unless told otherwise. */
  budgets: readonly BudgetTarget[];
  /** Whether thresholds may differ by layer; otherwise there is one for all. */
  perLayer: boolean;
  /** Thresholds to try. */
  taus: readonly number[];
  /** At most this many validation samples. */
  samples?: number;
  /**
   * Whether a budget that cannot be reached ends the stage. Otherwise it is left out, and where it is the first the
   * checkpoint runs at the thresholds that score best.
   */
  strict: boolean;
}

/**
 * Finds thresholds on the validation split, for each budget those that meet it best. They go into config.json as named
 * operating points, with all that was measured, so that other budgets can be looked up later; the same into
 * `calibration.json`.
 *
 * @param dense folder of the dense checkpoint that scores are relative to
 * @throws D2DMoEError `BUDGET_UNREACHABLE` where `strict` and a budget cannot be met
 */
export async function calibrate(
  options: StageOptions,
  dense: string,
  data: { batches: Batches; hash: string },
  settings: CalibrateSettings,
): Promise<StageRecord> {
  const { input, output } = options;
  await requireOwnOutput(input, output);
  await routedSites(input);
  const inputs = {
    checkpoint: await hashCheckpoint(input),
    dense: await hashCheckpoint(dense),
    data: data.hash,
  };
  const { budgets, perLayer, taus, samples, strict } = settings;
  return runStage('calibrate', options, inputs, { ...settings, device: deviceKey() }, async () => {
    const reporting = reportingAs(options, 'calibrate');
    const batches = () => data.batches.evaluation('validation', samples);
    const reference = await evaluateFolder(dense, batches(), reporting);
    const model = await loadModel(input);
    try {
      // Once for all passes, and as it will run.
      packModel(model, { storage: deviceStorage() });
      const paths = await thresholdPaths({ model, batches, taus, perLayer, ...reporting });
      const met = new Map<string, MetBudget>();
      const metrics: Metrics[] = [];
      for (const budget of budgets) {
        const name = budgetName(budget);
        const found = await meetBudget(paths, budget, reference.score).catch((error: unknown) => {
          if (strict || !isUnreachable(error)) throw error;
          return error;
        });
        if (found instanceof D2DMoEError) {
          metrics.push({ point: name, unreachable: found.message });
        } else {
          met.set(name, found);
          metrics.push({ point: name, ...figures(found) });
        }
      }
      const first = met.get(budgetName(budgets[0] as BudgetTarget))?.chosen ?? best(paths);
      const calibration = store(paths, met, reference);
      await saveCalibrated(input, output, { tau: first.thresholds, calibration });
      const file = { format_version: 1, name: basename(output), ...calibration };
      await writeFileAtomic(
        join(output, 'calibration.json'),
        `${JSON.stringify(file, undefined, 2)}\n`,
      );
      return metrics;
    } finally {
      model.dispose();
    }
  });
}

/** Copies a checkpoint with what was found; a model that is packed has let go of its weights. */
async function saveCalibrated(
  input: string,
  output: string,
  found: { tau: MeasuredThresholds['thresholds']; calibration: StoredCalibration },
): Promise<void> {
  const model = await loadModel(input);
  try {
    model.config['d2dmoe'] = { ...(model.config['d2dmoe'] as object), ...found };
    await saveModel(model, output, { copyFrom: input });
  } finally {
    model.dispose();
  }
}

const isUnreachable = (error: unknown): error is D2DMoEError =>
  error instanceof D2DMoEError && error.code === 'BUDGET_UNREACHABLE';

function figures({ chosen, global }: MetBudget): Metrics {
  const { thresholds, score, cost } = chosen;
  const tau = typeof thresholds === 'number' ? thresholds : 'by layer';
  return {
    tau,
    [score.name]: score.value,
    cost,
    ...(tau === 'by layer' &&
      global && {
        'global tau': global.thresholds as number,
        [`global ${score.name}`]: global.score.value,
        'global cost': global.cost,
      }),
  };
}

/** What goes into config.json. */
function store(
  { global, perLayer }: ThresholdPaths,
  met: ReadonlyMap<string, MetBudget>,
  { score }: DenseEvaluation,
): StoredCalibration {
  const stored = ({ thresholds, score, cost }: MeasuredThresholds): StoredPoint => ({
    tau: thresholds,
    score: score.value,
    cost,
  });
  return {
    score: score.name,
    dense_score: score.value,
    path: (perLayer ?? global).map(stored),
    operating_points: Object.fromEntries(
      Array.from(met, ([name, { chosen }]) => [name, stored(chosen)]),
    ),
  };
}

function best({ global, perLayer = [] }: ThresholdPaths): MeasuredThresholds {
  const [first] = [...global, ...perLayer].sort((a, b) =>
    a.score.higherIsBetter ? b.score.value - a.score.value : a.score.value - b.score.value,
  );
  return first as MeasuredThresholds;
}

/** The score of a dense checkpoint folder. */
export async function evaluateFolder(
  directory: string,
  batches: EvaluationBatches,
  reporting: EvaluationOptions,
): Promise<DenseEvaluation> {
  const model = await loadModel(directory);
  try {
    return await evaluateDense(model, batches, reporting);
  } finally {
    model.dispose();
  }
}

/** A stage's signal, and its progress callback under the stage's name, as the evaluation package takes them. */
export function reportingAs(
  { onProgress, signal }: Pick<StageOptions, 'onProgress' | 'signal'>,
  name: string,
): Pick<StageOptions, 'onProgress' | 'signal'> {
  return {
    ...(onProgress && {
      onProgress: (event) => {
        if (event.status === 'progress') onProgress({ ...event, name });
      },
    }),
    ...(signal && { signal }),
  };
}
