/** Eigenvalues of a symmetric matrix, greatest first, with their eigenvectors. */
export interface SymmetricEigen {
  /** [n] */
  values: Float64Array;
  /** [n, n], row i belongs to value i; the rows are orthonormal. */
  vectors: Float64Array;
}

/**
 * All eigenvalues and eigenvectors of a symmetric matrix in float64: reflections make it tridiagonal, and implicit QR
 * steps with Wilkinson's shift make that diagonal (Golub and Van Loan 2013, chapter 8). About 10·n³ operations.
 *
 * @param matrix [n, n], row-major; not changed.
 */
export function symmetricEigen(matrix: Float64Array, n: number): SymmetricEigen {
  // The transpose of the orthogonal factor: what turns its columns then works on contiguous rows.
  const rows = new Float64Array(n * n);
  for (let i = 0; i < n; i++) rows[i * n + i] = 1;
  const work = matrix.slice();
  tridiagonalize(work, rows, n);
  const diagonal = Float64Array.from({ length: n }, (_, i) => work[i * n + i] as number);
  const beside = Float64Array.from({ length: n }, (_, i) =>
    i + 1 < n ? (work[i * n + i + 1] as number) : 0,
  );
  diagonalize(diagonal, beside, rows, n);
  const order = [...diagonal.keys()].sort(
    (a, b) => (diagonal[b] as number) - (diagonal[a] as number),
  );
  const vectors = new Float64Array(n * n);
  for (const [i, from] of order.entries()) {
    vectors.set(rows.subarray(from * n, (from + 1) * n), i * n);
  }
  return { values: Float64Array.from(order, (i) => diagonal[i] as number), vectors };
}

/** a ← QᵀaQ tridiagonal, rows ← Qᵀ·rows, by one Householder reflection for each column. */
function tridiagonalize(a: Float64Array, rows: Float64Array, n: number): void {
  const v = new Float64Array(n);
  const w = new Float64Array(n);
  for (let k = 0; k + 2 < n; k++) {
    let square = 0;
    for (let i = k + 1; i < n; i++) {
      v[i] = a[k * n + i] as number;
      square += (v[i] as number) ** 2;
    }
    const first = v[k + 1] as number;
    // Nothing to clear beyond the neighbour.
    if (square - first ** 2 === 0) continue;
    const length = Math.sqrt(square);
    v[k + 1] = first + (first < 0 ? -length : length);
    const beta = 1 / (length * (length + Math.abs(first)));
    let overlap = 0;
    for (let i = k; i < n; i++) {
      let sum = 0;
      for (let j = k + 1; j < n; j++) sum += (a[i * n + j] as number) * (v[j] as number);
      w[i] = beta * sum;
      if (i > k) overlap += (w[i] as number) * (v[i] as number);
    }
    v[k] = 0;
    for (let i = k; i < n; i++) w[i] = (w[i] as number) - 0.5 * beta * overlap * (v[i] as number);
    for (let i = k; i < n; i++) {
      const vi = v[i] as number;
      const wi = w[i] as number;
      for (let j = k; j < n; j++) {
        a[i * n + j] = (a[i * n + j] as number) - vi * (w[j] as number) - wi * (v[j] as number);
      }
    }
    // rows ← (1 − β·v·vᵀ)·rows
    w.fill(0);
    for (let i = k + 1; i < n; i++) {
      const vi = beta * (v[i] as number);
      for (let j = 0; j < n; j++) w[j] = (w[j] as number) + vi * (rows[i * n + j] as number);
    }
    for (let i = k + 1; i < n; i++) {
      const vi = v[i] as number;
      for (let j = 0; j < n; j++) {
        rows[i * n + j] = (rows[i * n + j] as number) - vi * (w[j] as number);
      }
    }
  }
}

/** Makes a tridiagonal matrix diagonal: `beside[i]` couples i and i + 1. */
function diagonalize(d: Float64Array, beside: Float64Array, rows: Float64Array, n: number): void {
  const isSmall = (i: number) =>
    Math.abs(beside[i] as number) <=
    Number.EPSILON * (Math.abs(d[i] as number) + Math.abs(d[i + 1] as number));
  // The matrix's own scale: entries below it are rounding, also beside zeros.
  const scale = d.reduce(
    (most, value, i) => Math.max(most, Math.abs(value) + Math.abs(beside[i] as number)),
    0,
  );
  const negligible = (i: number) =>
    isSmall(i) || Math.abs(beside[i] as number) <= Number.EPSILON * 1e-3 * scale;
  let end = n - 1;
  while (end > 0) {
    if (negligible(end - 1)) {
      beside[end - 1] = 0;
      end--;
      continue;
    }
    let start = end - 1;
    while (start > 0 && !negligible(start - 1)) start--;
    qrStep(d, beside, rows, n, start, end);
  }
}

/** One implicit QR step on the block start … end, whose shift is the eigenvalue of its last corner next to its end. */
function qrStep(
  d: Float64Array,
  beside: Float64Array,
  rows: Float64Array,
  n: number,
  start: number,
  end: number,
): void {
  const last = d[end] as number;
  const coupling = beside[end - 1] as number;
  const half = ((d[end - 1] as number) - last) / 2;
  const shift = last - coupling ** 2 / (half + (half < 0 ? -1 : 1) * Math.hypot(half, coupling));
  let x = (d[start] as number) - shift;
  let z = beside[start] as number;
  for (let k = start; k < end; k++) {
    const r = Math.hypot(x, z);
    const c = r === 0 ? 1 : x / r;
    const s = r === 0 ? 0 : z / r;
    if (k > start) beside[k - 1] = r;
    const [a, b, g] = [d[k] as number, beside[k] as number, d[k + 1] as number];
    d[k] = c * c * a + 2 * c * s * b + s * s * g;
    d[k + 1] = s * s * a - 2 * c * s * b + c * c * g;
    beside[k] = c * s * (g - a) + (c * c - s * s) * b;
    if (k + 1 < end) {
      x = beside[k] as number;
      z = s * (beside[k + 1] as number);
      beside[k + 1] = c * (beside[k + 1] as number);
    }
    const upper = k * n;
    for (let j = 0; j < n; j++) {
      const p = rows[upper + j] as number;
      const q = rows[upper + n + j] as number;
      rows[upper + j] = c * p + s * q;
      rows[upper + n + j] = c * q - s * p;
    }
  }
}
