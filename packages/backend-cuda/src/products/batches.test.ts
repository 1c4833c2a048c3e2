import fc from 'fast-check';
import { expect, test } from 'vitest';
import { batchRuns } from './batches.js';

/** For each product of the batch in order: which left and right matrix. */
function pairs(runs: ReturnType<typeof batchRuns>['runs']): [number, number][] {
  return [...runs]
    .sort((x, y) => x.out - y.out)
    .flatMap((run) =>
      Array.from({ length: run.count }, (_, i): [number, number] => [
        run.a + i * run.stepA,
        run.b + i * run.stepB,
      ]),
    );
}

test('runs pair the matrices as broadcasting does', () => {
  const dim = fc.tuple(fc.integer({ min: 0, max: 4 }), fc.constantFrom('both', 'a', 'b'));
  fc.assert(
    fc.property(fc.array(dim, { maxLength: 4 }), fc.nat(3), (dims, dropped) => {
      const dimsA = dims.map(([size, who]) => (who === 'b' ? 1 : size));
      const dimsB = dims.map(([size, who]) => (who === 'a' ? 1 : size)).slice(dropped);
      const full = dims.map(([size, who], d) => (who === 'b' && d < dropped ? 1 : size));
      const expected: [number, number][] = [];
      const walk = (d: number, a: number, b: number) => {
        if (d === full.length) {
          expected.push([a, b]);
          return;
        }
        for (let i = 0; i < (full[d] ?? 1); i++) {
          const sizeA = dimsA[d] ?? 1;
          const sizeB = d < dropped ? 1 : (dimsB[d - dropped] ?? 1);
          walk(d + 1, a * sizeA + (sizeA === 1 ? 0 : i), b * sizeB + (sizeB === 1 ? 0 : i));
        }
      };
      walk(0, 0, 0);
      const found = batchRuns(dimsA, dimsB);
      expect(found.dims).toEqual(full);
      expect(pairs(found.runs)).toEqual(expected);
    }),
  );
});

test('what one step leads through is one run', () => {
  expect(batchRuns([4, 5], [4, 5]).runs).toEqual([
    { a: 0, b: 0, out: 0, count: 20, stepA: 1, stepB: 1 },
  ]);
  expect(batchRuns([4, 5], [1, 1]).runs).toEqual([
    { a: 0, b: 0, out: 0, count: 20, stepA: 1, stepB: 0 },
  ]);
  expect(batchRuns([4, 5], [5]).runs).toHaveLength(4);
});
