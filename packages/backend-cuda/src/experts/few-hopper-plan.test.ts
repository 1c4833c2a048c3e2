import { expect, test } from 'vitest';
import { type FewHopperShape, planFewHopper } from './few-hopper-plan.js';

const layer: FewHopperShape = {
  rows: 1,
  dIn: 768,
  dOut: 768,
  experts: 24,
  hidden: 3072,
  storage: 'bfloat16',
  gate: 0,
  density: 0.2,
  routerWidth: 0,
};
const gated = { dIn: 2048, dOut: 2048, experts: 128, hidden: 16_384, gate: 1 };
const plan = (shape: Partial<FewHopperShape> = {}) =>
  planFewHopper({ ...layer, ...shape }, 132, 232_448);

test.each<[string, Partial<FewHopperShape>, number]>([
  ['seven neurons a block', {}, 88],
  ['all of the card where there are more', { density: 0.4 }, 132],
  ['the neurons that some row selects', { rows: 2 }, 132],
  ['all of it for a router, whose hidden layer is spread too', { routerWidth: 128 }, 132],
  ['one block at least', { density: 0 }, 1],
  ['all of it where a density is none', { density: Number.NaN }, 132],
  ['all of it where a density is more than all', { density: 1.2, rows: 2 }, 132],
])('%s', (_, shape, blocks) => {
  expect(plan(shape).blocks).toBe(blocks);
});

test('the blocks together sum all of the output, and have room for their shares of it', () => {
  for (const rows of [1, 2, 3]) {
    for (const dOut of [8, 768, 2048]) {
      const { blocks, share, partialBytes } = plan({ rows, dOut });
      expect(blocks * share * 8).toBeGreaterThanOrEqual(rows * dOut);
      expect(partialBytes).toBe(blocks * rows * dOut * 4);
    }
  }
});

test.each<[string, Partial<FewHopperShape>, number]>([
  ['as many neurons a turn as a block has', { density: 0.4 }, 16],
  ['26 of a block in three turns', { ...gated, routerWidth: 128 }, 9],
  ['34 of a block in four', { ...gated, density: 0.27 }, 9],
  ['no more than there is room for', { dIn: 4096, dOut: 4096, storage: 'float32' }, 4],
])('%s', (_, shape, owners) => {
  expect(plan(shape).owners).toBe(owners);
});

test('a router has room for its output layer where weights come later', () => {
  const small = { dIn: 64, dOut: 64, hidden: 256, routerWidth: 16 };
  expect(plan(small).sharedBytes).toBeGreaterThan(32_768);
  expect(plan({ ...small, routerWidth: 0 }).sharedBytes).toBeLessThan(32_768);
});
