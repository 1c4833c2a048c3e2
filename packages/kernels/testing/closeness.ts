/** ‖values‖ in L2. */
export function norm(values: Float64Array): number {
  return Math.sqrt(values.reduce((sum, value) => sum + value * value, 0));
}

/** actual − expected; NaN where either lacks an element. */
export function differences(actual: ArrayLike<number>, expected: ArrayLike<number>): Float64Array {
  const length = Math.max(actual.length, expected.length);
  const nan = Number.NaN;
  return Float64Array.from({ length }, (_, i) => (actual[i] ?? nan) - (expected[i] ?? nan));
}

/** ‖actual − expected‖ / ‖expected‖; of an expected 0, the numerator. */
export function relativeError(actual: ArrayLike<number>, expected: ArrayLike<number>): number {
  return norm(differences(actual, expected)) / (norm(Float64Array.from(expected)) || 1);
}

/** The greatest |actual − expected|. */
export function greatestError(actual: ArrayLike<number>, expected: ArrayLike<number>): number {
  return differences(actual, expected).reduce((most, error) => Math.max(most, Math.abs(error)), 0);
}
