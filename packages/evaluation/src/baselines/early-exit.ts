import type { Model } from '@d2dmoe/models';
import * as tf from '@tensorflow/tfjs-core';
import { denseCost, matrixParameters } from '../dense-cost.js';
import { eachBatch, type EvaluationBatch, tokenMask } from '../run-batches.js';
import { meanScore, scoredRows } from '../score.js';
import type { BaselineCurve, BaselineOptions, MeasuredPoint } from './baseline.js';
import {
  exitFeatures,
  type ExitHead,
  exitHeadCost,
  runHeads,
  trainEarlyExits,
} from './exit-heads.js';
import { sweepValues } from './sweep-values.js';
import type { TrainingOptions } from './training.js';

/** Confidences of the curve. One pass over the data serves them all. */
const confidences: readonly number[] = [
  0.3, 0.4, 0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.925, 0.95, 0.97, 0.98, 0.99, 0.995, 0.998, 0.999,
  0.9995, 0.9999,
];

/** What one sample's heads say. */
interface SampleExits {
  /** In tokens, without padding. */
  length: number;
  /** Whether the sample has a label that counts. */
  isScored: boolean;
  /** By head: the greatest probability of its ensemble. */
  confidence: number[];
  /** By head, and last the model itself: whether the answer is right, 1 or 0. */
  correct: number[];
}

/**
 * Early exit as in ZTW (Wołczyk et al. 2021): a classifier with heads behind its layers, which leaves at the first
 * head whose greatest probability reaches a confidence, and otherwise answers as the model itself does. A sample
 * costs its embedding, the layers and the heads that ran, and the model's own head if it came that far.
 *
 * `convertedCost` is that of the FFNs and heads that ran over the dense FFNs'; `executed` the share of tokens for
 * which a layer ran.
 *
 * @param options.values Confidences; above 1 no sample leaves early.
 * @throws D2DMoEError as {@link trainEarlyExits}; `EVALUATION_EMPTY` where the data hold no scored label.
 */
export async function earlyExitBaseline(
  options: BaselineOptions & TrainingOptions,
): Promise<BaselineCurve> {
  const { model, values = confidences, onProgress, batches, signal } = options;
  const heads = await trainEarlyExits(options);
  try {
    const costs = heads.map(exitHeadCost);
    let samples: SampleExits[] | undefined;
    const points = await sweepValues('earlyExit', values, onProgress, async (value, onBatch) => {
      samples ??= await collectExits(model, heads, { batches, signal, onBatch });
      return exitPoint(model, samples, costs, value);
    });
    return {
      name: 'earlyExit',
      label: 'ZTW',
      description:
        'Early exit (Wołczyk et al. 2021): a classifier behind each layer of the dense model; a sample leaves at the first that is confident.',
      knob: 'confidence',
      points,
      settings: {
        steps: options.steps,
        learningRate: options.learningRate ?? 1e-3,
        headWidth: model.shape.dModel,
      },
    };
  } finally {
    tf.dispose(heads);
  }
}

/** Runs model and heads over the data, with one read from the device per batch. */
async function collectExits(
  model: Model,
  heads: readonly ExitHead[],
  {
    batches,
    signal,
    onBatch,
  }: Pick<BaselineOptions, 'batches'> & { signal: AbortSignal | undefined; onBatch: () => void },
): Promise<SampleExits[]> {
  const samples: SampleExits[] = [];
  for await (const data of eachBatch(batches(), signal)) {
    samples.push(...(await batchExits(model, heads, data)));
    onBatch();
  }
  return samples;
}

async function batchExits(
  model: Model,
  heads: readonly ExitHead[],
  { batch, labels }: EvaluationBatch,
): Promise<SampleExits[]> {
  const figures = tf.tidy(() => {
    const { features, logits } = exitFeatures(model, batch);
    const ensembles = runHeads(features, heads).map(({ ensemble }) => ensemble);
    const confidence = ensembles.map((logarithms) => tf.exp(tf.max<tf.Tensor1D>(logarithms, 1)));
    const classes = [...ensembles, logits].map((scores) =>
      tf.cast(tf.argMax<tf.Tensor1D>(scores, 1), 'float32'),
    );
    return tf.stack([tf.sum(tokenMask(model.shape, batch), 1), ...confidence, ...classes]);
  });
  try {
    const [samples] = figures.shape.slice(1) as [number];
    const scored = new Set(scoredRows(labels, samples, model.shape.outputs));
    const rows = (await figures.array()) as number[][];
    const [lengths, ...answers] = rows as [number[], ...number[][]];
    return lengths.map((length, i) => ({
      length,
      isScored: scored.has(i),
      confidence: answers.slice(0, heads.length).map((row) => row[i] as number),
      correct: answers.slice(heads.length).map((row) => Number(row[i] === labels[i])),
    }));
  } finally {
    figures.dispose();
  }
}

/** The point of one confidence. Layers are numbered from 1; leaving at `layers` is not leaving. */
function exitPoint(
  { shape, sites }: Model,
  samples: readonly SampleExits[],
  headCosts: readonly number[],
  confidence: number,
): MeasuredPoint {
  const { layers } = shape;
  const matrices = matrixParameters(shape);
  const tokensByLayer = Array.from({ length: layers }, () => 0);
  let [scored, hits] = [0, 0];
  let [tokens, cost, dense, replacing, feedForward, parameters] = [0, 0, 0, 0, 0, 0];
  for (const sample of samples) {
    const { length, isScored, correct } = sample;
    const first = sample.confidence.findIndex((reached) => reached >= confidence);
    const exit = first < 0 ? layers : first + 1;
    if (isScored) {
      scored++;
      hits += correct[exit - 1] as number;
    }
    const parts = denseCost(shape, length);
    const share = exit / layers;
    const heads = headCosts.slice(0, exit).reduce((sum, head) => sum + head, 0);
    const isLast = exit === layers;
    const ran = share * (parts.projections + parts.attention + parts.feedForward);
    cost += parts.embedding + ran + heads + (isLast ? parts.head : 0);
    dense += parts.total;
    replacing += share * parts.feedForward + heads;
    feedForward += parts.feedForward;
    const read = share * (matrices.projections + matrices.feedForward);
    const ownHead = isLast ? matrices.pooler + matrices.output : 0;
    parameters += length * (matrices.embedding + read + heads + ownHead);
    tokens += length;
    for (let layer = 0; layer < exit; layer++) {
      tokensByLayer[layer] = (tokensByLayer[layer] as number) + length;
    }
  }
  const executed = sites
    .filter(({ kind }) => kind === 'feedForward')
    .map(({ name, layer }) => [name, (tokensByLayer[layer] as number) / tokens]);
  return {
    score: meanScore('accuracy', hits, scored),
    cost: cost / dense,
    convertedCost: replacing / feedForward,
    parametersRead: parameters / tokens / matrices.total,
    executed: Object.fromEntries(executed) as Record<string, number>,
  };
}
