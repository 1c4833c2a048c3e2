import { D2DMoEError, type ProgressCallback, type Random } from '@d2dmoe/core';
import { balancedPartition } from './balanced-partition.js';
import { mirrorLowerTriangle } from './gram-matrix.js';
import { type Split, splitFromAssignment } from './split.js';
import { turn } from './turn.js';
import { checkFinite, checkLength, expertCount } from './validation.js';

/** What {@link coActivationSplit} takes. */
export interface CoActivationSplitOptions {
  /** The layer's activations over a sample of tokens, [tokens, h]; only positive ones count as active. */
  activations: Float32Array;
  /** Number of rows of `activations`; at least 1. */
  tokens: number;
  /** Hidden width, h. */
  count: number;
  /** Neurons per expert, e; divides h. */
  expertSize: number;
  /**
   * Whether an edge weighs the cosine of its neurons' activations in place of their inner product, so that the split does
   * not depend on how strongly a neuron is active. Default false.
   */
  cosine?: boolean;
  /** Draws the neurons that clusters start from, by k-means++. */
  random: Random;
  /** Told how far the work is. */
  onProgress?: ProgressCallback;
  /** Ends the work at its next turn, by the signal's reason. */
  signal?: AbortSignal;
}

/** Tokens between two turns of other work. */
const batch = 64;
const maxIterations = 30;

/**
 * Splits neurons by which of them are active together (Zhang et al. 2022, "MoEfication", section 3.1): in the
 * co-activation graph the edge between neurons n and m weighs Σ over tokens of aₙ · aₘ where both activations are
 * positive, and the graph is cut into experts of exactly `expertSize` neurons so that heavy edges stay inside. The
 * cut is the work of balanced k-means and swaps in place of a general graph partitioner: as the weights are inner
 * products of the neurons' activations, clusters of equal size have the least squared distances where the weight
 * inside them is greatest. Takes h² numbers of memory; other work gets a turn in between.
 *
 * @returns A split whose `objective` is the share of all edges' weight that is inside experts, 0 to 1 (0 where nothing
 *   is active together): the higher, the better.
 * @throws D2DMoEError `EXPERT_SIZE_INVALID` where `expertSize` does not divide `count`, `HIDDEN_WIDTH_INVALID` where
 *   `count` is not a positive integer, `LENGTH_MISMATCH` where `activations` does not hold `tokens * count` values,
 *   `VALUE_NOT_FINITE` where one of them is not finite, `TOKENS_EMPTY` where `tokens` is 0; the signal's reason once it is aborted.
 */
export async function coActivationSplit({
  activations,
  tokens,
  count,
  expertSize,
  cosine = false,
  random,
  onProgress,
  signal,
}: CoActivationSplitOptions): Promise<Split> {
  expertCount(count, expertSize);
  checkLength('activations', activations, [tokens, count]);
  checkFinite('activations', activations, count);
  if (tokens === 0) {
    throw new D2DMoEError(
      'TOKENS_EMPTY',
      'The co-activation split needs the activations of at least one token, but there are 0.',
    );
  }
  const name = 'coActivationSplit';
  signal?.throwIfAborted();
  onProgress?.({ status: 'initiate', name });
  const graph = new Float32Array(count * count);
  for (let token = 0; token < tokens; token++) {
    addCoActivations(activations.subarray(token * count, (token + 1) * count), graph);
    if (token % batch > 0) continue;
    await turn();
    signal?.throwIfAborted();
    onProgress?.({ status: 'progress', name, progress: (50 * token) / tokens });
  }
  if (cosine) toCosines(graph, count);
  mirrorLowerTriangle(graph, count);
  const { clusterOf } = await balancedPartition(
    graph,
    count,
    expertSize,
    random,
    maxIterations,
    (step) => {
      signal?.throwIfAborted();
      onProgress?.({ status: 'progress', name, progress: 50 + (50 * step) / maxIterations });
    },
  );
  const objective = shareInside(graph, clusterOf);
  onProgress?.({ status: 'done', name, progress: 100, metrics: { objective } });
  return { ...splitFromAssignment(clusterOf, expertSize), objective };
}

/** Adds one token's products of positive activations, [h], to the graph on and below its diagonal, [h, h]. */
function addCoActivations(activation: Float32Array, graph: Float32Array): void {
  const h = activation.length;
  const active: number[] = [];
  activation.forEach((value, n) => {
    if (value > 0) active.push(n);
  });
  for (const [place, n] of active.entries()) {
    const value = activation[n] as number;
    for (let other = 0; other <= place; other++) {
      const m = active[other] as number;
      graph[n * h + m] = (graph[n * h + m] as number) + value * (activation[m] as number);
    }
  }
}

/** Divides inner products [h, h] by the two lengths, on and below the diagonal; a neuron that is never active has 0. */
function toCosines(graph: Float32Array, h: number): void {
  const inverse = Float64Array.from({ length: h }, (_, n) => {
    const square = graph[n * h + n] as number;
    return square > 0 ? 1 / Math.sqrt(square) : 0;
  });
  for (let n = 0; n < h; n++) {
    for (let m = 0; m <= n; m++) {
      graph[n * h + m] =
        (graph[n * h + m] as number) * (inverse[n] as number) * (inverse[m] as number);
    }
  }
}

function shareInside(graph: Float32Array, partOf: Uint32Array): number {
  const h = partOf.length;
  let inside = 0;
  let total = 0;
  for (let n = 0; n < h; n++) {
    for (let m = 0; m < n; m++) {
      const weight = graph[n * h + m] as number;
      total += weight;
      if (partOf[n] === partOf[m]) inside += weight;
    }
  }
  return total > 0 ? inside / total : 0;
}
