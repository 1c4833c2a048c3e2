import { cheapestWithin, scoreAtCost } from '../choose.js';
import type { Score } from '../score.js';
import {
  formatCost,
  formatCount,
  formatDifference,
  formatPercent,
  formatRoughly,
  listed,
} from './format.js';
import type { ReportCurve, ReportData, ReportPoint } from './types.js';

/** The shares of the dense score at which methods are compared. */
export const keptShares = [0.99, 0.97, 0.95] as const;

type Findings = Pick<ReportData, 'dense' | 'dynamicK' | 'baselines' | 'operatingPoints'>;

/**
 * What the report says first: what the first operating point keeps and costs, both measured on the test data. Without
 * operating points the cheapest point of the curve that keeps 99, else 97, else 95 %.
 */
export function headline(data: Findings): string {
  const point = headlinePoint(data);
  if (!point) {
    return `No threshold keeps ${keptLabel(0.95, data.dense.score.name)}`;
  }
  return `${kept(point, data)} at ${formatRoughly(point.cost)} of the cost`;
}

/** The point that the headline is about. */
export function headlinePoint(data: Findings): ReportPoint | undefined {
  const [first] = data.operatingPoints;
  if (first) return first.point;
  const points = keptShares.map((keep) =>
    cheapestWithin(data.dynamicK, { keep, dense: data.dense.score }),
  );
  return points.find((point) => point !== undefined);
}

function kept({ score }: ReportPoint, { dense }: Findings): string {
  const ratio = score.value / dense.score.value;
  if (score.name === 'accuracy') {
    return ratio >= 1
      ? 'Keeps all of the accuracy'
      : `Keeps ${formatPercent(ratio)} of the accuracy`;
  }
  return ratio <= 1
    ? 'Keeps all of the quality'
    : `Keeps the loss within ${formatPercent(ratio - 1)} of the dense model’s`;
}

/**
 * Dynamic-k against each baseline, in words. A baseline beats it at a cost where it scores better than dynamic-k does
 * at that cost or below, between measured points by linear interpolation; or where it costs less than dynamic-k ever
 * does while keeping 95 % of the dense score.
 */
export function comparisonSentences(data: Findings): string[] {
  const rivals = data.baselines.filter(({ isBound }) => !isBound);
  const bounds = data.baselines.filter(({ isBound }) => isBound);
  if (data.baselines.length === 0) return [];
  const won = rivals.flatMap((baseline) => victory(baseline, data) ?? []);
  const lost = rivals.filter((baseline) => pointsAhead(baseline, data).length === 0);
  const others = lost.length === 1 ? lost[0]?.label : `the other ${lost.length} baselines`;
  const first =
    won.length === 0
      ? 'No baseline beats dynamic-k at any cost that both were measured at.'
      : `${won.length} of ${rivals.length} baselines ${won.length === 1 ? 'beats' : 'beat'} dynamic-k at some cost.`;
  return [
    first,
    ...won,
    ...(won.length > 0 && lost.length > 0
      ? [`Dynamic-k is at least as good as ${others} at every cost that both were measured at.`]
      : []),
    ...bounds.map((bound) => {
      const sentence = victory(bound, data) ?? `${bound.label} is nowhere ahead of dynamic-k.`;
      return `${sentence.slice(0, -1)}: a bound that no router reaches, not a method.`;
    }),
    ...keptSentences(data),
    ...(won.length > 0 ? precision(data) : []),
  ];
}

/** A baseline's points that are better than anything dynamic-k offers at their cost or below. */
export function pointsAhead(
  baseline: Pick<ReportCurve, 'points'>,
  { dense, dynamicK }: Pick<ReportData, 'dense' | 'dynamicK'>,
): { point: ReportPoint; margin: number }[] {
  const sign = dense.score.higherIsBetter ? 1 : -1;
  const cheapest = Math.min(...dynamicK.map(({ cost }) => cost));
  const enough = (dense.score.higherIsBetter ? 0.95 : 1.05) * dense.score.value;
  return baseline.points.flatMap((point) => {
    if (point.cost < cheapest) {
      const isUseful = sign * (point.score.value - enough) >= 0;
      return isUseful ? [{ point, margin: Number.POSITIVE_INFINITY }] : [];
    }
    const ours = dynamicK.filter(({ cost }) => cost <= point.cost).map(({ score }) => score.value);
    const between = scoreAtCost(dynamicK, point.cost);
    if (between !== undefined) ours.push(between);
    const margin = Math.min(...ours.map((value) => sign * (point.score.value - value)));
    return margin > 1e-9 ? [{ point, margin }] : [];
  });
}

