import type { SelectionRule } from '@d2dmoe/kernels';
import type { Model } from '@d2dmoe/models';
import { CostModel } from './cost-model.js';
import type { CurvePoint, DenseEvaluation } from './evaluate.js';
import type { Score } from './score.js';

/** The curve file, version 1. */
export interface CurveJson {
  /** Raised when readers of this version would misread the file. */
  format_version: 1;
  /** What was measured. */
  model: {
    name: string;
    task: Model['task'];
    /** By name of each converted site: its experts, and the multiply-adds per token that they cost. */
    sites: Record<
      string,
      { experts: number; dense_cost: number; expert_cost: number; router_cost: number }
    >;
  };
  /** What `score` means in every point. */
  score: { name: Score['name']; higher_is_better: boolean };
  /** The model that `cost` is relative to, on the same data. */
  dense: {
    score: number;
    samples: number;
    tokens: number;
    /** Mean of a sample. */
    multiply_adds: number;
    parameters: number;
  };
  /** In the order in which they were measured. */
  points: CurveJsonPoint[];
  /** Points that the model was calibrated for, on these data. */
  operating_points?: CurveJsonOperatingPoint[];
}

/** A named point of a curve file. */
export interface CurveJsonOperatingPoint {
  /** `keep-0.99`, `cost-0.6`. */
  name: string;
  /** What its thresholds gave on these data. */
  point: CurveJsonPoint;
  /** The same budget met by one threshold for all layers, where the point's thresholds differ by layer. */
  global?: CurveJsonPoint;
}

/** One point of a curve file; costs are relative to the dense model. */
export interface CurveJsonPoint {
  /** The selection rule of all sites, or of each by its name. */
  rule: SelectionRule | Readonly<Record<string, SelectionRule>>;
  /** The threshold, where one holds for all sites. */
  tau?: number;
  /** In the unit that {@link CurveJson} says: accuracy in [0, 1], or loss in nats per token. */
  score: number;
  /** Mean cross-entropy in nats. */
  loss: number;
  /** Multiply-adds in total. */
  cost: number;
  /** Multiply-adds of the converted layers alone, routers included. */
  converted_cost: number;
  /** Parameters read per token. */
  parameters_read: number;
  /** By site name: share of its experts executed. */
  executed: Readonly<Record<string, number>>;
  /** Experts run per token, mean over real tokens and converted sites; a number, not a share. */
  mean_experts_per_token: number;
}

/** What {@link curveToJson} writes down. */
export interface CurveDescription {
  /** How the model is called, e.g. its folder's name. */
  name: string;
  /** The converted model; its routers give each site's costs. */
  model: Pick<Model, 'shape' | 'sites' | 'routers' | 'task'>;
  /** What the points are relative to, on the same data. */
  dense: DenseEvaluation;
  /** In the order in which the file shall have them. */
  points: readonly CurvePoint[];
}

/** A curve as a plain object for JSON, see {@link CurveJson}. */
export function curveToJson({ name, model, dense, points }: CurveDescription): CurveJson {
  const sites = new CostModel(model).sites.map((site) => [
    site.name,
    {
      experts: site.experts,
      dense_cost: site.dense,
      expert_cost: site.perExpert,
      router_cost: site.router,
    },
  ]);
  return {
    format_version: 1,
    model: { name, task: model.task, sites: Object.fromEntries(sites) },
    score: { name: dense.score.name, higher_is_better: dense.score.higherIsBetter },
    dense: {
      score: dense.score.value,
      samples: dense.samples,
      tokens: dense.tokens,
      multiply_adds: dense.multiplyAdds,
      parameters: dense.parameters,
    },
    points: points.map(pointToJson),
  };
}

/** A curve's point as a plain object for JSON. */
export function pointToJson(point: CurvePoint): CurveJsonPoint {
  return {
    rule: point.rule,
    ...(point.tau !== undefined && { tau: point.tau }),
    score: point.score.value,
    loss: point.loss,
    cost: point.cost,
    converted_cost: point.convertedCost,
    parameters_read: point.parametersRead,
    executed: point.executed,
    mean_experts_per_token: point.meanExpertsPerToken,
  };
}

/** A curve file's points and dense reference in the form that {@link curveToJson} took them. */
export function curveFromJson(curve: CurveJson): Pick<CurveDescription, 'dense' | 'points'> {
  const { name, higher_is_better: higherIsBetter } = curve.score;
  return {
    dense: {
      score: { name, value: curve.dense.score, higherIsBetter },
      samples: curve.dense.samples,
      tokens: curve.dense.tokens,
      multiplyAdds: curve.dense.multiply_adds,
      parameters: curve.dense.parameters,
    },
    points: curve.points.map((point) => pointFromJson(point, curve.score)),
  };
}

/** A point in the form that {@link pointToJson} took it; `score` is the curve file's. */
export function pointFromJson(point: CurveJsonPoint, score: CurveJson['score']): CurvePoint {
  return {
    rule: point.rule,
    ...(point.tau !== undefined && { tau: point.tau }),
    score: { name: score.name, value: point.score, higherIsBetter: score.higher_is_better },
    loss: point.loss,
    cost: point.cost,
    convertedCost: point.converted_cost,
    parametersRead: point.parameters_read,
    executed: point.executed,
    meanExpertsPerToken: point.mean_experts_per_token,
  };
}
