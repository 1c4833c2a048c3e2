/** Weak duality: no balanced assignment of h rows to k columns costs less than this, whatever the prices are. */
export function lowerBound(
  costs: Float32Array | Float64Array,
  h: number,
  k: number,
  prices: Float64Array,
): number {
  let bound = 0;
  for (let i = 0; i < h; i++) {
    let least = Infinity;
    for (let j = 0; j < k; j++) {
      least = Math.min(least, (costs[i * k + j] ?? NaN) + (prices[j] ?? NaN));
    }
    bound += least;
  }
  return bound - (h / k) * prices.reduce((sum, price) => sum + price, 0);
}
