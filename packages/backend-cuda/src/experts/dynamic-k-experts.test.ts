import { expect, test } from 'vitest';
import type { CudaBackend } from '../backend.js';
import type { ExpertsCall } from './call.js';
import { pathOfFew } from './dynamic-k-experts.js';

/** What the choice of a path asks of an H200. */
const hopper = {
  device: {
    computeCapability: [9, 0],
    multiprocessors: 132,
    sharedPerBlockOptin: 232_448,
    isEmulated: false,
  },
} as unknown as CudaBackend;

const layer = {
  dIn: 768,
  dOut: 768,
  hidden: 3072,
  experts: 24,
  expertSize: 128,
  density: 0.2,
  storage: 'bfloat16',
  gate: 0,
} as unknown as ExpertsCall;

test.each([
  [0, undefined],
  [1, 'few'],
  [3, 'few'],
  [4, 'dozens'],
  [32, 'dozens'],
  // 64 rows of x and all of a block's weights have no room: one launch of many rows, not four of few.
  [40, undefined],
  [64, undefined],
  [65, undefined],
] as const)('the path of %d rows', (rows, path) => {
  expect(pathOfFew(hopper, { ...layer, rows })).toBe(path);
});

test('float32 weights, which the kernels of many rows do not take, go by dozens', () => {
  expect(pathOfFew(hopper, { ...layer, storage: 'float32', rows: 64 })).toBe('dozens');
});

test('up to 16 rows of many weights, nearly all of which some row runs, go by a stream of them', () => {
  const wide = { ...layer, dIn: 2048, dOut: 2048, hidden: 16_384, experts: 128, gate: 1 };
  expect(pathOfFew(hopper, { ...wide, rows: 16 })).toBe('stream');
  // Where no density was named, the usual one is planned for.
  expect(pathOfFew(hopper, { ...wide, rows: 16, density: Number.NaN })).toBe('stream');
  expect(pathOfFew(hopper, { ...wide, rows: 17 })).toBe('dozens');
  expect(pathOfFew(hopper, { ...wide, rows: 4 })).toBe('dozens');
  expect(pathOfFew(hopper, { ...wide, rows: 16, storage: 'int8' })).toBe('dozens');
});
