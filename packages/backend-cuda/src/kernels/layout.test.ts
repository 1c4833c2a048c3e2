import fc from 'fast-check';
import { expect, test } from 'vitest';
import {
  broadcast,
  copyOnHost,
  countOf,
  divider,
  isRun,
  type Layout,
  merged,
  reversed,
  sliced,
  tiled,
  transposed,
  widened,
  zeros,
} from './layout.js';

function copied(layout: Layout, size: number): number[] {
  const target = zeros(countOf(layout)).fill(-1);
  const source = Array.from({ length: size }, (_, i) => i);
  copyOnHost(source, target, layout);
  return target;
}

const shapes = fc.array(fc.integer({ min: 1, max: 8 }), { maxLength: 5 });
const size = (shape: readonly number[]) => shape.reduce((product, extent) => product * extent, 1);

/** A shape with one of the layouts over it. */
const layouts = shapes.chain((shape) =>
  fc
    .oneof(
      fc
        .shuffledSubarray(
          shape.map((_, axis) => axis),
          { minLength: shape.length },
        )
        .map((perm) => transposed(shape, perm)),
      fc
        .tuple(...shape.map((extent) => fc.tuple(fc.nat(extent - 1), fc.nat(extent - 1))))
        .map((ends) =>
          sliced(
            shape,
            ends.map(([a, b]) => Math.min(a, b)),
            ends.map(([a, b]) => Math.abs(a - b) + 1),
          ),
        ),
      fc.tuple(...shape.map(() => fc.integer({ min: 1, max: 3 }))).map((r) => tiled(shape, r)),
      fc.subarray(shape.map((_, axis) => axis)).map((axes) => reversed(shape, axes)),
      fc.constant(broadcast(shape, [2, ...shape])),
    )
    .map((layout) => ({ shape, layout })),
);

test('merging axes changes nothing but their number', () => {
  fc.assert(
    fc.property(layouts, ({ shape, layout }) => {
      const axes = merged(layout.axes);
      const got = copied({ ...layout, axes }, size(shape));
      expect(got).toEqual(copied(layout, size(shape)));
      const run = got.map((_, i) => layout.from + i);
      expect(isRun(axes)).toBe(got.every((element, i) => element === run[i]));
    }),
  );
});

test('a copy in wider units moves the same elements', () => {
  fc.assert(
    fc.property(layouts, fc.constantFrom(1, 2, 4), ({ shape, layout }, bytes) => {
      const wide = widened(layout, bytes);
      const factor = wide.bytes / bytes;
      const units = copied(wide.layout, Math.ceil(size(shape) / factor));
      const elements = units.flatMap((unit) =>
        Array.from({ length: factor }, (_, i) => unit * factor + i),
      );
      expect(elements).toEqual(copied(layout, size(shape)));
    }),
  );
});

test('a slice of whole vectors is copied by 16 bytes', () => {
  expect(widened(sliced([10, 64], [3, 16], [5, 32]), 4).bytes).toBe(16);
  expect(widened(sliced([10, 64], [3, 17], [5, 32]), 4).bytes).toBe(4);
});

test('heads of attention are exchanged with positions by whole vectors', () => {
  const { layout, bytes } = widened(transposed([2, 7, 4, 64], [0, 2, 1, 3]), 4);
  expect(bytes).toBe(16);
  expect(layout.axes).toHaveLength(4);
});

test('quotients without division are those of division', () => {
  const numbers = fc.integer({ min: 0, max: 2 ** 31 - 1 });
  fc.assert(
    fc.property(fc.integer({ min: 1, max: 2 ** 31 - 1 }), numbers, (divisor, n) => {
      const [, factor, shift] = divider(divisor) as [number, number, number];
      const quotient = (m: number) =>
        (((BigInt(m) * BigInt(factor)) >> 32n) + BigInt(m)) >> BigInt(shift);
      expect(factor).toBeLessThan(2 ** 32);
      for (const m of [n, divisor - 1, divisor, n - (n % divisor)]) {
        expect(Number(quotient(m))).toBe(Math.floor(m / divisor));
      }
    }),
    { numRuns: 1000 },
  );
});
