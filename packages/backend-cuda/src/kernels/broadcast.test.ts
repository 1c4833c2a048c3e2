import fc from 'fast-check';
import { expect, test } from 'vitest';
import { broadcast } from './broadcast.js';

/** Offsets of both operands for every element of the result, from a plan. */
function located({
  size,
  mode,
  rank,
  dims,
  stepsA,
  stepsB,
}: ReturnType<typeof broadcast>): number[][] {
  return Array.from({ length: size }, (_, index) => {
    if (mode === 0) return [index, index];
    let rest = index;
    let a = 0;
    let b = 0;
    for (let d = rank - 1; d >= 0; d--) {
      const extent = dims[d] ?? 1;
      a += (rest % extent) * (stepsA[d] ?? 0);
      b += (rest % extent) * (stepsB[d] ?? 0);
      rest = Math.floor(rest / extent);
    }
    return [a, b];
  });
}

/** The same by the definition of broadcasting, over dimensions as they are. */
function expected(out: number[], shape: number[]): number[] {
  const size = out.reduce((product, extent) => product * extent, 1);
  return Array.from({ length: size }, (_, index) => {
    let rest = index;
    let stride = 1;
    let offset = 0;
    for (let back = 1; back <= out.length; back++) {
      const at = rest % (out[out.length - back] ?? 1);
      rest = Math.floor(rest / (out[out.length - back] ?? 1));
      const extent = shape[shape.length - back] ?? 1;
      if (extent > 1) offset += at * stride;
      stride *= extent;
    }
    return offset;
  });
}

const dimension = fc.record({
  extent: fc.integer({ min: 1, max: 5 }),
  a: fc.boolean(),
  b: fc.boolean(),
});

test('a plan finds both operands of every element', () => {
  fc.assert(
    fc.property(fc.array(dimension, { maxLength: 6 }), fc.nat(2), (dimensions, dropped) => {
      const out = dimensions.map(({ extent, a, b }) => (a || b ? extent : 1));
      const a = dimensions.map((d) => (d.a ? d.extent : 1));
      const b = dimensions
        .map((d) => (d.b ? d.extent : 1))
        .slice(a[0] === out[0] ? Math.min(dropped, 1) : 0);
      const plan = broadcast(a, b);
      expect(plan.shape).toEqual(out);
      const offsets = located(plan);
      expect(offsets.map(([first]) => first)).toEqual(expected(out, a));
      expect(offsets.map(([, second]) => second)).toEqual(expected(out, b));
    }),
  );
});

test('neighbouring dimensions are merged, and rows of whole packs are told apart', () => {
  expect(broadcast([2, 3, 4], [2, 3, 4])).toMatchObject({ mode: 0, rank: 1 });
  expect(broadcast([2, 3, 4], [])).toMatchObject({ mode: 1, rank: 1, stepsA: [1, 0, 0, 0, 0, 0] });
  expect(broadcast([2, 3, 4], [4])).toMatchObject({ mode: 1, rank: 2, dims: [6, 4, 0, 0, 0, 0] });
  expect(broadcast([2, 3, 5], [1, 1, 5])).toMatchObject({
    mode: 2,
    rank: 2,
    dims: [6, 5, 0, 0, 0, 0],
  });
  expect(broadcast([8, 12], [8, 1], 8).mode).toBe(2);
});

test('shapes that do not fit, or need too many dimensions, are refused', () => {
  expect(() => broadcast([2, 3], [4])).toThrow(/could not be broadcast/);
  const a = [2, 1, 2, 1, 2, 1, 2];
  const b = [1, 2, 1, 2, 1, 2, 1];
  expect(() => broadcast(a, b)).toThrow(/7 separate dimensions/);
});
