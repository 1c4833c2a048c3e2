export type {
  BaselineCurve,
  BaselineName,
  BaselineOptions,
  BaselinePoint,
  MeasuredPoint,
} from './baselines/baseline.js';
export { catsBaseline } from './baselines/cats.js';
export { earlyExitBaseline } from './baselines/early-exit.js';
export { type ExitHead, trainEarlyExits } from './baselines/exit-heads.js';
export {
  type ConvertedBaselineOptions,
  cumulativeShareBaseline,
  topKBaseline,
} from './baselines/fixed-rules.js';
export { baselineNames, baselines, type BaselinesOptions } from './baselines/index.js';
export type { MagnitudeBaselineOptions } from './baselines/magnitudes.js';
export { moeficationBaseline, trainMoeficationRouters } from './baselines/moefication.js';
export { oracleBaseline } from './baselines/oracle.js';
export { tealBaseline } from './baselines/teal.js';
export type { TrainingOptions } from './baselines/training.js';
export { layerPath, type Sensitivity } from './budget/layer-path.js';
export { lookUpBudget } from './budget/look-up-budget.js';
export { meetBudget, type MetBudget } from './budget/meet-budget.js';
export {
  budgetName,
  type BudgetTarget,
  type MeasuredThresholds,
  resolveBudget,
} from './budget/resolve-budget.js';
export {
  type ThresholdPaths,
  thresholdPaths,
  type ThresholdPathsOptions,
} from './budget/threshold-paths.js';
export { between, thresholdRule } from './budget/thresholds.js';
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
  type CurveJsonOperatingPoint,
  type CurveJsonPoint,
  curveFromJson,
  curveToJson,
  pointFromJson,
  pointToJson,
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
export { ExecutionCounter } from './execution-counter.js';
export { type Generated, generationCost } from './generation-cost.js';
export type { EvaluationBatch, EvaluationBatches } from './run-batches.js';
export { NOT_SCORED, type Score } from './score.js';
export { type ConvertedSiteCost, convertedSiteCost, siteCost } from './site-cost.js';
export { sweep, type SweepOptions } from './sweep.js';
export { curveTable } from './table.js';
export {
  type ExecutedByToken,
  executedByToken,
  type ExecutedSummary,
  summarizeExecuted,
} from './observe/executed-by-token.js';
export { type ExecutedByPosition, executedByPosition } from './observe/executed-by-position.js';
export type { ObserveOptions } from './observe/observe-batches.js';
export { type RouterError, routerError } from './observe/router-error.js';
export { expectedDensities } from './observe/expected-densities.js';
export { timeForward, type TimeForwardOptions, type Timing } from './observe/time-forward.js';
