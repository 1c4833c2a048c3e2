import { MR, NR, gemmBlock, gemmScratch } from './gemm';

/**
 * Part `part` of `parts` of a batch of matrix products, cut between threads: whole products where there are enough of
 * them, else along the longer side of each result, since what is packed once more by every part is the operand of the
 * other side. The sum over k is never cut and cuts fall between tiles: the result's bits do not depend on `parts`.
 *
 * @param a the first product's m × k floats (k × m where transposeA); the next product's start aStep floats further
 * @param b k × n (n × k where transposeB), with bStep
 * @param c products × m × n, overwritten
 * @param bias n values added to every row, or 0 for none
 * @param relu whether negative results become 0
 * @param scratch {@link gemmScratch} floats for each thread
 * @param thread whose scratch to use
 */
export function matMul(
  a: usize,
  b: usize,
  c: usize,
  bias: usize,
  products: i32,
  aStep: i32,
  bStep: i32,
  m: i32,
  n: i32,
  k: i32,
  transposeA: bool,
  transposeB: bool,
  relu: bool,
  scratch: usize,
  thread: i32,
  part: i32,
  parts: i32,
): void {
  scratch += (<usize>(thread * gemmScratch())) << 2;
  let first = 0;
  let last = products;
  let i0 = 0;
  let i1 = m;
  let j0 = 0;
  let j1 = n;
  if (products >= parts) {
    first = cut(products, part, parts, 1);
    last = cut(products, part + 1, parts, 1);
  } else if (m > n) {
    i0 = cut(m, part, parts, MR);
    i1 = cut(m, part + 1, parts, MR);
  } else {
    j0 = cut(n, part, parts, NR);
    j1 = cut(n, part + 1, parts, NR);
  }
  if (i0 == i1 || j0 == j1) return;
  for (let i = first; i < last; i++) {
    const x = a + (((<usize>i) * (<usize>aStep)) << 2);
    const y = b + (((<usize>i) * (<usize>bStep)) << 2);
    const z = c + (((<usize>i) * (<usize>m) * (<usize>n)) << 2);
    gemmBlock(x, y, z, bias, m, n, k, transposeA, transposeB, relu, scratch, i0, i1, j0, j1);
  }
}

/** Where part `part` of `parts` begins in `length` elements, between two runs of `unit`. */
function cut(length: i32, part: i32, parts: i32, unit: i32): i32 {
  const units = (length + unit - 1) / unit;
  return min(length, ((units * part) / parts) * unit);
}
