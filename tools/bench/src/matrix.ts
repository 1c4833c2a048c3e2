type Values = Float32Array | Float64Array;

/** a · b in float64, row-major: [m, k] · [k, n]. */
export function multiply(a: Values, b: Values, m: number, k: number, n: number): Float64Array {
  const c = new Float64Array(m * n);
  for (let i = 0; i < m; i++) {
    for (let p = 0; p < k; p++) {
      const factor = a[i * k + p] as number;
      if (factor === 0) continue;
      for (let j = 0; j < n; j++) {
        c[i * n + j] = (c[i * n + j] as number) + factor * (b[p * n + j] as number);
      }
    }
  }
  return c;
}

/** The transpose of a [rows, columns] matrix. */
export function transpose(values: Values, rows: number, columns: number): Float64Array {
  const output = new Float64Array(values.length);
  for (let row = 0; row < rows; row++) {
    for (let column = 0; column < columns; column++) {
      output[column * rows + row] = values[row * columns + column] as number;
    }
  }
  return output;
}

/** Adds a bias to each row of a [rows, bias.length] matrix, in place. */
export function addBias(values: Float64Array, bias: Values | undefined): Float64Array {
  if (bias !== undefined) {
    for (let i = 0; i < values.length; i++) {
      values[i] = (values[i] as number) + (bias[i % bias.length] as number);
    }
  }
  return values;
}
