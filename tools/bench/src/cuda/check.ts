import { worstRowError } from '../check.js';
import type { Reference } from '../reference.js';

/** The relative error against float64 that a row of a float32 result may have. */
const TOLERANCE = 1e-5;

/**
 * Holds a float32 result to float64.
 *
 * @throws Error that says how far a row is off.
 */
export function expectRight(what: string, actual: ArrayLike<number>, expected: Reference): void {
  const error = worstRowError(actual, expected);
  if (!(error <= TOLERANCE)) {
    throw new Error(
      `A wrong result: a row of ${what} is off by ${error.toExponential(1)} of its norm; ${TOLERANCE} is allowed.`,
    );
  }
}

/** Layer norm of one row in float64. */
export function normalized(
  x: Float64Array,
  scale: ArrayLike<number>,
  shift: ArrayLike<number>,
  epsilon: number,
): Float64Array {
  const mean = x.reduce((sum, value) => sum + value, 0) / x.length;
  const variance = x.reduce((sum, value) => sum + (value - mean) ** 2, 0) / x.length;
  const factor = 1 / Math.sqrt(variance + epsilon);
  return x.map((value, i) => (value - mean) * factor * (scale[i] as number) + (shift[i] as number));
}
