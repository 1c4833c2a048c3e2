import { D2DMoEError } from '@d2dmoe/core';

/** The projection to be replaced, and how much its replacement may cost. */
export interface ReplacementWidthOptions {
  /** Width of the projection's input. */
  dIn: number;
  /** Width of the projection's output. */
  dOut: number;
  /** Neurons per expert; the width is a multiple of it. */
  expertSize: number;
  /** Size of the replacement relative to the projection, f; default 1. */
  factor?: number;
  /** Whether the projection has a bias; default true. The replacement has biases in any case. */
  bias?: boolean;
}

/**
 * The hidden width at which two layers dIn → width → dOut have as many parameters as a projection dIn → dOut, times
 * `factor`: factor · (dIn·dOut + dOut) / (dIn + dOut + 1), as Szatkowski et al. 2024 size them, rounded to the nearest
 * multiple of the expert size, at least one expert. For dIn = dOut it is about half of either.
 *
 * @throws D2DMoEError `REPLACEMENT_SIZE_INVALID` where a width or the expert size is not a positive integer, or the
 *   factor not a number above 0.
 */
export function replacementWidth(options: ReplacementWidthOptions): number {
  const { dIn, dOut, expertSize, factor = 1, bias = true } = options;
  for (const [name, value] of Object.entries({ dIn, dOut, expertSize })) {
    if (!(Number.isInteger(value) && value >= 1)) {
      throw new D2DMoEError(
        'REPLACEMENT_SIZE_INVALID',
        `A replacement's ${name} must be a positive integer, not ${value}.`,
      );
    }
  }
  if (!(factor > 0 && factor < Infinity)) {
    throw new D2DMoEError(
      'REPLACEMENT_SIZE_INVALID',
      `A replacement's size relative to its projection must be a number above 0, not ${factor}.`,
    );
  }
  const exact = (factor * (dIn * dOut + (bias ? dOut : 0))) / (dIn + dOut + 1);
  return expertSize * Math.max(1, Math.round(exact / expertSize));
}
