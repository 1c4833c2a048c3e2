import { D2DMoEError } from '@d2dmoe/core';
import { expect, test } from 'vitest';
import { convertedSiteCost, siteCost } from './site-cost.js';

const plain = { kind: 'feedForward', dIn: 256, dOut: 256, hidden: 1024, gated: false } as const;

test('a plain FFN of 256 → 1,024 → 256 in experts of 8 with a router of width 64', () => {
  expect(siteCost(plain)).toBe(256 * 1024 + 1024 * 256);
  expect(convertedSiteCost(plain, 8, 64)).toEqual({
    experts: 128,
    perExpert: 8 * 256 + 8 * 256,
    router: 256 * 64 + 64 * 128,
  });
});

test('a gated FFN has one input matrix more', () => {
  const gated = { ...plain, gated: true };
  expect(siteCost(gated)).toBe(3 * 256 * 1024);
  expect(convertedSiteCost(gated, 16, 32)).toEqual({
    experts: 64,
    perExpert: 16 * 256 + 16 * 256 + 16 * 256,
    router: 256 * 32 + 32 * 64,
  });
});

test('a projection is one matrix when dense, a two-layer MLP of its own hidden width when converted', () => {
  const projection = { kind: 'projection', dIn: 256, dOut: 64, hidden: 0, gated: false } as const;
  expect(siteCost(projection)).toBe(256 * 64);
  expect(convertedSiteCost({ ...projection, hidden: 48 }, 8, 16)).toEqual({
    experts: 6,
    perExpert: 8 * 256 + 8 * 64,
    router: 256 * 16 + 16 * 6,
  });
});

test.each([0, -8, 1.5, 3, 2048, Number.NaN])('an expert size of %s is refused', (expertSize) => {
  expect(() => convertedSiteCost(plain, expertSize, 64)).toThrowError(D2DMoEError);
});
