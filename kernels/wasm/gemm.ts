/**
 * C = A·B (+ bias) (then ReLU) in float32, any transposition, any size, on row-major matrices.
 *
 * A and B are packed block by block into panels that the inner loop reads in order: of A, MR rows side by side for each
 * k; of B, 8 columns. Packing is where transposition and ragged edges are dealt with, so the inner loop knows neither:
 * it keeps an MR × 8 tile of C in registers, with MR = 6 doing 12 multiply-adds for 8 loads. Blocks are sized so that a
 * panel of B (kc × 8) stays in the first-level cache and the packed block of A (mc × kc) in the second.
 *
 * Bytes: A and B are each read once more for packing per block column or row; operations: 2·M·N·K. One row (M = 1)
 * needs no reuse of B and streams it instead.
 */

import { at, madd } from './simd';

/**
 * Rows of a tile. x86 has 16 vector registers: 6 rows leave 4 beside their sums, enough for a fused multiply-add, but
 * a product of its own takes one more, and then V8 keeps sums in memory.
 */
export const MR: i32 = ASC_FEATURE_RELAXED_SIMD ? 6 : 4;
export const NR: i32 = 8;
const MC: i32 = 96;
const KC: i32 = 256;
const NC: i32 = 1024;

/** Floats of scratch that {@link gemm} needs: a block of A, a block of B, one tile of C. */
export function gemmScratch(): i32 {
  return MC * KC + KC * (NC + NR) + MR * NR;
}

/** Packs rows of X (m × k, element (i, p) at i·rs + p·cs) into panels of `width` rows: for each p, `width` values. */
function pack(x: usize, rs: i32, cs: i32, m: i32, k: i32, width: i32, out: usize): void {
  for (let i = 0; i < m; i += width) {
    const rows = min(width, m - i);
    if (rows == width && cs == 1) {
      packRows(at(x, i * rs), rs, k, width, out);
    } else if (rows == width && rs == 1) {
      // The panel's values lie side by side already.
      let source = at(x, i);
      let target = out;
      for (let p = 0; p < k; p++) {
        if (width == NR) {
          v128.store(target, v128.load(source));
          v128.store(target, v128.load(source, 16), 16);
        } else {
          v128.store(target, v128.load(source));
          if (MR > 4) v128.store64_lane(target, v128.load64_zero(source, 16), 0, 16);
        }
        source = at(source, cs);
        target = at(target, width);
      }
    } else {
      for (let p = 0; p < k; p++) {
        const target = at(out, p * width);
        for (let r = 0; r < width; r++) {
          f32.store(at(target, r), r < rows ? f32.load(at(x, (i + r) * rs + p * cs)) : 0);
        }
      }
    }
    out = at(out, k * width);
  }
}

/** Rows contiguous in memory: four at a time through a 4 × 4 transposition in registers. */
export function packRows(x: usize, rs: i32, k: i32, width: i32, out: usize): void {
  let r = 0;
  for (; r + 4 <= width; r += 4) {
    const x0 = at(x, r * rs);
    const x1 = at(x0, rs);
    const x2 = at(x1, rs);
    const x3 = at(x2, rs);
    let target = at(out, r);
    const step = (<usize>width) << 2;
    let p = 0;
    for (; p + 4 <= k; p += 4) {
      const a = v128.load(at(x0, p));
      const b = v128.load(at(x1, p));
      const c = v128.load(at(x2, p));
      const d = v128.load(at(x3, p));
      const ab = v128.shuffle<i32>(a, b, 0, 4, 1, 5);
      const cd = v128.shuffle<i32>(c, d, 0, 4, 1, 5);
      const AB = v128.shuffle<i32>(a, b, 2, 6, 3, 7);
      const CD = v128.shuffle<i32>(c, d, 2, 6, 3, 7);
      v128.store(target, v128.shuffle<i64>(ab, cd, 0, 2));
      v128.store(target + step, v128.shuffle<i64>(ab, cd, 1, 3));
      v128.store(target + 2 * step, v128.shuffle<i64>(AB, CD, 0, 2));
      v128.store(target + 3 * step, v128.shuffle<i64>(AB, CD, 1, 3));
      target += 4 * step;
    }
    for (; p < k; p++) {
      f32.store(target, f32.load(at(x0, p)));
      f32.store(target, f32.load(at(x1, p)), 4);
      f32.store(target, f32.load(at(x2, p)), 8);
      f32.store(target, f32.load(at(x3, p)), 12);
      target += step;
    }
  }
  for (; r < width; r++) {
    const source = at(x, r * rs);
    let target = at(out, r);
    for (let p = 0; p < k; p++) {
      f32.store(target, f32.load(at(source, p)));
      target = at(target, width);
    }
  }
}

