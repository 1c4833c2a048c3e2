import type { ProgressCallback } from '@d2dmoe/core';
import type { BaselinePoint, MeasuredPoint } from './baseline.js';

/**
 * One point for each value, each a pass over the data. Reports `initiate`; `progress` after each batch and, with the
 * point's figures as `metrics`, after each point; `done`.
 *
 * @param measure One pass; calls `onBatch` after each batch.
 */
export async function sweepValues(
  name: string,
  values: readonly number[],
  onProgress: ProgressCallback | undefined,
  measure: (value: number, onBatch: () => void) => Promise<MeasuredPoint>,
): Promise<BaselinePoint[]> {
  let done = 0;
  let steps: number | undefined;
  const report = (metrics?: Record<string, number>) =>
    onProgress?.({
      status: 'progress',
      name,
      step: done,
      ...(steps && { steps, progress: (100 * done) / steps }),
      ...(metrics && { metrics }),
    });
  onProgress?.({ status: 'initiate', name });
  const points: BaselinePoint[] = [];
  for (const value of values) {
    const { score, cost, convertedCost, parametersRead, executed } = await measure(value, () => {
      done++;
      report();
    });
    points.push({ value, score, cost, convertedCost, parametersRead, executed });
    steps ??= done * values.length;
    report({ value, [score.name]: score.value, cost });
  }
  onProgress?.({ status: 'done', name, progress: 100 });
  return points;
}
