import type { ProgressCallback } from '@d2dmoe/core';
import type { SelectionRule } from '@d2dmoe/kernels';
import { dynamicSubstitute, type Model, type Site } from '@d2dmoe/models';
import { CostModel } from './cost-model.js';
import { denseCost, matrixParameters } from './dense-cost.js';
import { type EvaluationBatches, runBatches } from './run-batches.js';
import type { Score } from './score.js';
import { SelectionCounter } from './selection-counter.js';

/** What every evaluation takes. */
export interface EvaluationOptions {
  /** Receives `progress` events named `evaluate`, one per batch, with `step` the batches done. */
  onProgress?: ProgressCallback;
  /** Ends the evaluation before its next batch: the promise is rejected with the signal's reason. */
  signal?: AbortSignal;
}

/** A dense model's score and cost: the reference of a curve. */
export interface DenseEvaluation {
  /** Of the model's task: accuracy, or loss. */
  score: Score;
  /** Number of sequences or images. */
  samples: number;
  /** Real tokens of all samples. */
  tokens: number;
  /** Multiply-adds of a sample, mean over the data set. */
  multiplyAdds: number;
  /** Parameters of the weight matrices that a token's pass reads. */
  parameters: number;
}

/** The score and cost of a converted model under one selection rule: one point of its cost–quality curve. */
export interface CurvePoint {
  /** The rule, or where sites have rules of their own, those by site name. */
  rule: SelectionRule | Readonly<Record<string, SelectionRule>>;
  /** The threshold, where one threshold holds for all sites. */
  tau?: number;
  /** Of the model's task: accuracy, or loss. */
  score: Score;
  /** Mean cross-entropy in nats, of classifiers too: it ranks points that accuracy is too coarse to tell apart. */
  loss: number;
  /** Multiply-adds in total, relative to the dense model on the same data. */
  cost: number;
  /** The same for the converted layers alone, routers included. */
  convertedCost: number;
  /** Parameters read per token, relative to the dense model. */
  parametersRead: number;
  /** By site name: share of its experts that run, mean over real tokens. */
  executed: Readonly<Record<string, number>>;
  /** Experts run per token, mean over real tokens and converted sites. */
  meanExpertsPerToken: number;
}

/**
 * Scores a model as it stands, without any selection. Works for plain models too, also while they are trained.
 *
 * @throws D2DMoEError `EVALUATION_EMPTY` where the data hold no scored label; `EVALUATION_LABELS` where a batch's
 * labels do not fit its logits.
 */
export async function evaluateDense(
  model: Pick<Model, 'shape' | 'task' | 'forward'>,
  batches: EvaluationBatches,
  { onProgress, signal }: EvaluationOptions = {},
): Promise<DenseEvaluation> {
  const onBatch = (step: number) => onProgress?.({ status: 'progress', name: 'evaluate', step });
  const { score, lengths } = await runBatches(model, batches, undefined, onBatch, signal);
  const samples = lengths.length;
  const total = lengths.reduce((sum, length) => sum + denseCost(model.shape, length).total, 0);
  return {
    score,
    samples,
    tokens: lengths.reduce((sum, length) => sum + length, 0),
    multiplyAdds: total / samples,
    parameters: matrixParameters(model.shape).total,
  };
}

/**
 * Scores a converted model under a selection rule, and counts exactly which experts its real tokens execute.
 *
 * @param rule One rule for all sites, or a function that gives each its own.
 * @throws D2DMoEError `EVALUATION_NOT_CONVERTED` where no site has a router; `EVALUATION_EMPTY` and
 * `EVALUATION_LABELS` as {@link evaluateDense}.
 */
export async function evaluateRule(
  model: Model,
  batches: EvaluationBatches,
  rule: SelectionRule | ((site: Site) => SelectionRule),
  { onProgress, signal }: EvaluationOptions = {},
): Promise<CurvePoint> {
  const costModel = new CostModel(model);
  const counter = new SelectionCounter();
  const substitute = dynamicSubstitute(model, { rule, onSelection: counter.observe });
  const onBatch = (step: number) => onProgress?.({ status: 'progress', name: 'evaluate', step });
  try {
    const { score, loss, lengths } = await runBatches(
      model,
      batches,
      { substitute, counter },
      onBatch,
      signal,
    );
    const cost = costModel.cost({ lengths, executed: counter.executed });
    const tokens = lengths.reduce((sum, length) => sum + length, 0);
    const perToken = costModel.sites.map(
      ({ name }) => (counter.executed.get(name) as number) / tokens,
    );
    return {
      ...describe(model, rule),
      score,
      loss,
      cost: cost.relativeTotal,
      convertedCost: cost.convertedRelative,
      parametersRead: cost.parametersRead.relative,
      executed: Object.fromEntries(
        costModel.sites.map(({ name, experts }, i) => [name, (perToken[i] as number) / experts]),
      ),
      meanExpertsPerToken: perToken.reduce((sum, count) => sum + count, 0) / perToken.length,
    };
  } finally {
    substitute.dispose();
  }
}

/** The rule in a form that JSON holds. */
function describe(
  { sites, routers }: Pick<Model, 'sites' | 'routers'>,
  rule: SelectionRule | ((site: Site) => SelectionRule),
): Pick<CurvePoint, 'rule' | 'tau'> {
  if (typeof rule === 'function') {
    const converted = sites.filter(({ name }) => routers.has(name));
    return { rule: Object.fromEntries(converted.map((site) => [site.name, rule(site)])) };
  }
  return rule.rule === 'threshold' ? { rule, tau: rule.value } : { rule };
}