/** c (MR × 8, rows ldc floats apart) += panel of A · panel of B over k. */
function tile(a: usize, b: usize, k: i32, c: usize, ldc: i32): void {
  const c1 = at(c, ldc);
  const c2 = at(c1, ldc);
  const c3 = at(c2, ldc);
  const c4 = at(c3, ldc);
  const c5 = at(c4, ldc);
  let c00 = v128.load(c);
  let c01 = v128.load(c, 16);
  let c10 = v128.load(c1);
  let c11 = v128.load(c1, 16);
  let c20 = v128.load(c2);
  let c21 = v128.load(c2, 16);
  let c30 = v128.load(c3);
  let c31 = v128.load(c3, 16);
  let c40 = c00;
  let c41 = c00;
  let c50 = c00;
  let c51 = c00;
  if (MR > 4) {
    c40 = v128.load(c4);
    c41 = v128.load(c4, 16);
    c50 = v128.load(c5);
    c51 = v128.load(c5, 16);
  }
  const end = at(a, k * MR);
  while (a < end) {
    const b0 = v128.load(b);
    const b1 = v128.load(b, 16);
    let s = v128.load32_splat(a);
    c00 = madd(s, b0, c00);
    c01 = madd(s, b1, c01);
    s = v128.load32_splat(a, 4);
    c10 = madd(s, b0, c10);
    c11 = madd(s, b1, c11);
    s = v128.load32_splat(a, 8);
    c20 = madd(s, b0, c20);
    c21 = madd(s, b1, c21);
    s = v128.load32_splat(a, 12);
    c30 = madd(s, b0, c30);
    c31 = madd(s, b1, c31);
    if (MR > 4) {
      s = v128.load32_splat(a, 16);
      c40 = madd(s, b0, c40);
      c41 = madd(s, b1, c41);
      s = v128.load32_splat(a, 20);
      c50 = madd(s, b0, c50);
      c51 = madd(s, b1, c51);
    }
    a = at(a, MR);
    b += 32;
  }
  v128.store(c, c00);
  v128.store(c, c01, 16);
  v128.store(c1, c10);
  v128.store(c1, c11, 16);
  v128.store(c2, c20);
  v128.store(c2, c21, 16);
  v128.store(c3, c30);
  v128.store(c3, c31, 16);
  if (MR > 4) {
    v128.store(c4, c40);
    v128.store(c4, c41, 16);
    v128.store(c5, c50);
    v128.store(c5, c51, 16);
  }
}

/** A ragged tile: computed whole in scratch, of which rows × columns are added to c. */
function edge(a: usize, b: usize, k: i32, c: usize, ldc: i32, rows: i32, columns: i32, scratch: usize): void {
  memory.fill(scratch, 0, <usize>(MR * NR * 4));
  tile(a, b, k, scratch, NR);
  for (let i = 0; i < rows; i++) {
    const source = at(scratch, i * NR);
    const target = at(c, i * ldc);
    for (let j = 0; j < columns; j++) {
      f32.store(at(target, j), f32.load(at(target, j)) + f32.load(at(source, j)));
    }
  }
}

/** One row: y += x·B, streaming B; B is k × n with element (p, j) at p·rs + j·cs, one of the strides being 1. */
function row(x: usize, xs: i32, b: usize, rs: i32, cs: i32, n: i32, k: i32, y: usize): void {
  if (cs == 1) {
    for (let p = 0; p < k; p++) {
      const value = f32.load(at(x, p * xs));
      const s = f32x4.splat(value);
      const source = at(b, p * rs);
      let j = 0;
      for (; j + 4 <= n; j += 4) {
        v128.store(at(y, j), madd(s, v128.load(at(source, j)), v128.load(at(y, j))));
      }
      for (; j < n; j++) {
        f32.store(at(y, j), f32.load(at(y, j)) + value * f32.load(at(source, j)));
      }
    }
  } else {
    for (let j = 0; j < n; j++) {
      const source = at(b, j * cs);
      let s0 = f32x4.splat(0);
      let s1 = s0;
      let s2 = s0;
      let s3 = s0;
      let p = 0;
      if (xs == 1) {
        for (; p + 16 <= k; p += 16) {
          const xp = at(x, p);
          const bp = at(source, p);
          s0 = madd(v128.load(xp), v128.load(bp), s0);
          s1 = madd(v128.load(xp, 16), v128.load(bp, 16), s1);
          s2 = madd(v128.load(xp, 32), v128.load(bp, 32), s2);
          s3 = madd(v128.load(xp, 48), v128.load(bp, 48), s3);
        }
      }
      s0 = f32x4.add(f32x4.add(s0, s1), f32x4.add(s2, s3));
      let sum =
        f32x4.extract_lane(s0, 0) + f32x4.extract_lane(s0, 1) + (f32x4.extract_lane(s0, 2) + f32x4.extract_lane(s0, 3));
      for (; p < k; p++) sum += f32.load(at(x, p * xs)) * f32.load(at(source, p));
      f32.store(at(y, j), f32.load(at(y, j)) + sum);
    }
  }
}

