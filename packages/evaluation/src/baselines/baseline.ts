import type { ProgressCallback } from '@d2dmoe/core';
import type { CurvePoint } from '../evaluate.js';
import type { EvaluationBatches } from '../run-batches.js';

/** The figures that every curve's points share, whatever method they are of. */
export type MeasuredPoint = Pick<
  CurvePoint,
  'score' | 'cost' | 'convertedCost' | 'parametersRead' | 'executed'
>;

/**
 * One point of a baseline's curve, on the same data and cost model as a {@link CurvePoint}: `cheapestWithin`,
 * `scoreAtCost` and `costAtScore` take either. `executed` is, by FFN site, the share of what can be skipped that runs.
 */
export interface BaselinePoint extends MeasuredPoint {
  /** What the method was set to, see {@link BaselineCurve.knob}. */
  value: number;
}

/** A method that the conversion is compared with, and its cost–quality curve. */
export interface BaselineCurve {
  /** What it is called in options and file names. */
  name: BaselineName;
  /** Its name in a figure's legend. */
  label: string;
  /** One line for a report. */
  description: string;
  /** What each point's `value` sets, e.g. `target sparsity`. */
  knob: string;
  /** One for each value, in the order of the values. */
  points: BaselinePoint[];
  /** What else it was run with: training steps, widths, thresholds by site. */
  settings: Readonly<Record<string, unknown>>;
}

/** `cats` and `teal` run on the sparsified model, `catsDense` and `tealDense` on the original one. */
export type BaselineName =
  | 'topK'
  | 'cumulativeShare'
  | 'oracle'
  | 'moefication'
  | 'cats'
  | 'catsDense'
  | 'teal'
  | 'tealDense'
  | 'earlyExit';

/** What every baseline takes. */
export interface BaselineOptions {
  /** Opens the evaluation data; called once for each pass over it. */
  batches: () => EvaluationBatches;
  /** Settings of the method, one point each; a list that spans its curve unless told otherwise. */
  values?: readonly number[];
  /** Receives events named after the baseline. `step` counts batches, in training its steps. */
  onProgress?: ProgressCallback;
  /** Ends the work before its next batch: the promise is rejected with the signal's reason. */
  signal?: AbortSignal;
}

/** Shares of a layer that a fixed selection runs: finer where curves bend. */
export const selectedShares: readonly number[] = [
  0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.75, 1,
];
