import fc from 'fast-check';
import { expect, test } from 'vitest';
import { ARGUMENT_BYTES, argumentMemory, kernel, packArguments } from './launch.js';

const offsets = (params: string) => kernel('m', 'k', params).parameters.map(({ offset }) => offset);

test('parameters lie where C lays them out', () => {
  expect(offsets('p p l')).toEqual([0, 8, 16]);
  expect(offsets('i p')).toEqual([0, 8]);
  expect(offsets('i f p u d f l')).toEqual([0, 4, 8, 16, 24, 32, 40]);
  expect(offsets('p i*3 p i*8 f')).toEqual([0, 8, 24, 32, 64]);
  expect(kernel('m', 'k', 'p i').bytes).toBe(12);
  expect(kernel('m', 'k', '').bytes).toBe(0);
});

test('arguments are written in their types, 64-bit ones in two halves', () => {
  const k = kernel('m', 'k', 'p i u l l f d i*2');
  const buffer = new ArrayBuffer(ARGUMENT_BYTES);
  const address = 0x7fab_cdef_0100;
  packArguments(
    k,
    [address, -5, 4_000_000_000, -3, 2 ** 40 + 7, 0.1, 0.1, [-1, 9]],
    argumentMemory(buffer),
  );
  const view = new DataView(buffer);
  expect(view.getBigUint64(0, true)).toBe(BigInt(address));
  expect(view.getInt32(8, true)).toBe(-5);
  expect(view.getUint32(12, true)).toBe(4_000_000_000);
  expect(view.getBigInt64(16, true)).toBe(-3n);
  expect(view.getBigInt64(24, true)).toBe(2n ** 40n + 7n);
  expect(view.getFloat32(32, true)).toBe(Math.fround(0.1));
  expect(view.getFloat64(40, true)).toBe(0.1);
  expect([view.getInt32(48, true), view.getInt32(52, true)]).toEqual([-1, 9]);
});

test('any mix of parameters reads back what was packed', () => {
  const one = fc.oneof(
    fc.tuple(fc.constant('p'), fc.nat({ max: 2 ** 53 - 1 })),
    fc.tuple(fc.constant('l'), fc.integer({ min: -(2 ** 53), max: 2 ** 53 })),
    fc.tuple(fc.constant('i'), fc.integer({ min: -(2 ** 31), max: 2 ** 31 - 1 })),
    fc.tuple(fc.constant('u'), fc.integer({ min: 0, max: 2 ** 32 - 1 })),
    fc.tuple(fc.constant('f'), fc.float({ noNaN: true })),
    fc.tuple(fc.constant('d'), fc.double({ noNaN: true })),
  );
  fc.assert(
    fc.property(fc.array(one, { maxLength: 20 }), (mix) => {
      const k = kernel('m', 'k', mix.map(([type]) => type).join(' '));
      const buffer = new ArrayBuffer(ARGUMENT_BYTES);
      packArguments(
        k,
        mix.map(([, value]) => value),
        argumentMemory(buffer),
      );
      const view = new DataView(buffer);
      let end = 0;
      for (const [i, [type, value]] of mix.entries()) {
        const size = 'pld'.includes(type) ? 8 : 4;
        const at = Math.ceil(end / size) * size;
        end = at + size;
        expect(k.parameters[i]?.offset).toBe(at);
        const read: Record<string, () => number> = {
          p: () => Number(view.getBigUint64(at, true)),
          l: () => Number(view.getBigInt64(at, true)),
          i: () => view.getInt32(at, true),
          u: () => view.getUint32(at, true),
          f: () => view.getFloat32(at, true),
          d: () => view.getFloat64(at, true),
        };
        expect(read[type]?.()).toBe(value);
      }
      expect(k.bytes).toBe(end);
    }),
  );
});

test('arguments that do not fit the parameters are refused', () => {
  const memory = argumentMemory(new ArrayBuffer(ARGUMENT_BYTES));
  const k = kernel('m', 'add', 'p i*2');
  const refused = (args: (number | number[])[]) => () => packArguments(k, args, memory);
  expect(refused([1])).toThrow(/add takes 2 arguments, not 1/);
  expect(refused([1, 2])).toThrow(/Argument 1 of kernel add has to be an array of 2 numbers/);
  expect(refused([[1], [1, 2, 3]])).toThrow(/Argument 1/);
  expect(
    refused([
      [1, 2],
      [1, 2],
    ]),
  ).toThrow(/Argument 0 of kernel add has to be a number/);
});

test('parameters that CUDA has no room for, or that no type has, are refused', () => {
  expect(() => kernel('m', 'k', 'd*513')).toThrow(/4104 bytes/);
  expect(() => kernel('m', 'k', 'p x')).toThrow(/"x"/);
});
