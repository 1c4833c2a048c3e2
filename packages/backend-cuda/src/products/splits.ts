/** How the sum of a product is cut into parts that different blocks compute. */
export interface Split {
  /** Number of parts. */
  splits: number;
  /** Steps of the sum that each part has, the last one at most. */
  perSplit: number;
}

/** Steps below which a part of a sum is not worth its extra traffic. */
const LEAST_STEPS = 4;

/**
 * Cuts a sum so that a result of few tiles fills the card all the same.
 *
 * @param tiles Blocks that the result alone gives work to.
 * @param steps Steps of the sum.
 * @param slots Blocks that the card runs at once.
 */
export function splitSum(tiles: number, steps: number, slots: number): Split {
  const wanted = Math.min(Math.floor(slots / tiles), Math.floor(steps / LEAST_STEPS), 64);
  const perSplit = Math.ceil(steps / Math.max(1, wanted));
  return { splits: Math.max(1, Math.ceil(steps / perSplit)), perSplit };
}
