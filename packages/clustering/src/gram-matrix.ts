import { turn } from './turn.js';

/** Rows between two turns of other work. */
const stripe = 64;

/**
 * The inner products of all pairs of rows, [h, h], for rows [h, d].
 *
 * @param onStripe Called after each stripe of rows, each time after other work had a turn, with the share of the work
 *   that is done.
 */
export async function gramMatrix(
  rows: Float32Array,
  h: number,
  d: number,
  onStripe: (done: number) => void,
): Promise<Float32Array> {
  const gram = new Float32Array(h * h);
  for (let from = 0; from < h; from += stripe) {
    const to = Math.min(from + stripe, h);
    lowerProducts(rows, from, to, h, d, gram);
    await turn();
    onStripe((to / h) ** 2);
  }
  mirrorLowerTriangle(gram, h);
  return gram;
}

/** Copies what is below the diagonal of a square matrix to above it. */
export function mirrorLowerTriangle(matrix: Float32Array, size: number): void {
  for (let i = 0; i < size; i++) {
    for (let j = 0; j < i; j++) matrix[j * size + i] = matrix[i * size + j] as number;
  }
}

/**
 * The products of rows `from` to `to` with the rows up to themselves, in blocks of 4 × 2 whose sums stay in registers.
 * A block that reaches over the last row takes that row repeatedly, and so writes the same products again.
 */
function lowerProducts(
  rows: Float32Array,
  from: number,
  to: number,
  h: number,
  d: number,
  gram: Float32Array,
): void {
  for (let i0 = from; i0 < to; i0 += 4) {
    const i1 = Math.min(i0 + 1, to - 1);
    const i2 = Math.min(i0 + 2, to - 1);
    const i3 = Math.min(i0 + 3, to - 1);
    for (let j0 = 0; j0 <= i3; j0 += 2) {
      const j1 = Math.min(j0 + 1, h - 1);
      let s00 = 0;
      let s01 = 0;
      let s10 = 0;
      let s11 = 0;
      let s20 = 0;
      let s21 = 0;
      let s30 = 0;
      let s31 = 0;
      for (let t = 0; t < d; t++) {
        const b0 = rows[j0 * d + t] as number;
        const b1 = rows[j1 * d + t] as number;
        const a0 = rows[i0 * d + t] as number;
        const a1 = rows[i1 * d + t] as number;
        const a2 = rows[i2 * d + t] as number;
        const a3 = rows[i3 * d + t] as number;
        s00 += a0 * b0;
        s01 += a0 * b1;
        s10 += a1 * b0;
        s11 += a1 * b1;
        s20 += a2 * b0;
        s21 += a2 * b1;
        s30 += a3 * b0;
        s31 += a3 * b1;
      }
      gram[i0 * h + j0] = s00;
      gram[i0 * h + j1] = s01;
      gram[i1 * h + j0] = s10;
      gram[i1 * h + j1] = s11;
      gram[i2 * h + j0] = s20;
      gram[i2 * h + j1] = s21;
      gram[i3 * h + j0] = s30;
      gram[i3 * h + j1] = s31;
    }
  }
}
