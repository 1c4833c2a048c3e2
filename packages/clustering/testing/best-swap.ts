/**
 * What the best swap of two neurons of different experts would add to the weight inside experts, each pair counted once;
 * 0 where there is one expert alone.
 *
 * @param weights Symmetric, [h, h].
 * @param order Neurons, expert after expert, [h].
 */
export function bestSwapGain(
  weights: Float64Array,
  order: Uint32Array,
  expertSize: number,
): number {
  const h = order.length;
  const expertAt = (place: number) => Math.floor(place / expertSize);
  /** From a neuron to an expert, without the neurons of two places. */
  const links = (from: number, expert: number, ...without: number[]) => {
    let sum = 0;
    for (let place = expert * expertSize; place < (expert + 1) * expertSize; place++) {
      if (without.includes(place)) continue;
      sum += weights[(order[from] ?? NaN) * h + (order[place] ?? NaN)] ?? NaN;
    }
    return sum;
  };
  let best = 0;
  for (let p = 0; p < h; p++) {
    for (let q = 0; q < p; q++) {
      const [a, b] = [expertAt(p), expertAt(q)];
      if (a === b) continue;
      const gain = links(p, b, p, q) - links(p, a, p, q) + links(q, a, p, q) - links(q, b, p, q);
      best = Math.max(best, gain);
    }
  }
  return best;
}
