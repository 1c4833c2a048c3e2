import type { Thresholds } from '@d2dmoe/models';
import type { Score } from '../score.js';
import {
  type BudgetTarget,
  type MeasuredThresholds,
  scoreBound,
  unreachableCost,
  unreachableScore,
} from './resolve-budget.js';
import { between } from './thresholds.js';

/** The part of a path's point that looking up needs, and that a checkpoint stores. */
type KnownThresholds = Pick<MeasuredThresholds, 'thresholds' | 'score' | 'cost'>;

/**
 * The thresholds that should meet a budget by what a path gave when it was measured: linear between its points, and
 * nothing is run. `resolveBudget` measures, and so is exact.
 *
 * @param path cheapest last
 * @param dense the dense model's score on the data of the path
 * @throws D2DMoEError `BUDGET_UNREACHABLE`, saying what can be reached
 */
export function lookUpBudget(
  path: readonly KnownThresholds[],
  target: BudgetTarget,
  dense: Score,
): Thresholds {
  // How far a point is inside the budget, in the budget's unit; negative outside.
  const margin =
    'cost' in target
      ? ({ cost }: KnownThresholds) => cost - target.cost
      : ({ score }: KnownThresholds) =>
          (score.value - scoreBound(target.keep, dense)) * (dense.higherIsBetter ? 1 : -1);
  const last = path.at(-1) as KnownThresholds;
  const past = path.findIndex((point) => margin(point) < 0);
  if (past === -1) {
    if ('cost' in target && margin(last) > 0) throw unreachableCost(target.cost, last.cost);
    return last.thresholds;
  }
  const right = path[past] as KnownThresholds;
  const left = path[past - 1];
  if (left === undefined) {
    // All experts cost less than what may be spent; but a score that all experts miss, every point misses.
    if ('keep' in target) throw unreachableScore(target.keep, dense, path);
    return right.thresholds;
  }
  return between(left.thresholds, right.thresholds, margin(left) / (margin(left) - margin(right)));
}
