import { madd } from './simd';

/** An FFN's activations by number; the host passes these. */
export const RELU: i32 = 0;
export const GELU: i32 = 1;
export const GELU_TANH: i32 = 2;
export const SILU: i32 = 3;

/**
 * eˣ to about 1e-7 of its value for −87 ≤ x ≤ 88, held at the ends beyond: x = n·ln 2 + r with |r| ≤ ln 2 / 2, eʳ by
 * its Taylor series, 2ⁿ by writing the exponent.
 */
// @ts-ignore: decorator
@inline
function exp(x: v128): v128 {
  const clamped = f32x4.min(f32x4.max(x, f32x4.splat(-87)), f32x4.splat(88));
  const n = f32x4.nearest(f32x4.mul(clamped, f32x4.splat(1.44269504)));
  // ln 2 in two parts, the first exact when multiplied with n.
  let r = f32x4.sub(clamped, f32x4.mul(n, f32x4.splat(0.693359375)));
  r = f32x4.add(r, f32x4.mul(n, f32x4.splat(2.12194440e-4)));
  let series = madd(r, f32x4.splat(1.0 / 5040), f32x4.splat(1.0 / 720));
  series = madd(series, r, f32x4.splat(1.0 / 120));
  series = madd(series, r, f32x4.splat(1.0 / 24));
  series = madd(series, r, f32x4.splat(1.0 / 6));
  series = madd(series, r, f32x4.splat(0.5));
  series = madd(series, r, f32x4.splat(1));
  series = madd(series, r, f32x4.splat(1));
  return f32x4.mul(series, i32x4.shl(i32x4.add(i32x4.trunc_sat_f32x4_s(n), i32x4.splat(127)), 23));
}

/** x·σ(y) */
// @ts-ignore: decorator
@inline
function swish(x: v128, y: v128): v128 {
  return f32x4.div(x, f32x4.add(f32x4.splat(1), exp(f32x4.neg(y))));
}

/**
 * x·Φ(x) with Φ the normal distribution's cumulative function. Of u = |x| the tail 1 − Φ(u) is t·P(t)·exp(−u²/2) with
 * t = 1 / (1 + 0.3·u); P is the polynomial of degree 7 whose greatest relative error on 0 ≤ u ≤ 10 is least, 5e-8.
 */
// @ts-ignore: decorator
@inline
function gelu(x: v128): v128 {
  const one = f32x4.splat(1);
  const u = f32x4.abs(x);
  const t = f32x4.div(one, madd(u, f32x4.splat(0.3), one));
  let p = madd(t, f32x4.splat(0.0375480019), f32x4.splat(-0.165077373));
  p = madd(p, t, f32x4.splat(0.22008495));
  p = madd(p, t, f32x4.splat(-0.0665242150));
  p = madd(p, t, f32x4.splat(0.135496318));
  p = madd(p, t, f32x4.splat(0.0977560878));
  p = madd(p, t, f32x4.splat(0.121111207));
  p = madd(p, t, f32x4.splat(0.119605042));
  const density = exp(f32x4.mul(f32x4.mul(u, u), f32x4.splat(-0.5)));
  const tail = f32x4.mul(f32x4.mul(t, p), density);
  return f32x4.mul(x, v128.bitselect(tail, f32x4.sub(one, tail), f32x4.lt(x, f32x4.splat(0))));
}

/** The activation of four numbers, to about 3e-7 of their value. */
// @ts-ignore: decorator
@inline
export function activate(x: v128, activation: i32): v128 {
  if (activation == RELU) return f32x4.max(x, f32x4.splat(0));
  if (activation == GELU) return gelu(x);
  if (activation == SILU) return swish(x, x);
  // √(2/π)·(x + 0.044715·x³), doubled: ½·(1 + tanh g) = σ(2g).
  const cubic = madd(f32x4.mul(x, x), f32x4.splat(0.0713548162), f32x4.splat(1.59576912));
  return swish(x, f32x4.mul(x, cubic));
}
