import type { ProgressCallback } from '@d2dmoe/core';
import type { Model, Thresholds } from '@d2dmoe/models';
import { evaluateRule } from '../evaluate.js';
import type { EvaluationBatches } from '../run-batches.js';
import { frontier } from './frontier.js';
import { layerPath } from './layer-path.js';
import type { MeasuredThresholds } from './resolve-budget.js';
import { thresholdRule } from './thresholds.js';

/** Options of {@link thresholdPaths}. */
export interface ThresholdPathsOptions {
  /** A converted model. */
  model: Model;
  /** Opens the calibration data; called once for each pass. */
  batches: () => EvaluationBatches;
  /** Thresholds in [0, 1] to try; 0, which runs all experts, and 1, which runs one, are tried besides. */
  taus: readonly number[];
  /** Whether to look for a threshold per layer, too; it takes about half as many passes again for each layer. */
  perLayer: boolean;
  /** Receives `progress` events named `calibrate`, `step` counting batches, with a pass's figures as `metrics` after each. */
  onProgress?: ProgressCallback;
  /** Ends the work before its next batch: the promise is rejected with the signal's reason. */
  signal?: AbortSignal;
}

/** Settings of a model's thresholds, measured on the calibration data, from all experts to few. */
export interface ThresholdPaths {
  /** One threshold for all layers. */
  global: MeasuredThresholds[];
  /** One for each layer, and those of `global` that none of these beats; absent where it was not asked for. */
  perLayer?: MeasuredThresholds[];
  /** Runs the calibration data with any thresholds. */
  measure: (thresholds: Thresholds) => Promise<MeasuredThresholds>;
}

/** Steps of the path of thresholds per layer that are measured. */
const pathPoints = 16;

/**
 * Measures what thresholds give on the calibration data: one for all layers, and with `perLayer` those that
 * {@link layerPath} finds. Any budget can then be met on these paths, see {@link meetBudget}.
 *
 * @throws D2DMoEError as `evaluateRule`.
 */
export async function thresholdPaths(options: ThresholdPathsOptions): Promise<ThresholdPaths> {
  const { model, batches, onProgress, signal } = options;
  const taus = [...new Set([0, ...options.taus, 1])].sort((a, b) => a - b);
  const sites = model.sites.filter(({ name }) => model.routers.has(name)).map(({ name }) => name);
  const layerTaus = everyOther(taus);
  const layerPasses = 1 + sites.length * (layerTaus.length - 1) + pathPoints;
  const passes = taus.length + (options.perLayer ? layerPasses : 0);
  let step = 0;
  let steps: number | undefined;
  const report = (metrics?: Record<string, number>) =>
    onProgress?.({
      status: 'progress',
      name: 'calibrate',
      step,
      // Budgets take passes of their own after those that are known beforehand.
      ...(steps !== undefined && step <= steps && { steps, progress: (100 * step) / steps }),
      ...(metrics && { metrics }),
    });
  const measure = async (thresholds: Thresholds): Promise<MeasuredThresholds> => {
    const point = await evaluateRule(model, batches(), thresholdRule(thresholds), {
      onProgress: () => {
        step++;
        report();
      },
      ...(signal && { signal }),
    });
    const { score, loss, cost } = point;
    steps ??= step * passes;
    report({ [score.name]: score.value, cost });
    return { thresholds, score, loss, cost };
  };
  const global: MeasuredThresholds[] = [];
  for (const tau of taus) global.push(await measure(tau));
  if (!options.perLayer) return { global, measure };

  const settings = await layerPath(sites, layerTaus, measure, pathPoints);
  const measured: MeasuredThresholds[] = [];
  for (const thresholds of settings) measured.push(await measure(thresholds));
  return { global, perLayer: frontier([...global, ...measured]), measure };
}

/** The first, third, fifth … and the last of a list: a layer's own curve bends slowly. */
function everyOther(taus: readonly number[]): number[] {
  return taus.filter((_, i) => i % 2 === 0 || i === taus.length - 1);
}
