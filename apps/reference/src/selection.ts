import { D2DMoEError } from '@d2dmoe/core';
import { type BudgetTarget, lookUpBudget, type Score } from '@d2dmoe/evaluation';
import type { ExpertStorage } from '@d2dmoe/kernels';
import { dynamicConfig, type Model, type StoredCalibration, type Thresholds } from '@d2dmoe/models';

/** Options of every command that runs a model; at most one of them. */
export const selectionOptions = [
  {
    flag: 'cost',
    type: 'number',
    min: 1e-3,
    description: 'cost to run a converted checkpoint at, relative to the dense model, e.g. 0.6',
  },
  {
    flag: 'keep',
    type: 'number',
    min: 1e-3,
    max: 1,
    description: 'share of the dense score to run a converted checkpoint at, e.g. 0.99',
  },
  {
    flag: 'point',
    type: 'string',
    placeholder: 'NAME',
    description: 'an operating point that the checkpoint stores; d2dmoe inspect lists them',
  },
  {
    flag: 'tau',
    type: 'number',
    min: 0,
    max: 1,
    description:
      'threshold for all layers, 0 for all experts (default of all four: what the checkpoint says)',
  },
] as const;

/** How the experts of a converted model are to be selected; the checkpoint's own thresholds where nothing is said. */
export interface SelectionArguments {
  /** A relative total cost, looked up in the checkpoint's calibration. */
  cost?: number | undefined;
  /** A share of the dense score, looked up in the checkpoint's calibration. */
  keep?: number | undefined;
  /** One of the checkpoint's operating points. */
  point?: string | undefined;
  /** One threshold for all layers. */
  tau?: number | undefined;
  /** How experts are kept in memory; float32 by default. */
  storage?: ExpertStorage | undefined;
}

/**
 * The thresholds by which a model's experts are selected; undefined for a dense model.
 *
 * @throws D2DMoEError `SELECTION_INVALID` where more than one is asked for or an operating point is not there;
 *   `NOT_CONVERTED` where a dense model is asked for one; `NOT_CALIBRATED` where nothing was stored to look a budget up
 *   in; `BUDGET_UNREACHABLE`
 */
export function thresholdsOf(
  { cost, keep, point, tau }: SelectionArguments,
  model: Pick<Model, 'config' | 'sites' | 'routers'>,
): Thresholds | undefined {
  const asked = Object.entries({ cost, keep, point, tau }).filter(
    ([, value]) => value !== undefined,
  );
  if (asked.length > 1) {
    const names = asked.map(([name]) => name).join(' and ');
    throw new D2DMoEError(
      'SELECTION_INVALID',
      `${names} each say how experts are selected; give one of them.`,
    );
  }
  const dynamic = dynamicConfig(model);
  if (dynamic === undefined || model.routers.size === 0) {
    const [first] = asked;
    if (first === undefined) return undefined;
    throw new D2DMoEError(
      'NOT_CONVERTED',
      `The checkpoint has no routers, so there is nothing to select: run d2dmoe convert on it first, or leave ${first[0]} out.`,
    );
  }
  if (tau !== undefined) return tau;
  const { calibration } = dynamic;
  if (point !== undefined) return storedPoint(calibration, point);
  const target = cost !== undefined ? { cost } : keep !== undefined ? { keep } : undefined;
  return target === undefined ? dynamic.tau : budgetThresholds(calibration, target);
}

function storedPoint(calibration: StoredCalibration | undefined, name: string): Thresholds {
  const points = calibration?.operating_points ?? {};
  const found = Object.hasOwn(points, name) ? points[name] : undefined;
  if (found !== undefined) return found.tau;
  const names = Object.keys(points);
  throw new D2DMoEError(
    'SELECTION_INVALID',
    names.length === 0
      ? `The checkpoint stores no operating points, so "${name}" is none: run d2dmoe calibrate on it first, or give tau.`
      : `The checkpoint has no operating point "${name}"; it has ${names.join(', ')}.`,
  );
}

function budgetThresholds(
  calibration: StoredCalibration | undefined,
  target: BudgetTarget,
): Thresholds {
  if (calibration === undefined) {
    throw new D2DMoEError(
      'NOT_CALIBRATED',
      'The checkpoint stores no calibration to look a budget up in: run d2dmoe calibrate on it first, or give tau.',
    );
  }
  const score = (value: number): Score => ({
    name: calibration.score,
    value,
    higherIsBetter: calibration.score === 'accuracy',
  });
  const path = calibration.path.map(({ tau, cost, score: value }) => ({
    thresholds: tau,
    cost,
    score: score(value),
  }));
  return lookUpBudget(path, target, score(calibration.dense_score));
}
