import { Random } from '@d2dmoe/core';
import * as tf from '@tensorflow/tfjs-core';
import type { TrainableReplacement } from '../src/index.js';

/**
 * A projection whose outputs have standard deviations `scales` along random orthonormal directions, with normal inputs
 * and its outputs on them. The caller disposes the tensors.
 */
export function planted({
  dIn,
  scales,
  tokens,
  bias,
}: {
  dIn: number;
  scales: readonly number[];
  tokens: number;
  bias: boolean;
}) {
  const random = new Random(5);
  const dOut = scales.length;
  const outer = orthonormalRows(dOut, dOut, random);
  const inner = orthonormalRows(dOut, dIn, random);
  const values = Array.from({ length: dOut }, (_, i) =>
    Array.from({ length: dIn }, (_, j) =>
      scales.reduce((sum, s, r) => sum + s * (outer[r]?.[i] ?? 0) * (inner[r]?.[j] ?? 0), 0),
    ),
  );
  const weight = tf.tensor2d(values);
  const offset = bias ? tf.tensor1d(Array.from(scales, (_, i) => i - 1)) : undefined;
  const input = tf.tensor2d(
    Float32Array.from({ length: tokens * dIn }, () => random.normal()),
    [tokens, dIn],
  );
  const output = tf.tidy((): tf.Tensor2D => {
    const product = tf.matMul<tf.Tensor2D>(input, weight, false, true);
    return offset ? tf.add(product, offset) : product;
  });
  return { weight, bias: offset, input, output };
}

/** Gram and Schmidt's. */
function orthonormalRows(rows: number, columns: number, random: Random): number[][] {
  const result: number[][] = [];
  for (let r = 0; r < rows; r++) {
    const row = Array.from({ length: columns }, () => random.normal());
    for (const other of result) {
      const overlap = row.reduce((sum, value, i) => sum + value * (other[i] ?? 0), 0);
      for (const [i, value] of other.entries()) row[i] = (row[i] ?? 0) - overlap * value;
    }
    const length = Math.hypot(...row);
    result.push(row.map((value) => value / length));
  }
  return result;
}

export function disposeReplacement(replacement: TrainableReplacement): void {
  const { up, upBias, down, downBias } = replacement;
  tf.dispose([up, upBias, down, downBias]);
}
