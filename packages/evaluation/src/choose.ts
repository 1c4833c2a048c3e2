import { D2DMoEError } from '@d2dmoe/core';
import { scoreBound } from './budget/resolve-budget.js';
import type { CurvePoint } from './evaluate.js';
import type { Score } from './score.js';

/** The part of a curve's point that choosing and comparing need. */
export type ScoredCost = Pick<CurvePoint, 'score' | 'cost'>;

/** How much of the dense model's score has to be kept. */
export interface Budget {
  /** Share of the dense score, e.g. 0.99; a loss may grow by 1 − keep of itself: 0.97 allows 3 % more. */
  keep: number;
  /** The dense model's score on the same data. */
  dense: Score;
}

/**
 * The cheapest point whose score is at least keep · dense, for a loss at most (2 − keep) · dense; of equally cheap
 * ones the better. Undefined where no point is good enough.
 *
 * @throws D2DMoEError `EVALUATION_SCORES` where a point is scored otherwise than the dense model.
 */
export function cheapestWithin<Point extends ScoredCost>(
  points: readonly Point[],
  { keep, dense }: Budget,
): Point | undefined {
  const bound = scoreBound(keep, dense);
  const [cheapest] = points
    .filter(({ score }) => {
      if (score.name !== dense.name) {
        throw new D2DMoEError(
          'EVALUATION_SCORES',
          `A point scored by ${score.name} cannot be held against a dense ${dense.name}.`,
        );
      }
      return isAsGood(score, bound);
    })
    .sort(byCost);
  return cheapest;
}

/**
 * A curve's score at a cost, by linear interpolation between its points. Undefined outside the costs that the curve
 * spans.
 */
export function scoreAtCost(curve: readonly ScoredCost[], cost: number): number | undefined {
  const sorted = curve.toSorted(byCost);
  for (const [i, right] of sorted.entries()) {
    if (right.cost < cost) continue;
    if (right.cost === cost) return right.score.value;
    const left = sorted[i - 1];
    if (!left) return undefined;
    const share = (cost - left.cost) / (right.cost - left.cost);
    return left.score.value + share * (right.score.value - left.score.value);
  }
  return undefined;
}

/**
 * The lowest cost at which a curve, interpolated linearly between its points, is as good as a score. Undefined where
 * it never is.
 */
export function costAtScore(curve: readonly ScoredCost[], score: number): number | undefined {
  const sorted = curve.toSorted(byCost);
  const i = sorted.findIndex((point) => isAsGood(point.score, score));
  const right = sorted[i];
  const left = sorted[i - 1];
  if (!right || !left) return right?.cost;
  const share = (score - left.score.value) / (right.score.value - left.score.value);
  return left.cost + share * (right.cost - left.cost);
}

function isAsGood(score: Score, bound: number): boolean {
  return score.higherIsBetter ? score.value >= bound : score.value <= bound;
}

/** Cheapest first, of equally cheap ones the better first. */
function byCost(a: ScoredCost, b: ScoredCost): number {
  const gain = a.score.higherIsBetter
    ? b.score.value - a.score.value
    : a.score.value - b.score.value;
  return a.cost - b.cost || gain;
}
