import type { SelectionRule } from '@d2dmoe/kernels';
import type { Model, Site } from '@d2dmoe/models';
import { evaluateRule } from '../evaluate.js';
import {
  type BaselineCurve,
  type BaselineOptions,
  type BaselinePoint,
  selectedShares,
} from './baseline.js';
import { sweepValues } from './sweep-values.js';

/** Options of the baselines on a converted model. */
export interface ConvertedBaselineOptions extends BaselineOptions {
  /** The converted model. */
  model: Model;
}

/**
 * The same k for every token, with our routers: what dynamic-k selection adds to them.
 *
 * @param options.values Shares of a layer's experts; k is the share of n, rounded, at least 1.
 * @throws D2DMoEError as `evaluateRule`.
 */
export async function topKBaseline(options: ConvertedBaselineOptions): Promise<BaselineCurve> {
  const { values = selectedShares, model } = options;
  const rule = (value: number) => (site: Site) => shareOfExperts(value, expertsOf(model, site));
  return {
    name: 'topK',
    label: 'Fixed k',
    description: 'Our routers, but the same number of experts for every token.',
    knob: 'share of experts, k/n',
    points: await sweepRules('topK', options, values, rule),
    settings: {},
  };
}

/**
 * The smallest set of experts that reaches a share of the predicted norms' sum, with our routers.
 *
 * @param options.values Shares of the sum.
 * @throws D2DMoEError as `evaluateRule`.
 */
export async function cumulativeShareBaseline(
  options: ConvertedBaselineOptions,
): Promise<BaselineCurve> {
  const { values = cumulativeShares } = options;
  const rule = (value: number): SelectionRule => ({ rule: 'cumulativeShare', value });
  return {
    name: 'cumulativeShare',
    label: 'Cumulative share',
    description: 'Our routers; the fewest experts whose predicted norms sum to a share of all.',
    knob: 'share of the predicted norms',
    points: await sweepRules('cumulativeShare', options, values, rule),
    settings: {},
  };
}

const cumulativeShares = [0.2, 0.4, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.98, 1];

/** Top-k with k a share of n experts, rounded, at least 1. */
export function shareOfExperts(share: number, experts: number): SelectionRule {
  return { rule: 'topK', value: Math.max(1, Math.round(share * experts)) };
}

function expertsOf(model: Model, { name }: Site): number {
  return model.routers.get(name)?.output.shape[0] ?? 0;
}

function sweepRules(
  name: string,
  { model, batches, onProgress, signal }: ConvertedBaselineOptions,
  values: readonly number[],
  rule: (value: number) => SelectionRule | ((site: Site) => SelectionRule),
): Promise<BaselinePoint[]> {
  return sweepValues(name, values, onProgress, (value, onBatch) =>
    evaluateRule(model, batches(), rule(value), {
      onProgress: onBatch,
      ...(signal && { signal }),
    }),
  );
}
