/** The times of one participant of a case, in milliseconds. */
export interface Times {
  median: number;
  /** The 10th percentile. */
  low: number;
  /** The 90th percentile. */
  high: number;
  runs: number;
}

/**
 * A quantile by linear interpolation between the two nearest values.
 *
 * @param values At least one, in any order.
 * @param share In [0, 1]; 0.5 gives the median.
 */
export function quantile(values: readonly number[], share: number): number {
  const sorted = Float64Array.from(values).sort();
  const at = share * (sorted.length - 1);
  const below = sorted[Math.floor(at)];
  const above = sorted[Math.ceil(at)];
  if (below === undefined || above === undefined) throw new RangeError('There are no values.');
  return below + (above - below) * (at - Math.floor(at));
}

/** @param values Milliseconds, at least one. */
export function summarize(values: readonly number[]): Times {
  return {
    median: quantile(values, 0.5),
    low: quantile(values, 0.1),
    high: quantile(values, 0.9),
    runs: values.length,
  };
}
