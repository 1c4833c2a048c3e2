import { D2DMoEError } from '@d2dmoe/core';

/**
 * The number of experts of `expertSize` neurons in a hidden layer of `count` neurons.
 *
 * @throws D2DMoEError `HIDDEN_WIDTH_INVALID` where `count` is not a positive integer, `EXPERT_SIZE_INVALID` where
 *   `expertSize` is none or does not divide it.
 */
export function expertCount(count: number, expertSize: number): number {
  if (!Number.isInteger(count) || count < 1) {
    throw new D2DMoEError(
      'HIDDEN_WIDTH_INVALID',
      `The hidden width must be a positive integer, but it is ${count}.`,
    );
  }
  if (Number.isInteger(expertSize) && expertSize >= 1 && count % expertSize === 0) {
    return count / expertSize;
  }
  throw new D2DMoEError(
    'EXPERT_SIZE_INVALID',
    `The expert size ${expertSize} does not divide the hidden width ${count}; ` +
      `choose one that does, such as ${nearestDivisors(count, expertSize).join(' or ')}.`,
  );
}

/** The largest divisor of `count` below `size` and the smallest above it, as far as there are such. */
function nearestDivisors(count: number, size: number): number[] {
  const divisors: number[] = [];
  for (let divisor = 1; divisor <= count; divisor++) {
    if (count % divisor === 0) divisors.push(divisor);
  }
  const below = divisors.findLast((divisor) => divisor < size);
  const above = divisors.find((divisor) => divisor > size);
  const nearest = [below, above].filter((divisor) => divisor !== undefined);
  return nearest.length > 0 ? nearest : [count];
}

/** @throws D2DMoEError `LENGTH_MISMATCH` where `values` is not as long as its shape says. */
export function checkLength(name: string, values: ArrayLike<number>, shape: number[]): void {
  const length = shape.reduce((product, size) => product * size, 1);
  if (values.length === length) return;
  throw new D2DMoEError(
    'LENGTH_MISMATCH',
    `${name} must hold ${shape.join(' × ')} = ${length} values, but it holds ${values.length}.`,
  );
}

/** @throws D2DMoEError `VALUE_NOT_FINITE`, naming the first NaN or infinite value of a [rows, columns] matrix. */
export function checkFinite(
  name: string,
  values: Float32Array | Float64Array,
  columns: number,
): void {
  const i = values.findIndex((value) => !Number.isFinite(value));
  if (i < 0) return;
  throw new D2DMoEError(
    'VALUE_NOT_FINITE',
    `${name} must hold finite numbers, but row ${Math.floor(i / columns)}, column ${i % columns} is ${values[i]}.`,
  );
}