function victory(baseline: ReportCurve, data: Findings): string | undefined {
  const ahead = pointsAhead(baseline, data);
  if (ahead.length === 0) return undefined;
  const { name } = data.dense.score;
  const cheapest = Math.min(...data.dynamicK.map(({ cost }) => cost));
  const compared = ahead.filter(({ margin }) => Number.isFinite(margin));
  const below = ahead.filter(({ margin }) => !Number.isFinite(margin));
  const parts: string[] = [];
  if (compared.length > 0) {
    const costs = compared.map(({ point }) => point.cost);
    const range = [Math.min(...costs), Math.max(...costs)].map(formatCost);
    const where = range[0] === range[1] ? `cost ${range[0]}` : `costs ${range[0]} to ${range[1]}`;
    const best = compared.reduce((a, b) => (b.margin > a.margin ? b : a));
    const at = compared.length > 1 ? ` (at ${formatCost(best.point.cost)})` : '';
    parts.push(
      `beats dynamic-k at ${where}, by ${compared.length > 1 ? 'up to ' : ''}${formatDifference(name, best.margin)}${at}`,
    );
  }
  if (below.length > 0) {
    const least = below.reduce((a, b) => (b.point.cost < a.point.cost ? b : a)).point;
    parts.push(
      `keeps ${keptLabel(0.95, name)} at ${formatCost(least.cost)}, below dynamic-k’s lowest cost of ${formatCost(cheapest)}`,
    );
  }
  return `${baseline.label} ${parts.join(', and ')}.`;
}

/** `99 % of the accuracy`, for a loss `the loss within 1 %`: it may grow by what an accuracy may lose. */
export function keptLabel(keep: number, name: Score['name']): string {
  return name === 'accuracy'
    ? `${formatPercent(keep)} of the accuracy`
    : `the loss within ${formatPercent(1 - keep)}`;
}

/** Which method is the cheapest at each kept share. */
function keptSentences({ dense, dynamicK, baselines }: Findings): string[] {
  return keptShares.map((keep) => {
    const cost = (points: readonly ReportPoint[]) =>
      cheapestWithin(points, { keep, dense: dense.score })?.cost ?? Number.POSITIVE_INFINITY;
    const ours = cost(dynamicK);
    const cheaper = baselines
      .filter(({ isBound }) => !isBound)
      .map(({ label, points }) => ({ label, cost: cost(points) }))
      .filter((other) => other.cost < ours)
      .sort((a, b) => a.cost - b.cost)
      .map((other) => `${other.label} (${formatCost(other.cost)})`);
    const share = keptLabel(keep, dense.score.name);
    if (ours === Number.POSITIVE_INFINITY) {
      const others =
        cheaper.length > 0 ? `; ${listed(cheaper)} ${cheaper.length > 1 ? 'do' : 'does'}` : '';
      return `Dynamic-k does not keep ${share} at any threshold tried${others}.`;
    }
    return cheaper.length === 0
      ? `To keep ${share}, dynamic-k is the cheapest, at ${formatCost(ours)}.`
      : `To keep ${share}, dynamic-k costs ${formatCost(ours)}; cheaper ${cheaper.length > 1 ? 'are' : 'is'} ${listed(cheaper)}.`;
  });
}

/** How far an accuracy is off by chance. */
function precision({ dense: { score, samples } }: Findings): string[] {
  if (score.name !== 'accuracy') return [];
  const error = Math.sqrt((score.value * (1 - score.value)) / samples);
  return [
    `The standard error of an accuracy over ${formatCount(samples)} samples is ${formatDifference('accuracy', error)}.`,
  ];
}
