import { Random } from '@d2dmoe/core';
import * as fc from 'fast-check';
import { expect, test } from 'vitest';
import { symmetricEigen } from './index.js';

const at = (values: Float64Array, i: number) => values[i] ?? Number.NaN;

/** Σ scaleᵣ·vᵣ·vᵣᵀ of random vectors: of rank `rank` at most, with values of very different size. */
function randomSymmetric(n: number, rank: number, random: Random): Float64Array {
  const matrix = new Float64Array(n * n);
  for (let r = 0; r < rank; r++) {
    const vector = Array.from({ length: n }, () => random.normal());
    const scale = (r % 3 === 2 ? -1 : 1) * 10 ** (4 * random.uniform() - 2);
    for (const [i, a] of vector.entries()) {
      for (const [j, b] of vector.entries())
        matrix[i * n + j] = at(matrix, i * n + j) + scale * a * b;
    }
  }
  return matrix;
}

function expectEigen(matrix: Float64Array, n: number): Float64Array {
  const before = matrix.slice();
  const { values, vectors } = symmetricEigen(matrix, n);
  expect(matrix).toEqual(before);
  const scale = Math.hypot(...matrix) + 1e-300;
  for (let i = 0; i < n; i++) {
    expect(at(values, i)).toBeLessThanOrEqual(i > 0 ? at(values, i - 1) : Infinity);
    for (let j = 0; j < n; j++) {
      let image = 0;
      let overlap = 0;
      for (let k = 0; k < n; k++) {
        image += at(matrix, j * n + k) * at(vectors, i * n + k);
        overlap += at(vectors, j * n + k) * at(vectors, i * n + k);
      }
      expect(Math.abs(image - at(values, i) * at(vectors, i * n + j))).toBeLessThan(1e-12 * scale);
      expect(Math.abs(overlap - (i === j ? 1 : 0))).toBeLessThan(1e-12);
    }
  }
  return values;
}

test('random symmetric matrices, of full rank and of less: A·v = λ·v, orthonormal, greatest first', () => {
  fc.assert(
    fc.property(
      fc.integer({ min: 1, max: 14 }),
      fc.integer({ min: 0, max: 20 }),
      fc.integer(),
      (n, rank, seed) => {
        expect(expectEigen(randomSymmetric(n, rank, new Random(seed)), n)).toHaveLength(n);
      },
    ),
  );
});

test('one of 60 rows, and one whose values repeat', () => {
  expectEigen(randomSymmetric(60, 25, new Random(1)), 60);
  const n = 9;
  const projector = Float64Array.from({ length: n * n }, (_, i) =>
    i % (n + 1) === 0 ? 2 - 1 / n : -1 / n,
  );
  const values = expectEigen(projector, n);
  expect([...values].map((value) => Math.round(value * 1e9) / 1e9)).toEqual([
    ...Array.from({ length: n - 1 }, () => 2),
    1,
  ]);
});

test('a diagonal matrix is sorted', () => {
  const { values, vectors } = symmetricEigen(Float64Array.of(1, 0, 0, 0, 3, 0, 0, 0, 2), 3);
  expect([...values]).toEqual([3, 2, 1]);
  expect([...vectors].map(Math.abs)).toEqual([0, 1, 0, 0, 0, 1, 1, 0, 0]);
});
