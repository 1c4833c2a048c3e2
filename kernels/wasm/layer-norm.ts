/**
 * Layer norm and RMS norm over rows of d floats, with their gradients, one pass over memory for the sums and one for
 * the result. RMS norm is layer norm with the mean left at 0 and no shift.
 */

// @ts-ignore: decorator
@inline
function sumOf(v: v128): f32 {
  return (
    f32x4.extract_lane(v, 0) + f32x4.extract_lane(v, 1) + (f32x4.extract_lane(v, 2) + f32x4.extract_lane(v, 3))
  );
}

/** Mean of d floats. */
function mean(x: usize, d: i32): f32 {
  let s = f32x4.splat(0);
  let i = 0;
  for (; i + 4 <= d; i += 4) s = f32x4.add(s, v128.load(x + (<usize>i << 2)));
  let sum = sumOf(s);
  for (; i < d; i++) sum += f32.load(x + (<usize>i << 2));
  return sum / <f32>d;
}

/** Mean of (x − m)² of d floats. */
function variance(x: usize, m: f32, d: i32): f32 {
  const mv = f32x4.splat(m);
  let s = f32x4.splat(0);
  let i = 0;
  for (; i + 4 <= d; i += 4) {
    const c = f32x4.sub(v128.load(x + (<usize>i << 2)), mv);
    s = f32x4.add(s, f32x4.mul(c, c));
  }
  let sum = sumOf(s);
  for (; i < d; i++) {
    const c = f32.load(x + (<usize>i << 2)) - m;
    sum += c * c;
  }
  return sum / <f32>d;
}

/** out = (x − mean) / √(variance + epsilon) · scale + shift, row by row; shift 0 for none; centred 0 for RMS norm. */
export function layerNorm(
  x: usize,
  scale: usize,
  shift: usize,
  out: usize,
  rows: i32,
  d: i32,
  epsilon: f32,
  centred: bool,
): void {
  for (let row = 0; row < rows; row++) {
    const m: f32 = centred ? mean(x, d) : 0;
    const r: f32 = 1 / sqrt<f32>(variance(x, m, d) + epsilon);
    const mv = f32x4.splat(m);
    const rv = f32x4.splat(r);
    let i = 0;
    for (; i + 4 <= d; i += 4) {
      const o = <usize>i << 2;
      let y = f32x4.mul(f32x4.mul(f32x4.sub(v128.load(x + o), mv), rv), v128.load(scale + o));
      if (shift) y = f32x4.add(y, v128.load(shift + o));
      v128.store(out + o, y);
    }
    for (; i < d; i++) {
      const o = <usize>i << 2;
      let y = (f32.load(x + o) - m) * r * f32.load(scale + o);
      if (shift) y += f32.load(shift + o);
      f32.store(out + o, y);
    }
    x += <usize>d << 2;
    out += <usize>d << 2;
  }
}

/**
 * With x̂ = (x − mean)·r and g = dy·scale: dx = r·(g − mean(g) − x̂·mean(g·x̂)), without mean(g) for RMS norm;
 * dscale = Σ dy·x̂ and dshift = Σ dy over rows (dshift 0 for none).
 */
export function layerNormGrad(
  x: usize,
  scale: usize,
  dy: usize,
  dx: usize,
  dscale: usize,
  dshift: usize,
  rows: i32,
  d: i32,
  epsilon: f32,
  centred: bool,
): void {
  memory.fill(dscale, 0, <usize>d << 2);
  if (dshift) memory.fill(dshift, 0, <usize>d << 2);
  for (let row = 0; row < rows; row++) {
    const m: f32 = centred ? mean(x, d) : 0;
    const r: f32 = 1 / sqrt<f32>(variance(x, m, d) + epsilon);
    const mv = f32x4.splat(m);
    const rv = f32x4.splat(r);
    let sg = f32x4.splat(0);
    let sgx = f32x4.splat(0);
    let i = 0;
    for (; i + 4 <= d; i += 4) {
      const o = <usize>i << 2;
      const xh = f32x4.mul(f32x4.sub(v128.load(x + o), mv), rv);
      const dv = v128.load(dy + o);
      const g = f32x4.mul(dv, v128.load(scale + o));
      sg = f32x4.add(sg, g);
      sgx = f32x4.add(sgx, f32x4.mul(g, xh));
      v128.store(dscale + o, f32x4.add(v128.load(dscale + o), f32x4.mul(dv, xh)));
      if (dshift) v128.store(dshift + o, f32x4.add(v128.load(dshift + o), dv));
    }
    let g0 = sumOf(sg);
    let gx = sumOf(sgx);
    for (; i < d; i++) {
      const o = <usize>i << 2;
      const xh = (f32.load(x + o) - m) * r;
      const dv = f32.load(dy + o);
      const g = dv * f32.load(scale + o);
      g0 += g;
      gx += g * xh;
      f32.store(dscale + o, f32.load(dscale + o) + dv * xh);
      if (dshift) f32.store(dshift + o, f32.load(dshift + o) + dv);
    }
    g0 = centred ? g0 / <f32>d : 0;
    gx /= <f32>d;
    const g0v = f32x4.splat(g0);
    const gxv = f32x4.splat(gx);
    i = 0;
    for (; i + 4 <= d; i += 4) {
      const o = <usize>i << 2;
      const xh = f32x4.mul(f32x4.sub(v128.load(x + o), mv), rv);
      const g = f32x4.mul(v128.load(dy + o), v128.load(scale + o));
      v128.store(dx + o, f32x4.mul(rv, f32x4.sub(f32x4.sub(g, g0v), f32x4.mul(xh, gxv))));
    }
    for (; i < d; i++) {
      const o = <usize>i << 2;
      const xh = (f32.load(x + o) - m) * r;
      const g = f32.load(dy + o) * f32.load(scale + o);
      f32.store(dx + o, r * (g - g0 - xh * gx));
    }
    x += <usize>d << 2;
    dy += <usize>d << 2;
    dx += <usize>d << 2;
  }
}
