/**
 * One Adam step (Kingma and Ba 2015) with decoupled weight decay (Loshchilov and Hutter 2019) over n floats, in one
 * pass: reads p, g, m, v and writes the new p, m, v to memory of their own. `rate` is the learning rate with both bias
 * corrections folded in, `epsilon` is scaled to match, `keep` is 1 − learning rate · weight decay.
 */
export function adamStep(
  p: usize,
  g: usize,
  m: usize,
  v: usize,
  pOut: usize,
  mOut: usize,
  vOut: usize,
  n: i32,
  rate: f32,
  beta1: f32,
  beta2: f32,
  epsilon: f32,
  keep: f32,
): void {
  const b1 = f32x4.splat(beta1);
  const c1 = f32x4.splat(1 - beta1);
  const b2 = f32x4.splat(beta2);
  const c2 = f32x4.splat(1 - beta2);
  const rv = f32x4.splat(rate);
  const ev = f32x4.splat(epsilon);
  const kv = f32x4.splat(keep);
  let i: usize = 0;
  const end = <usize>n << 2;
  for (; i + 16 <= end; i += 16) {
    const gv = v128.load(g + i);
    const mv = f32x4.add(f32x4.mul(b1, v128.load(m + i)), f32x4.mul(c1, gv));
    const vv = f32x4.add(f32x4.mul(b2, v128.load(v + i)), f32x4.mul(c2, f32x4.mul(gv, gv)));
    v128.store(mOut + i, mv);
    v128.store(vOut + i, vv);
    const update = f32x4.div(f32x4.mul(rv, mv), f32x4.add(f32x4.sqrt(vv), ev));
    v128.store(pOut + i, f32x4.sub(f32x4.mul(kv, v128.load(p + i)), update));
  }
  for (; i < end; i += 4) {
    const gv = f32.load(g + i);
    const mv = beta1 * f32.load(m + i) + (1 - beta1) * gv;
    const vv = beta2 * f32.load(v + i) + (1 - beta2) * (gv * gv);
    f32.store(mOut + i, mv);
    f32.store(vOut + i, vv);
    f32.store(pOut + i, keep * f32.load(p + i) - (rate * mv) / (sqrt<f32>(vv) + epsilon));
  }
}
