import type { Random } from '@d2dmoe/core';
import { assignBalanced } from './assign-balanced.js';
import { partLinks } from './part-links.js';
import { refineBySwaps } from './refine-by-swaps.js';
import { turn } from './turn.js';

/**
 * Balanced k-means on points that are known by their Gram matrix alone: centroids are means of points, so that inner
 * products with them are means of the matrix's entries. For clusters of equal size its objective, the squared
 * distances of the points to their cluster's mean, is the matrix's trace less 1/e of the weight that the matrix, read
 * as a graph, has inside the clusters: the same algorithm partitions a co-activation graph.
 *
 * For clusters of equal size a centroid's own squared norm does not matter either: every balanced assignment counts it
 * e times. So the cost of putting a point in a cluster is its negated inner product with the centroid.
 *
 * It starts from points chosen by k-means++ (Arthur and Vassilvitskii 2007). An iteration is an exact balanced
 * assignment of the points to the centroids and then swaps of two points as long as one gains. Lloyd's iteration alone
 * stops early where clusters are small: a point is 1/e of its own centroid, which holds it back, while a swap reckons
 * with the centroids that it moves. What is returned is an optimum for both, unless `maxIterations` was reached.
 *
 * @param gram [h, h].
 * @param onStep Called with each iteration's number, from 1, and objective, each time after other work had a turn.
 * @returns The cluster of each point, [h], and the objective.
 */
export async function balancedPartition(
  gram: Float32Array,
  h: number,
  expertSize: number,
  random: Random,
  maxIterations: number,
  onStep: (step: number, objective: number) => void,
): Promise<{ clusterOf: Uint32Array; objective: number }> {
  const k = h / expertSize;
  let trace = 0;
  for (let i = 0; i < h; i++) trace += gram[i * h + i] as number;
  // From one iteration to the next the costs change little, and so do the optimal prices.
  const prices = new Float64Array(k);
  let clusterOf = assignBalanced(seedCosts(gram, h, k, random), h, k, expertSize, prices);
  let objective = Infinity;
  for (let step = 1; ; step++) {
    await turn();
    refineBySwaps(gram, clusterOf, k);
    const previous = objective;
    const links = partLinks(gram, clusterOf, k);
    const inside = clusterOf.reduce((sum, j, i) => sum + (links[i * k + j] as number), 0);
    objective = Math.max(0, trace - inside / expertSize);
    await turn();
    onStep(step, objective);
    if (step >= maxIterations || previous - objective <= 1e-6 * objective) {
      return { clusterOf, objective };
    }
    const costs = links.map((link) => -link / expertSize);
    clusterOf = assignBalanced(costs, h, k, expertSize, prices);
  }
}

/** Negated inner products of all points with k of them, chosen by k-means++, [h, k]. */
function seedCosts(gram: Float32Array, h: number, k: number, random: Random): Float64Array {
  const costs = new Float64Array(h * k);
  const squares = Float64Array.from({ length: h }, (_, i) => gram[i * h + i] as number);
  const nearest = new Float64Array(h).fill(Infinity);
  let seed = random.integer(h);
  for (let j = 0; j < k; j++) {
    for (let i = 0; i < h; i++) {
      const product = gram[seed * h + i] as number;
      const distance = (squares[i] as number) + (squares[seed] as number) - 2 * product;
      nearest[i] = Math.min(nearest[i] as number, Math.max(0, distance));
      costs[i * k + j] = -product;
    }
    seed = drawInProportion(nearest, random);
  }
  return costs;
}

/** Draws an index with a probability in proportion to its weight; 0 where all weights are 0. */
function drawInProportion(weights: Float64Array, random: Random): number {
  let left = random.uniform() * weights.reduce((sum, weight) => sum + weight, 0);
  let drawn = 0;
  for (const [i, weight] of weights.entries()) {
    if (weight === 0) continue;
    drawn = i;
    left -= weight;
    if (left < 0) break;
  }
  return drawn;
}
