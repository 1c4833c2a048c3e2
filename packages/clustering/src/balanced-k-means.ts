import type { ProgressCallback, Random } from '@d2dmoe/core';
import { balancedPartition } from './balanced-partition.js';
import { gramMatrix } from './gram-matrix.js';
import { type Split, splitFromAssignment } from './split.js';
import { checkFinite, checkLength, expertCount } from './validation.js';

/** What {@link balancedKMeans} takes. */
export interface BalancedKMeansOptions {
  /** One row of weights for each neuron, [h, d]: the rows of W1, or of Wg for a GLU. */
  rows: Float32Array;
  /** Hidden width, h. */
  count: number;
  /** Weights of a row, d. */
  dimension: number;
  /** Neurons per expert, e; divides h. */
  expertSize: number;
  /** Draws the neurons that clusters start from, by k-means++. */
  random: Random;
  /** Iterations at most, 30 by default; it ends before as soon as an iteration improves nothing. */
  maxIterations?: number;
  /** Told how far the work is, and after each iteration its `objective` (a metric). */
  onProgress?: ProgressCallback;
  /** Ends the work at its next turn, by the signal's reason. */
  signal?: AbortSignal;
}

/**
 * Splits neurons by balanced k-means (Zhang et al. 2022, "MoEfication", section 3.1, as used by Szatkowski et al.
 * 2024): clusters their weight rows, each scaled to unit L2 norm (a zero row stays zero), into experts of exactly
 * `expertSize` neurons. Each balanced assignment is an exact optimum, and swaps of two neurons refine it, which
 * matters most for small experts. Takes h² numbers of memory; other work gets a turn in between.
 *
 * @returns A split whose `objective` is the sum of the scaled rows' squared distances to their expert's mean: the
 *   lower, the better.
 * @throws D2DMoEError `EXPERT_SIZE_INVALID` where `expertSize` does not divide `count`, `HIDDEN_WIDTH_INVALID` where
 *   `count` is not a positive integer, `LENGTH_MISMATCH` where `rows` does not hold `count * dimension` values,
 *   `VALUE_NOT_FINITE` where one of them is not finite; the signal's reason once it is aborted.
 */
export async function balancedKMeans({
  rows,
  count,
  dimension,
  expertSize,
  random,
  maxIterations = 30,
  onProgress,
  signal,
}: BalancedKMeansOptions): Promise<Split> {
  expertCount(count, expertSize);
  checkLength('rows', rows, [count, dimension]);
  checkFinite('rows', rows, dimension);
  const name = 'balancedKMeans';
  signal?.throwIfAborted();
  onProgress?.({ status: 'initiate', name });
  const gram = await gramMatrix(unitRows(rows, dimension), count, dimension, (done) => {
    signal?.throwIfAborted();
    onProgress?.({ status: 'progress', name, progress: 50 * done });
  });
  const { clusterOf, objective } = await balancedPartition(
    gram,
    count,
    expertSize,
    random,
    maxIterations,
    (step, stepObjective) => {
      signal?.throwIfAborted();
      onProgress?.({
        status: 'progress',
        name,
        progress: 50 + (50 * step) / maxIterations,
        step,
        steps: maxIterations,
        metrics: { objective: stepObjective },
      });
    },
  );
  onProgress?.({ status: 'done', name, progress: 100, metrics: { objective } });
  return { ...splitFromAssignment(clusterOf, expertSize), objective };
}

function unitRows(rows: Float32Array, d: number): Float32Array {
  const scaled = new Float32Array(rows.length);
  for (let start = 0; start < rows.length; start += d) {
    let squares = 0;
    for (let t = start; t < start + d; t++) squares += (rows[t] as number) ** 2;
    if (squares === 0) continue;
    const norm = Math.sqrt(squares);
    for (let t = start; t < start + d; t++) scaled[t] = (rows[t] as number) / norm;
  }
  return scaled;
}
