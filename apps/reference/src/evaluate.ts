import type { BaselineCurve, CurveJson } from '@d2dmoe/evaluation';
import type { ReportCurve } from '@d2dmoe/evaluation/report';
import type { ExpertStorage, SelectionRule } from '@d2dmoe/kernels';
import { type BaselineSettings, measureBaselines } from './stages/baselines.js';
import { evaluateCurve } from './stages/evaluate.js';
import { hasReport, requireNewReport, writeReport } from './stages/report.js';
import { type DataOptions, prepareData } from './stages/prepare.js';
import type { StageOptions } from './stages/stage.js';

/** What {@link evaluate} takes. */
export interface EvaluateOptions extends StageOptions {
  /** Folder of the dense checkpoint that scores and costs are relative to. */
  dense: string;
  data: DataOptions;
  /** One point of the curve each. */
  rules: readonly SelectionRule[];
  /** How experts are kept in memory; float32 by default. */
  storage?: ExpertStorage;
  /** At most this many test samples, drawn by seed. */
  samples?: number;
  /** What the curve is compared with, and how networks that need training for that are trained. */
  baselines?: Omit<BaselineSettings, 'samples'>;
  /** A new folder for the report; `output` unless told otherwise. */
  report?: string;
}

/**
 * Measures the cost–quality curve of a converted checkpoint on the test split; it is also written as `curve.json` into
 * `output`, and a report with its figures: `report.html`, `figures`. Baselines leave theirs in `baselines`. A tfjs backend must have been chosen, see `useDevice`.
 *
 * @throws D2DMoEError where checkpoint or data are not right or the report's folder exists; `INTERRUPTED` when the signal is aborted
 */
export async function evaluate(options: EvaluateOptions): Promise<CurveJson> {
  const { input, dense, rules, samples, storage } = options;
  if (options.report !== undefined) await requireNewReport(options.report);
  const data = await prepareData(input, options.data);
  const { curve } = await evaluateCurve(
    options,
    dense,
    { hash: data.dataset.hash, batches: data.batches({ batchSize: 1, steps: 1 }) },
    { rules, ...(storage && { storage }), ...(samples !== undefined && { samples }) },
  );
  const baselines = options.baselines
    ? await measureBaselines(options, dense, data, {
        ...options.baselines,
        ...(samples !== undefined && { samples }),
      })
    : [];
  const directory = options.report ?? options.output;
  if (!(await hasReport(directory))) {
    const records = [input, options.output];
    await writeReport({
      ...options,
      directory,
      data,
      curve,
      records,
      baselines: baselines.map(reportCurve),
    });
  }
  return curve;
}

/** The oracle knows what no router can: it is a bound, not a rival. */
function reportCurve(curve: BaselineCurve): ReportCurve {
  return { ...curve, isBound: curve.name === 'oracle' };
}

/** Rules from few experts to all, for comparing a selection rule with thresholds: shares of experts, or of norms. */
export function rulesOf(
  rule: SelectionRule['rule'],
  taus: readonly number[],
  experts: number,
): SelectionRule[] {
  if (rule === 'threshold') return taus.map((value) => ({ rule, value }));
  const shares = [1 / 64, 1 / 32, 1 / 16, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8];
  if (rule === 'cumulativeShare') {
    return [...shares, 0.9, 0.95, 0.98, 0.99].map((value) => ({ rule, value }));
  }
  const counts = new Set(shares.map((share) => Math.max(1, Math.round(share * experts))));
  return [...counts].map((value) => ({ rule, value }));
}
