import { D2DMoEError } from '@d2dmoe/core';
import type { SelectionRule } from '@d2dmoe/kernels';
import { dynamicSubstitute, type Model, type Site } from '@d2dmoe/models';
import * as tf from '@tensorflow/tfjs-core';
import type { EvaluationBatches } from '../run-batches.js';
import { type ObserveOptions, observeBatches } from './observe-batches.js';

/** How many experts a site executes for a token: the distribution over a data set's real tokens. */
export interface ExecutedByToken {
  /** The site's name. */
  site: string;
  /** Number of experts n. */
  experts: number;
  /** Tokens that execute exactly k experts, at index k; length n + 1. */
  histogram: readonly number[];
}

/**
 * The spread of executed experts over tokens at each converted site (Szatkowski et al. 2024, the figure of executed
 * experts per token by layer).
 *
 * @returns One per converted site, in the order of execution.
 * @throws D2DMoEError `ROUTER_MISSING` where the model is dense; `EVALUATION_EMPTY` where there is no token.
 */
export async function executedByToken(
  model: Model,
  batches: EvaluationBatches,
  rule: SelectionRule | ((site: Site) => SelectionRule),
  options: ObserveOptions = {},
): Promise<ExecutedByToken[]> {
  const histograms = new Map<string, number[]>();
  let order: { site: string; counts: tf.Tensor1D }[] = [];
  const substitute = dynamicSubstitute(model, {
    rule,
    onSelection: ({ name }, selection) => {
      const [, experts] = selection.shape;
      if (!histograms.has(name)) histograms.set(name, Array<number>(experts + 1).fill(0));
      order.push({ site: name, counts: executedPerRow(selection) });
    },
  });
  try {
    await observeBatches(
      model,
      batches,
      (batch, mask) => {
        order = [];
        model.forward(batch, { substitute });
        return [mask, ...order.map(({ counts }) => counts)];
      },
      ([mask, ...bySite]) => {
        for (const [i, { site }] of order.entries()) {
          const histogram = histograms.get(site) as number[];
          for (const [row, count] of (bySite[i] as Float32Array).entries()) {
            if (mask?.[row] === 1) histogram[count] = (histogram[count] as number) + 1;
          }
        }
      },
      options,
    );
  } finally {
    substitute.dispose();
  }
  if (histograms.size === 0) {
    throw new D2DMoEError('EVALUATION_EMPTY', 'The data hold no token to count experts of.');
  }
  return Array.from(histograms, ([site, histogram]) => ({
    site,
    experts: histogram.length - 1,
    histogram,
  }));
}

/** Experts executed for each row of a selection [N, n]. */
export function executedPerRow(selection: tf.Tensor2D): tf.Tensor1D {
  return tf.sum<tf.Tensor1D>(tf.cast(selection, 'float32'), 1);
}

/** What a histogram of executed experts says in few numbers; quantiles are counts that occur. */
export interface ExecutedSummary {
  /** Experts per token, mean over tokens. */
  mean: number;
  /** Standard deviation over tokens. */
  deviation: number;
  /** 5th, 25th, 50th, 75th and 95th percentile. */
  quantiles: readonly [number, number, number, number, number];
}

/** Mean, deviation and quantiles of a histogram of executed experts; counts, not shares. */
export function summarizeExecuted({
  histogram,
}: Pick<ExecutedByToken, 'histogram'>): ExecutedSummary {
  const tokens = histogram.reduce((sum, count) => sum + count, 0);
  const mean = histogram.reduce((sum, count, k) => sum + count * k, 0) / tokens;
  const square = histogram.reduce((sum, count, k) => sum + count * (k - mean) ** 2, 0) / tokens;
  const quantile = (share: number): number => {
    let below = 0;
    return histogram.findIndex((count) => (below += count) >= share * tokens && count > 0);
  };
  return {
    mean,
    deviation: Math.sqrt(square),
    quantiles: [quantile(0.05), quantile(0.25), quantile(0.5), quantile(0.75), quantile(0.95)],
  };
}
