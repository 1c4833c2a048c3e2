import * as tf from '@tensorflow/tfjs-core';

/** Row-major matrices, the last two dimensions of a shape, to be transposed or not. */
export interface Matrices {
  values: ArrayLike<number>;
  shape: number[];
  transpose: boolean;
}

/** op(a) · op(b) in float64, outer dimensions broadcast as numpy does. */
export function referenceProduct(
  a: Matrices,
  b: Matrices,
): { shape: number[]; values: Float64Array } {
  const at = ({ values, shape, transpose }: Matrices, outer: number[], r: number, c: number) => {
    const own = shape.slice(0, -2);
    let item = 0;
    own.forEach((size, d) => {
      item = item * size + (size === 1 ? 0 : (outer[outer.length - own.length + d] ?? 0));
    });
    const [lines = 0, length = 0] = shape.slice(-2);
    const [line, column] = transpose ? [c, r] : [r, c];
    return values[(item * lines + line) * length + column] ?? Number.NaN;
  };
  const dims = tf.broadcast_util.assertAndGetBroadcastShape(
    a.shape.slice(0, -2),
    b.shape.slice(0, -2),
  );
  const m = a.shape.at(a.transpose ? -1 : -2) ?? 0;
  const k = a.shape.at(a.transpose ? -2 : -1) ?? 0;
  const n = b.shape.at(b.transpose ? -2 : -1) ?? 0;
  const out = new Float64Array(tf.util.sizeFromShape(dims) * m * n);
  for (let i = 0; i < out.length; i++) {
    const column = i % n;
    const row = Math.floor(i / n) % m;
    const outer = tf.util.indexToLoc(
      Math.floor(i / n / m),
      dims.length,
      tf.util.computeStrides(dims),
    );
    let sum = 0;
    for (let s = 0; s < k; s++) sum += at(a, outer, row, s) * at(b, outer, s, column);
    out[i] = sum;
  }
  return { shape: [...dims, m, n], values: out };
}
