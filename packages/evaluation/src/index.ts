export {
  type Budget,
  cheapestWithin,
  costAtScore,
  type ScoredCost,
  scoreAtCost,
} from './choose.js';
export {
  type CostedSite,
  CostModel,
  type CostSummary,
  type ExecutionCounts,
  type ParametersRead,
} from './cost-model.js';
export {
  type CurveDescription,
  type CurveJson,
  type CurveJsonPoint,
  curveFromJson,
  curveToJson,
} from './curve-json.js';
export {
  type DenseCost,
  denseCost,
  type MatrixParameters,
  matrixParameters,
} from './dense-cost.js';
export {
  type CurvePoint,
  type DenseEvaluation,
  type EvaluationOptions,
  evaluateDense,
  evaluateRule,
} from './evaluate.js';
export type { EvaluationBatch, EvaluationBatches } from './run-batches.js';
export { NOT_SCORED, type Score } from './score.js';
export { type ConvertedSiteCost, convertedSiteCost, siteCost } from './site-cost.js';
export { sweep, type SweepOptions } from './sweep.js';
export { curveTable } from './table.js';
