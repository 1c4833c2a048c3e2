import type { ProgressCallback } from '@d2dmoe/core';
import type { SelectionRule } from '@d2dmoe/kernels';
import type { Model, Site } from '@d2dmoe/models';
import { type CurvePoint, evaluateRule } from './evaluate.js';
import type { EvaluationBatches } from './run-batches.js';

/** A sweep over thresholds, or over any rules, e.g. top-k for k = 1 … n. */
export type SweepOptions = {
  /** A converted model. */
  model: Model;
  /** Opens the evaluation data; called once for each point. */
  batches: () => EvaluationBatches;
  /**
   * Receives events named `sweep`: `initiate`; `progress` after every batch and, with the point's figures as
   * `metrics`, after every point; `done`. `step` counts batches; `steps` and `progress` are known from the second
   * point on.
   */
  onProgress?: ProgressCallback;
  /** Ends the sweep before its next batch: the promise is rejected with the signal's reason. */
  signal?: AbortSignal;
} & (
  | {
      /** Thresholds τ in [0, 1], one point each. */
      taus: readonly number[];
    }
  | {
      /** Rules, one point each. */
      rules: readonly (SelectionRule | ((site: Site) => SelectionRule))[];
    }
);

/**
 * The cost–quality curve of a converted model: {@link evaluateRule} for each threshold or rule, in the order given.
 *
 * @throws D2DMoEError as {@link evaluateRule}.
 */
export async function sweep(options: SweepOptions): Promise<CurvePoint[]> {
  const { model, batches, onProgress, signal } = options;
  const rules =
    'rules' in options
      ? options.rules
      : options.taus.map((value): SelectionRule => ({ rule: 'threshold', value }));
  const report = (done: number, steps?: number, metrics?: Record<string, number>) =>
    onProgress?.({
      status: 'progress',
      name: 'sweep',
      step: done,
      ...(steps && { steps, progress: (100 * done) / steps }),
      ...(metrics && { metrics }),
    });
  onProgress?.({ status: 'initiate', name: 'sweep' });
  const points: CurvePoint[] = [];
  let done = 0;
  let steps: number | undefined;
  for (const rule of rules) {
    const point = await evaluateRule(model, batches(), rule, {
      onProgress: () => report(++done, steps),
      ...(signal && { signal }),
    });
    points.push(point);
    steps ??= done * rules.length;
    report(done, steps, {
      ...(point.tau !== undefined && { tau: point.tau }),
      [point.score.name]: point.score.value,
      cost: point.cost,
    });
  }
  onProgress?.({ status: 'done', name: 'sweep', progress: 100 });
  return points;
}
