import type { ProgressCallback, Random } from '@d2dmoe/core';
import type { Model } from '@d2dmoe/models';
import { eachBatch, type EvaluationBatch, tokenMask } from '../run-batches.js';

/** How a baseline's own networks are trained. The model is frozen; it runs densely. */
export interface TrainingOptions {
  /** Neither changed nor disposed. */
  model: Model;
  /** The training batch of a step, from 0; its tensors are disposed once the step is done. */
  train: (step: number) => EvaluationBatch | Promise<EvaluationBatch>;
  /** As many as our routers had, for a fair comparison. */
  steps: number;
  /** The highest learning rate of a run that rises over a twentieth and falls along a cosine; default 1e-3. */
  learningRate?: number;
  /** Draws the first weights. */
  random: Random;
  /** Receives `initiate`, `progress` with the `loss` of each step, and `done`. */
  onProgress?: ProgressCallback;
  /** Ends the training before its next step: the promise is rejected with the signal's reason. */
  signal?: AbortSignal;
}

/**
 * Runs a training loop with progress events named `name`.
 *
 * @param step Takes one step and gives its loss.
 */
export async function trainSteps(
  name: string,
  { train, steps, onProgress, signal }: TrainingOptions,
  step: (batch: EvaluationBatch, step: number) => number | Promise<number>,
): Promise<void> {
  async function* trainingBatches() {
    for (let i = 0; i < steps; i++) yield await train(i);
  }
  onProgress?.({ status: 'initiate', name, steps });
  let done = 0;
  for await (const batch of eachBatch(trainingBatches(), signal)) {
    const loss = await step(batch, done);
    done++;
    const progress = (100 * done) / steps;
    onProgress?.({ status: 'progress', name, step: done, steps, progress, metrics: { loss } });
  }
  onProgress?.({ status: 'done', name, progress: 100 });
}

/** Numbers of the [B · T] rows that are real tokens. */
export async function realRows(
  { shape }: Pick<Model, 'shape'>,
  { batch }: EvaluationBatch,
): Promise<Int32Array> {
  const mask = tokenMask(shape, batch);
  const real = await mask.data();
  mask.dispose();
  const rows: number[] = [];
  real.forEach((isReal, row) => isReal && rows.push(row));
  return Int32Array.from(rows);
}
