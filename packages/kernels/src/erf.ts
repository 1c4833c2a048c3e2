/**
 * The error function 2/√π·∫₀ˣ exp(−t²) dt in float64, to about 1e-15.
 */
export function erf(x: number): number {
  if (Math.abs(x) < seriesLimit) return erfSeries(x);
  return Math.sign(x) * (1 - erfcFraction(Math.abs(x)));
}

/**
 * 1 − erf(x) in float64, with a relative error of about 1e-13 or less into the far tail, where 1 − erf(x) itself would
 * have no digit left.
 */
export function erfc(x: number): number {
  if (Math.abs(x) < seriesLimit) return 1 - erfSeries(x);
  return x > 0 ? erfcFraction(x) : 2 - erfcFraction(-x);
}

const seriesLimit = 2;

/** 2/√π·exp(−x²)·Σ 2ⁿ·x²ⁿ⁺¹ / (2n + 1)!!: all terms of one sign, so none cancels another. */
function erfSeries(x: number): number {
  let term = x;
  let sum = x;
  for (let n = 1; Math.abs(term) > Math.abs(sum) * 1e-17; n++) {
    term *= (2 * x * x) / (2 * n + 1);
    sum += term;
  }
  return (2 / Math.sqrt(Math.PI)) * Math.exp(-x * x) * sum;
}

/** exp(−x²)/√π · 1/(x + ½/(x + 1/(x + ³⁄₂/(x + …)))) for x ≥ seriesLimit, the fraction taken from its far end. */
function erfcFraction(x: number): number {
  let fraction = x;
  for (let n = 120; n >= 1; n--) fraction = x + n / 2 / fraction;
  return Math.exp(-x * x) / Math.sqrt(Math.PI) / fraction;
}
