import { expect, test } from 'vitest';
import { hopperTakes, planHopper } from './hopper-product.js';
import { chooseOwn } from './own-product.js';
import { complete, type Product } from './product.js';

const full = (product: Partial<Product>) =>
  complete('float32', { a: 256, b: 512, out: 1024, m: 64, n: 64, k: 64, ...product });
const h200 = [9, 0] as const;

test('each type and card has its kernel', () => {
  expect(chooseOwn(full({ operands: 'bf16' }), h200, false)).toBe('hopper');
  expect(chooseOwn(full({ operands: 'bf16' }), [8, 0], false)).toBe('mma');
  // Tensor cores of later cards have no wgmma.
  expect(chooseOwn(full({ operands: 'bf16' }), [12, 0], false)).toBe('mma');
  expect(chooseOwn(full({ operands: 'bf16', k: 0 }), h200, false)).toBe('mma');
  expect(chooseOwn(full({ tf32: true }), h200, false)).toBe('mma');
  expect(chooseOwn(full({}), h200, false)).toBe('simt');
  expect(chooseOwn(full({ operands: 'int32', n: 1 }), h200, false)).toBe('simt');
  expect(chooseOwn(full({ n: 1 }), h200, false)).toBe('rows');
  expect(chooseOwn(full({ n: 1, transposeA: true }), h200, false)).toBe('columns');
  expect(chooseOwn(full({ m: 1 }), h200, false)).toBe('columns');
});

test('the copy engine wants lines and addresses of 16 bytes', () => {
  const bf16 = { operands: 'bf16' } as const;
  expect(hopperTakes(full({ ...bf16 }))).toBe(true);
  expect(hopperTakes(full({ ...bf16, a: 264 }))).toBe(false);
  expect(hopperTakes(full({ ...bf16, k: 60 }))).toBe(false);
  // k lies across both operands here: its length does not matter.
  expect(hopperTakes(full({ ...bf16, k: 60, transposeA: true }))).toBe(true);
  expect(hopperTakes(full({ ...bf16, m: 60 }))).toBe(true);
  expect(hopperTakes(full({ ...bf16, n: 60 }))).toBe(false);
  expect(hopperTakes(full({ ...bf16, batch: 2, strideA: 4 }))).toBe(false);
});

test('tiles are wide where they fill the card, and a tall sum is split', () => {
  const bf16 = { operands: 'bf16' } as const;
  expect(planHopper(full({ ...bf16, m: 8192, n: 8192, k: 8192 }), 132)).toMatchObject({
    columns: 256,
    tiles: 2048,
    splits: 1,
  });
  expect(planHopper(full({ ...bf16, m: 12_288, n: 1024, k: 256 }), 132)).toMatchObject({
    columns: 256,
    tiles: 384,
    splits: 1,
  });
  expect(planHopper(full({ ...bf16, m: 256, n: 1024, k: 12_288 }), 132)).toEqual({
    columns: 128,
    tiles: 16,
    splits: 8,
    perSplit: 24,
  });
});
