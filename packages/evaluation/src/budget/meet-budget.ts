import { D2DMoEError } from '@d2dmoe/core';
import type { Score } from '../score.js';
import { type BudgetTarget, type MeasuredThresholds, resolveBudget } from './resolve-budget.js';
import type { ThresholdPaths } from './threshold-paths.js';

/** Thresholds that meet a budget on the calibration data. */
export interface MetBudget {
  /** The best found. */
  chosen: MeasuredThresholds;
  /** With one threshold for all layers; absent where only thresholds per layer meet the budget. */
  global?: MeasuredThresholds;
}

/**
 * The thresholds that meet a budget: those per layer where they are known and better, else one for all layers. For a
 * share of the score better is cheaper; for a cost it is the score, and of equal scores the loss.
 *
 * @param dense the dense model's score on the calibration data
 * @throws D2DMoEError `BUDGET_UNREACHABLE`, saying what can be reached
 */
export async function meetBudget(
  { global, perLayer, measure }: ThresholdPaths,
  target: BudgetTarget,
  dense: Score,
): Promise<MetBudget> {
  const one = await unlessUnreachable(resolveBudget(global, target, dense, measure));
  const layered =
    perLayer && (await unlessUnreachable(resolveBudget(perLayer, target, dense, measure)));
  const [first, second] = [one, layered].filter(
    (point): point is MeasuredThresholds => point !== undefined && !(point instanceof D2DMoEError),
  );
  if (first === undefined) throw layered ?? one;
  const chosen = second && isBetter(second, first, target) ? second : first;
  return one instanceof D2DMoEError ? { chosen } : { chosen, global: one };
}

async function unlessUnreachable<T>(found: Promise<T>): Promise<T | D2DMoEError> {
  try {
    return await found;
  } catch (error) {
    if (error instanceof D2DMoEError && error.code === 'BUDGET_UNREACHABLE') return error;
    throw error;
  }
}

function isBetter(a: MeasuredThresholds, b: MeasuredThresholds, target: BudgetTarget): boolean {
  if ('keep' in target) return a.cost < b.cost;
  const gain = a.score.value - b.score.value;
  if (gain === 0) return a.loss < b.loss;
  return a.score.higherIsBetter ? gain > 0 : gain < 0;
}
