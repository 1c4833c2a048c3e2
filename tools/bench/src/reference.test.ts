import { referenceDynamicKExperts } from '@d2dmoe/kernels';
import { expect, test } from 'vitest';
import { check, worstRowError } from './check.js';
import { References } from './reference.js';
import { type ExpertsWorkload, feedForwardValues, selectionMasks } from './workload.js';

for (const gated of [false, true]) {
  const workload: ExpertsWorkload = {
    kind: 'experts',
    rows: 3,
    dModel: 10,
    hidden: 24,
    gated,
    expertSize: 4,
    fraction: 0.5,
  };

  test(`selected experts of a ${gated ? 'gated' : 'plain'} FFN agree with the reference of kernels`, () => {
    const references = new References().of(workload);
    const { x, ...weights } = feedForwardValues(workload);
    const float64 = Object.fromEntries(
      Object.entries(weights).map(([name, values]) => [name, Float64Array.from(values)]),
    ) as Record<'up' | 'down', Float64Array>;
    const ffn = {
      ...float64,
      dIn: 10,
      dOut: 10,
      experts: 6,
      expertSize: 4,
      activation: 'relu' as const,
    };
    for (const [i, mask] of selectionMasks(workload).entries()) {
      const expected = referenceDynamicKExperts(Float64Array.from(x), mask, ffn);
      const actual = references[`mask ${i}`]?.values;
      expect(worstRowError(actual, { values: expected, columns: 10 })).toBeLessThan(1e-12);
    }
  });
}

test('every row of a mask runs exactly its share of the experts, not always the same ones', () => {
  const shape = { rows: 5, dModel: 2, hidden: 96, gated: false };
  const masks = selectionMasks({ kind: 'experts', ...shape, expertSize: 4, fraction: 0.4 });
  const rows = masks.flatMap((mask) =>
    Array.from({ length: 5 }, (_, row) => mask.subarray(row * 24, (row + 1) * 24)),
  );
  expect(rows.map((row) => row.reduce((sum, bit) => sum + bit, 0))).toEqual(rows.map(() => 10));
  expect(new Set(rows.map((row) => row.join())).size).toBe(rows.length);
});

test('a transposed product equals the product of transposes', () => {
  const references = new References();
  const { output } = references.of({
    kind: 'product',
    a: [2, 4, 3],
    b: [2, 5, 4],
    transposeA: true,
    transposeB: true,
  });
  // c[i, j] = Σ a[p, i] · b[j, p] of the second matrices.
  const plain = references.of({ kind: 'product', a: [24, 1], b: [1, 40] })['output'];
  const products = plain?.values as Float64Array;
  const entry = (i: number, j: number) =>
    Array.from({ length: 4 }, (_, p) => products[(12 + p * 3 + i) * 40 + 20 + j * 4 + p] as number);
  const expected = Array.from({ length: 15 }, (_, at) =>
    entry(Math.floor(at / 5), at % 5).reduce((sum, value) => sum + value, 0),
  );
  const actual = output?.values.subarray(15) as Float64Array;
  expect(worstRowError(actual, { values: Float64Array.from(expected), columns: 5 })).toBeLessThan(
    1e-12,
  );
});

test('a peer whose result is wrong in one value, too short or missing is refused', () => {
  const workload = { kind: 'feedForward', rows: 4, dModel: 6, hidden: 8, gated: false } as const;
  const references = new References();
  const right = Float32Array.from(references.of(workload)['output']?.values ?? []);
  expect(() => check(workload, { output: right }, references)).not.toThrow();
  const wrong = right.slice();
  wrong[13] = (wrong[13] as number) * 1.001;
  for (const output of [wrong, right.subarray(1), right.map(() => Number.NaN)]) {
    expect(() => check(workload, { output }, references)).toThrow('wrong result');
  }
  expect(() => check(workload, {}, references)).toThrow('wrong result');
});
