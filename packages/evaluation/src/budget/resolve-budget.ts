import { D2DMoEError } from '@d2dmoe/core';
import type { Thresholds } from '@d2dmoe/models';
import type { Score } from '../score.js';
import { between } from './thresholds.js';

/** What a user asks for: a relative total cost, or a share of the dense score (a loss may grow by 1 − keep). */
export type BudgetTarget = { cost: number } | { keep: number };

/** Thresholds with what they gave on the calibration data. */
export interface MeasuredThresholds {
  /** One for all sites, or one for each by its name. */
  thresholds: Thresholds;
  /** Of the model's task: accuracy, or loss. */
  score: Score;
  /** Mean cross-entropy in nats, of classifiers too. */
  loss: number;
  /** Total cost relative to the dense model. */
  cost: number;
}

/** What a budget is called where a checkpoint stores it: `keep-0.99`, `cost-0.6`. */
export function budgetName(target: BudgetTarget): string {
  return 'cost' in target ? `cost-${target.cost}` : `keep-${target.keep}`;
}

/** How near a cost has to come to what was asked for, relative to it. */
const tolerance = 0.004;
/** At most so many measurements between two neighbours of the path. */
const costSteps = 8;

/**
 * The point of a path of thresholds that meets a target: for a cost, the one whose cost is nearest to it; for a share
 * of the score, the cheapest that keeps it. Between two neighbours of the path the thresholds are interpolated and
 * measured again.
 *
 * @param path measured, cheapest last
 * @param dense the dense model's score on the same data
 * @throws D2DMoEError `BUDGET_UNREACHABLE`, saying what can be reached
 */
export async function resolveBudget(
  path: readonly MeasuredThresholds[],
  target: BudgetTarget,
  dense: Score,
  measure: (thresholds: Thresholds) => Promise<MeasuredThresholds>,
): Promise<MeasuredThresholds> {
  return 'cost' in target
    ? resolveCost(path, target.cost, measure)
    : resolveKeep(path, target.keep, dense, measure);
}

async function resolveCost(
  path: readonly MeasuredThresholds[],
  cost: number,
  measure: (thresholds: Thresholds) => Promise<MeasuredThresholds>,
): Promise<MeasuredThresholds> {
  const first = path[0] as MeasuredThresholds;
  const last = path.at(-1) as MeasuredThresholds;
  // More than all experts cost is always met by running all of them.
  if (cost >= first.cost) return first;
  if (cost < last.cost * (1 - tolerance)) {
    throw unreachableCost(cost, last.cost);
  }
  const index = path.findIndex((point) => point.cost <= cost);
  if (index < 1) return last;
  let left = path[index - 1] as MeasuredThresholds;
  let right = path[index] as MeasuredThresholds;
  for (let i = 0; i < costSteps; i++) {
    const nearest = cost - right.cost < left.cost - cost ? right : left;
    if (Math.abs(nearest.cost - cost) <= tolerance * cost) return nearest;
    // Where a straight line meets the cost; kept off the ends, so that a bent curve cannot hold it there.
    const line = (left.cost - cost) / (left.cost - right.cost);
    const share = Math.min(0.9, Math.max(0.1, line));
    const middle = await measure(between(left.thresholds, right.thresholds, share));
    if (middle.cost > cost) left = middle;
    else right = middle;
  }
  return cost - right.cost < left.cost - cost ? right : left;
}

/** Refinements of a score are few: scores of neighbours differ by less than their noise. */
const scoreHalvings = 3;

async function resolveKeep(
  path: readonly MeasuredThresholds[],
  keep: number,
  dense: Score,
  measure: (thresholds: Thresholds) => Promise<MeasuredThresholds>,
): Promise<MeasuredThresholds> {
  const bound = scoreBound(keep, dense);
  const isKept = ({ score }: MeasuredThresholds) =>
    dense.higherIsBetter ? score.value >= bound : score.value <= bound;
  // The path is left where the score is first missed: a later point that keeps it again does so by chance.
  const missed = path.findIndex((point) => !isKept(point));
  if (missed === -1) return path.at(-1) as MeasuredThresholds;
  if (missed === 0) {
    throw unreachableScore(keep, dense, path);
  }
  let left = path[missed - 1] as MeasuredThresholds;
  let right = path[missed] as MeasuredThresholds;
  for (let i = 0; i < scoreHalvings; i++) {
    const middle = await measure(between(left.thresholds, right.thresholds, 0.5));
    if (isKept(middle)) left = middle;
    else right = middle;
  }
  return left;
}

/** The worst score that keeps a share of the dense one; a loss may grow by 1 − keep of itself. */
export function scoreBound(keep: number, dense: Score): number {
  return (dense.higherIsBetter ? keep : 2 - keep) * dense.value;
}

/** The error for a cost that is below all of a path's, `cheapest` the least. */
export function unreachableCost(cost: number, cheapest: number): D2DMoEError {
  return new D2DMoEError(
    'BUDGET_UNREACHABLE',
    `A cost of ${cost} cannot be reached: this model's cheapest thresholds cost ${cheapest.toFixed(3)} of the dense model.`,
  );
}

/** The error for a share of the score that no point of a path keeps. */
export function unreachableScore(
  keep: number,
  dense: Score,
  path: readonly Pick<MeasuredThresholds, 'score'>[],
): D2DMoEError {
  const values = path.map(({ score }) => score.value);
  const best = dense.higherIsBetter ? Math.max(...values) : Math.min(...values);
  const share = dense.higherIsBetter ? best / dense.value : 2 - best / dense.value;
  return new D2DMoEError(
    'BUDGET_UNREACHABLE',
    `Keeping ${keep} of the dense ${dense.name}, a score of ${scoreBound(keep, dense).toFixed(4)}, cannot be reached: the best thresholds give ${best.toFixed(4)}, which keeps ${(Math.floor(1000 * share) / 1000).toFixed(3)}.`,
  );
}
