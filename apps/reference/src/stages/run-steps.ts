import type * as tf from '@tensorflow/tfjs-core';
import { D2DMoEError } from '@d2dmoe/core';
import type { Resume } from './resume.js';
import type { Metrics, StageOptions } from './stage.js';

/**
 * The loop of a training stage: takes the steps that are not done yet, reports progress, saves the state from time to
 * time and when it is aborted.
 *
 * @param state what a resumed run needs besides the number of steps
 * @param step does step number `index` and returns its figures
 * @throws D2DMoEError `INTERRUPTED` when the signal is aborted, after saving the state
 */
export async function runSteps(
  name: string,
  steps: number,
  resume: Resume,
  { onProgress, signal }: Pick<StageOptions, 'onProgress' | 'signal'>,
  state: () => ReadonlyMap<string, tf.Tensor>,
  step: (index: number) => Promise<Record<string, number>>,
): Promise<Metrics[]> {
  const metrics = [...resume.metrics];
  for (let index = resume.steps; index < steps; index++) {
    if (signal?.aborted || resume.due) await resume.save(index, state(), metrics);
    if (signal?.aborted) {
      throw new D2DMoEError(
        'INTERRUPTED',
        `Stopped in stage ${name} at step ${index} of ${steps}; the same command goes on from there.`,
      );
    }
    const figures = await step(index);
    // On the CPU a step takes no turn of the event loop of its own, and Ctrl-C could never arrive.
    await new Promise((resolve) => setImmediate(resolve));
    metrics.push({ step: index, ...figures });
    onProgress?.({
      status: 'progress',
      name,
      progress: (100 * (index + 1)) / steps,
      step: index + 1,
      steps,
      metrics: figures,
    });
  }
  return metrics;
}
