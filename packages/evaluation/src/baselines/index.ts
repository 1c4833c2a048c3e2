import type { ProgressCallback, Random } from '@d2dmoe/core';
import type { Model } from '@d2dmoe/models';
import type { EvaluationBatches } from '../run-batches.js';
import type { BaselineCurve, BaselineName } from './baseline.js';
import { catsBaseline } from './cats.js';
import { earlyExitBaseline } from './early-exit.js';
import { cumulativeShareBaseline, topKBaseline } from './fixed-rules.js';
import { moeficationBaseline } from './moefication.js';
import { oracleBaseline } from './oracle.js';
import { tealBaseline } from './teal.js';
import type { TrainingOptions } from './training.js';

/** Options of {@link baselines}. */
export interface BaselinesOptions {
  /** The original model. */
  dense: Model;
  /** The converted model, its dense weights kept; run without its routers it is the sparsified one. */
  converted: Model;
  /** Opens the data that are scored, as for the converted model's own curve; called once for each pass. */
  batches: () => EvaluationBatches;
  /** The training batch of a step, from 0. CATS and TEAL choose their thresholds on the first ones. */
  train: TrainingOptions['train'];
  /** How MoEfication's routers and ZTW's heads are trained: as our routers were. */
  training: Pick<TrainingOptions, 'steps' | 'learningRate'>;
  /** Draws first weights; each baseline's do not depend on which others run. */
  random: Random;
  /** The baselines to run; all that the model allows unless told otherwise. */
  which?: readonly BaselineName[];
  /** Receives the events of one baseline after another, named after it; its training has a name of its own. */
  onProgress?: ProgressCallback;
  /** Ends the work before its next batch: the promise is rejected with the signal's reason. */
  signal?: AbortSignal;
}

/** All baselines, in the order of a report. */
export const baselineNames: readonly BaselineName[] = [
  'topK',
  'cumulativeShare',
  'oracle',
  'moefication',
  'cats',
  'catsDense',
  'teal',
  'tealDense',
  'earlyExit',
];

/**
 * The cost–quality curves of the methods that the conversion is compared with, on the same data and cost model: one
 * curve for each of `which`, in its order. Costs are relative to the dense model. Early exit is for classifiers.
 *
 * @throws D2DMoEError `EVALUATION_NOT_CONVERTED` where `converted` has no routers; `EVALUATION_NOT_CLASSIFIER` where
 * `which` asks for early exits of a language model; `EVALUATION_EMPTY` and `EVALUATION_LABELS` as `evaluateDense`.
 */
export async function baselines(options: BaselinesOptions): Promise<BaselineCurve[]> {
  const { dense, converted, train, training, random } = options;
  const { batches, onProgress, signal } = options;
  const common = { batches, ...(onProgress && { onProgress }), ...(signal && { signal }) };
  const trained = { ...common, ...training, train };
  async function* calibration() {
    for (let step = 0; step < training.steps; step++) yield await train(step);
  }
  const run: Record<BaselineName, () => Promise<BaselineCurve>> = {
    topK: () => topKBaseline({ ...common, model: converted }),
    cumulativeShare: () => cumulativeShareBaseline({ ...common, model: converted }),
    oracle: () => oracleBaseline({ ...common, model: converted }),
    moefication: () =>
      moeficationBaseline({ ...trained, model: converted, random: random.fork('moefication') }),
    cats: () => catsBaseline({ ...common, model: converted, calibration }),
    catsDense: () => catsBaseline({ ...common, model: dense, calibration }, 'catsDense'),
    teal: () => tealBaseline({ ...common, model: converted, calibration }),
    tealDense: () => tealBaseline({ ...common, model: dense, calibration }, 'tealDense'),
    earlyExit: () =>
      earlyExitBaseline({ ...trained, model: dense, random: random.fork('earlyExit') }),
  };
  const isClassifier = dense.task !== 'text-generation';
  const which =
    options.which ?? baselineNames.filter((name) => name !== 'earlyExit' || isClassifier);
  const curves: BaselineCurve[] = [];
  for (const name of which) curves.push(await run[name]());
  return curves;
}