/** Sets `columns` floats of every row to those of bias, or to 0 where there is none. */
function clear(c: usize, bias: usize, rows: i32, columns: i32, ldc: i32): void {
  const bytes = (<usize>columns) << 2;
  for (let i = 0; i < rows; i++) {
    if (bias == 0) memory.fill(c, 0, bytes);
    else memory.copy(c, bias, bytes);
    c = at(c, ldc);
  }
}

/** Negative floats become 0. */
function rectify(c: usize, rows: i32, columns: i32, ldc: i32): void {
  const zero = f32x4.splat(0);
  for (let i = 0; i < rows; i++) {
    let j = 0;
    for (; j + 4 <= columns; j += 4) v128.store(at(c, j), f32x4.max(v128.load(at(c, j)), zero));
    for (; j < columns; j++) f32.store(at(c, j), max(f32.load(at(c, j)), 0));
    c = at(c, ldc);
  }
}

/**
 * @param a m × k, or k × m where transposeA
 * @param b k × n, or n × k where transposeB
 * @param c m × n, overwritten
 * @param bias n values added to every row, or 0 for none
 * @param relu whether negative results become 0
 * @param scratch {@link gemmScratch} floats
 */
export function gemm(
  a: usize,
  b: usize,
  c: usize,
  bias: usize,
  m: i32,
  n: i32,
  k: i32,
  transposeA: bool,
  transposeB: bool,
  relu: bool,
  scratch: usize,
): void {
  gemmBlock(a, b, c, bias, m, n, k, transposeA, transposeB, relu, scratch, 0, m, 0, n);
}

/**
 * The block of {@link gemm} with rows i0 … i1 − 1 and columns j0 … j1 − 1; the rest of c is not touched. Where i0 is a
 * multiple of MR and j0 one of NR, every element comes out of the same operations in the same order as in the whole
 * product: the tiles' grid is the same.
 */
export function gemmBlock(
  a: usize,
  b: usize,
  c: usize,
  bias: usize,
  m: i32,
  n: i32,
  k: i32,
  transposeA: bool,
  transposeB: bool,
  relu: bool,
  scratch: usize,
  i0: i32,
  i1: i32,
  j0: i32,
  j1: i32,
): void {
  const ars = transposeA ? 1 : k;
  const acs = transposeA ? m : 1;
  const brs = transposeB ? 1 : n;
  const bcs = transposeB ? k : 1;
  const corner = c + (((<usize>i0) * (<usize>n) + (<usize>j0)) << 2);
  clear(corner, bias == 0 ? 0 : at(bias, j0), i1 - i0, j1 - j0, n);
  if (m == 1) {
    row(a, acs, b + (((<usize>j0) * (<usize>bcs)) << 2), brs, bcs, j1 - j0, k, corner);
  } else {
    const packedA = scratch;
    const packedB = at(packedA, MC * KC);
    const spare = at(packedB, KC * (NC + NR));
    for (let jc = j0; jc < j1; jc += NC) {
      const nc = min(NC, j1 - jc);
      for (let pc = 0; pc < k; pc += KC) {
        const kc = min(KC, k - pc);
        pack(b + (((<usize>pc) * (<usize>brs) + (<usize>jc) * (<usize>bcs)) << 2), bcs, brs, nc, kc, NR, packedB);
        for (let ic = i0; ic < i1; ic += MC) {
          const mc = min(MC, i1 - ic);
          pack(a + (((<usize>ic) * (<usize>ars) + (<usize>pc) * (<usize>acs)) << 2), ars, acs, mc, kc, MR, packedA);
          for (let j = 0; j < nc; j += NR) {
            const columns = min(NR, nc - j);
            const panelB = at(packedB, j * kc);
            for (let i = 0; i < mc; i += MR) {
              const rows = min(MR, mc - i);
              const target = c + (((<usize>(ic + i)) * (<usize>n) + (<usize>(jc + j))) << 2);
              const panelA = at(packedA, i * kc);
              if (rows == MR && columns == NR) tile(panelA, panelB, kc, target, n);
              else edge(panelA, panelB, kc, target, n, rows, columns, spare);
            }
          }
        }
      }
    }
  }
  if (relu) rectify(corner, i1 - i0, j1 - j0, n);
}
