import { broadcast_util } from '@tensorflow/tfjs-core';

/** Some of the products of a broadcast batch, whose matrices lie at equal distances. Numbers count matrices. */
export interface BatchRun {
  /** Index of the first left matrix. */
  a: number;
  /** Index of the first right matrix. */
  b: number;
  /** Index of the first result; further ones follow. */
  out: number;
  count: number;
  /** Left matrices from one product to the next: 0 or 1, or more where inner dimensions are left out. */
  stepA: number;
  stepB: number;
}

/**
 * Cuts a batch whose outer dimensions are broadcast against each other into as few runs as there are.
 *
 * @param dimsA Dimensions of a but for the last two.
 * @param dimsB Those of b.
 * @returns The result's outer dimensions, and the runs; none where a dimension is 0.
 */
export function batchRuns(
  dimsA: readonly number[],
  dimsB: readonly number[],
): { dims: number[]; runs: BatchRun[] } {
  const dims = broadcast_util.assertAndGetBroadcastShape(dimsA as number[], dimsB as number[]);
  const stepsA = matrixSteps(dimsA, dims);
  const stepsB = matrixSteps(dimsB, dims);

  // Neighbouring dimensions become one where a single step leads through both.
  const merged: { size: number; a: number; b: number }[] = [];
  dims.forEach((size, d) => {
    if (size === 1) return;
    const dim = { size, a: stepsA[d] ?? 0, b: stepsB[d] ?? 0 };
    const last = merged.at(-1);
    if (last !== undefined && last.a === dim.a * size && last.b === dim.b * size) {
      merged[merged.length - 1] = { ...dim, size: last.size * size };
    } else {
      merged.push(dim);
    }
  });

  const inner = merged.pop() ?? { size: 1, a: 0, b: 0 };
  let runs: BatchRun[] = [
    { a: 0, b: 0, out: 0, count: inner.size, stepA: inner.a, stepB: inner.b },
  ];
  let products = inner.size;
  for (const outer of merged.reverse()) {
    const under = runs;
    const count = products;
    runs = Array.from({ length: outer.size }, (_, i) =>
      under.map((run) => ({
        ...run,
        a: run.a + i * outer.a,
        b: run.b + i * outer.b,
        out: run.out + i * count,
      })),
    ).flat();
    products *= outer.size;
  }
  return { dims, runs: products === 0 ? [] : runs };
}

/** Matrices from one index to the next in each of the result's dimensions; 0 where it is broadcast. */
function matrixSteps(own: readonly number[], dims: readonly number[]): number[] {
  const steps = dims.map(() => 0);
  let step = 1;
  for (let d = own.length - 1; d >= 0; d--) {
    const size = own[d] ?? 1;
    if (size !== 1) steps[d + dims.length - own.length] = step;
    step *= size;
  }
  return steps;
}
