import { addBias, multiply, transpose } from './matrix.js';
import {
  type ExpertsWorkload,
  type FeedForwardShape,
  type FeedForwardValues,
  feedForwardValues,
  productOperands,
  type ProductWorkload,
  selectionMasks,
  type Workload,
} from './workload.js';

/** A result with the length of its rows. */
export interface Reference {
  values: Float64Array;
  columns: number;
}

/** Everything but the training step, which has no one right result. */
export type PlainWorkload = Exclude<Workload, { kind: 'trainingStep' }>;

/** Computes in float64 what workloads give. Keeps the last FFN, which the workloads of a case share. */
export class References {
  #feedForward: { key: string; values: FeedForwardValues; hidden: Float64Array } | undefined;

  /** The results by the names that peers give them. */
  of(workload: PlainWorkload): Record<string, Reference> {
    if (workload.kind === 'product') return { output: product(workload) };
    const { values, hidden } = this.#hiddenOf(workload);
    const columns = workload.dModel;
    const down = (hidden: Float64Array): Reference => ({
      values: addBias(
        multiply(hidden, values.down, workload.rows, workload.hidden, columns),
        values.downBias,
      ),
      columns,
    });
    if (workload.kind === 'feedForward') return { output: down(hidden) };
    return Object.fromEntries(
      selectionMasks(workload).map((mask, i) => [
        `mask ${i}`,
        down(keepSelected(hidden, mask, workload)),
      ]),
    );
  }

  #hiddenOf({ rows, dModel, hidden: width, gated }: FeedForwardShape) {
    const shape = { rows, dModel, hidden: width, gated };
    const key = JSON.stringify(shape);
    if (this.#feedForward?.key !== key) {
      const values = feedForwardValues(shape);
      const project = (matrix: Float32Array, bias?: Float32Array) =>
        addBias(multiply(values.x, transpose(matrix, width, dModel), rows, dModel, width), bias);
      const hidden = values.gate
        ? project(values.gate).map((value) => Math.max(value, 0))
        : project(values.up, values.upBias).map((value) => Math.max(value, 0));
      if (values.gate) {
        for (const [i, factor] of project(values.up).entries()) {
          hidden[i] = (hidden[i] as number) * factor;
        }
      }
      this.#feedForward = { key, values, hidden };
    }
    return this.#feedForward;
  }
}

function product({ a, b, transposeA, transposeB }: ProductWorkload): Reference {
  const operands = productOperands({ kind: 'product', a, b });
  const [aRows, aColumns] = a.slice(-2) as [number, number];
  const [bRows, bColumns] = b.slice(-2) as [number, number];
  const [m, k] = transposeA ? [aColumns, aRows] : [aRows, aColumns];
  const n = transposeB ? bRows : bColumns;
  const products = operands.a.length / (m * k);
  const values = new Float64Array(products * m * n);
  for (let i = 0; i < products; i++) {
    const left = operands.a.subarray(i * m * k, (i + 1) * m * k);
    const right = operands.b.subarray(i * k * n, (i + 1) * k * n);
    values.set(
      multiply(
        transposeA ? transpose(left, k, m) : left,
        transposeB ? transpose(right, n, k) : right,
        m,
        k,
        n,
      ),
      i * m * n,
    );
  }
  return { values, columns: n };
}

function keepSelected(
  hidden: Float64Array,
  mask: Uint8Array,
  { expertSize }: ExpertsWorkload,
): Float64Array {
  return hidden.map((value, i) => (mask[Math.floor(i / expertSize)] ? value : 0));
}
