import { expect, test } from 'vitest';
import { Constants } from './constants.js';

function recorder() {
  const uploads: { pointer: number; bytes: number[] }[] = [];
  const live = new Set<number>();
  let next = 0;
  const memory = {
    allocate(bytes: number) {
      const pointer = next;
      next += bytes;
      live.add(pointer);
      return { pointer, free: () => void live.delete(pointer) };
    },
    upload(pointer: number, bytes: Uint8Array) {
      uploads.push({ pointer, bytes: [...bytes] });
    },
  };
  return { uploads, live, memory };
}

test('equal tables share an address and are uploaded once', () => {
  const { uploads, memory } = recorder();
  const constants = new Constants(memory);
  const first = constants.pointer(new Int32Array([1, 2, 3]));
  expect(constants.pointer(new Int32Array([1, 2, 3]))).toBe(first);
  expect(constants.pointer(new Int32Array([1, 2, 4]))).not.toBe(first);
  expect(constants.pointer(new Float32Array([1, 2, 3]))).not.toBe(first);
  expect(uploads).toHaveLength(3);
  expect(uploads[0]).toEqual({ pointer: first, bytes: [1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0] });
  expect(uploads.every(({ pointer }) => pointer % 16 === 0)).toBe(true);
});

test('a view into a larger buffer is uploaded alone, and an empty table has an address too', () => {
  const { uploads, memory } = recorder();
  const constants = new Constants(memory);
  constants.pointer(new Int32Array([7, 8, 9]).subarray(1, 2));
  expect(uploads[0]?.bytes).toEqual([8, 0, 0, 0]);
  expect(constants.pointer(new Int32Array(0))).not.toBe(constants.pointer(new Int32Array([0])));
});

test('a program whose tables never repeat holds two generations of them', () => {
  const { live, memory } = recorder();
  const constants = new Constants(memory);
  for (let i = 0; i < 100_000; i++) constants.pointer(new Int32Array([i, 1, 2, 3]));
  expect(live.size * 64).toBeLessThanOrEqual(2 * 16 * 17 * 64);
  const big = constants.pointer(new Int32Array(100_000));
  expect(constants.pointer(new Int32Array(100_000))).toBe(big);
});
