import { D2DMoEError } from '@d2dmoe/core';
import { expect, test } from 'vitest';
import { denseCost, matrixParameters } from './dense-cost.js';
import { bert, gemma, gpt2, vit } from '../testing/shapes.js';

test('ViT: 65 tokens, width 192, 6 layers, hidden 768, patches of 3·4·4, 10 classes', () => {
  expect(denseCost(vit, 65)).toEqual({
    embedding: 64 * 48 * 192, // the class token is not projected
    projections: 6 * 4 * 65 * 192 * 192,
    attention: 6 * 2 * 65 * 65 * 192,
    feedForward: 6 * 65 * (192 * 768 + 768 * 192),
    head: 192 * 10,
    total: 589_824 + 57_507_840 + 9_734_400 + 115_015_680 + 1_920,
  });
  expect(matrixParameters(vit).total).toBe(
    48 * 192 + 6 * (4 * 192 * 192 + 2 * 192 * 768) + 192 * 10,
  );
});

test('BERT: 23 tokens, width 256, 4 layers, hidden 1,024, pooler, 6 classes', () => {
  expect(denseCost(bert, 23)).toEqual({
    embedding: 0,
    projections: 4 * 4 * 23 * 256 * 256,
    attention: 4 * 2 * 23 * 23 * 256,
    feedForward: 4 * 23 * (256 * 1024 + 1024 * 256),
    head: 256 * 256 + 256 * 6,
    total: 24_117_248 + 1_083_392 + 48_234_496 + 67_072,
  });
  expect(matrixParameters(bert).total).toBe(
    4 * (4 * 256 * 256 + 2 * 256 * 1024) + 256 * 256 + 256 * 6,
  );
});

test('GPT-2: 256 tokens, width 256, 6 layers, hidden 1,024, vocabulary 8,192', () => {
  expect(denseCost(gpt2, 256)).toEqual({
    embedding: 0,
    projections: 6 * 256 * (256 * 768 + 256 * 256), // fused qkv, then the output projection
    attention: 6 * 2 * 256 * 256 * 256, // all 256 × 256 pairs, though half are masked
    feedForward: 6 * 256 * (256 * 1024 + 1024 * 256),
    head: 256 * 256 * 8192, // the LM head at every position
    total: 402_653_184 + 201_326_592 + 805_306_368 + 536_870_912,
  });
  expect(matrixParameters(gpt2).total).toBe(6 * (4 * 256 * 256 + 2 * 256 * 1024) + 256 * 8192);
});

test('Gemma: 256 tokens, width 256, 4 layers, 4 query heads and 1 key/value head of 64, gated hidden 1,024', () => {
  expect(denseCost(gemma, 256)).toEqual({
    embedding: 0,
    projections: 4 * 256 * (256 * 256 + 256 * 64 + 256 * 64 + 256 * 256), // q, k, v, o
    attention: 4 * 2 * 256 * 256 * 256,
    feedForward: 4 * 256 * (256 * 1024 + 256 * 1024 + 1024 * 256), // gate, up, down
    head: 256 * 256 * 8192,
    total: 167_772_160 + 134_217_728 + 805_306_368 + 536_870_912,
  });
  expect(matrixParameters(gemma).total).toBe(
    4 * (2 * 256 * 256 + 2 * 256 * 64 + 3 * 256 * 1024) + 256 * 8192,
  );
});

test('heads whose widths do not add up to the model width: Gemma-2B at 512 tokens', () => {
  const gemma2B = {
    ...gemma,
    dModel: 2048,
    layers: 18,
    heads: 8,
    headDim: 256,
    hidden: 16_384,
    outputs: 256_000,
  };
  const wide = { ...gemma2B, heads: 16 };
  expect(denseCost(gemma2B, 512).projections).toBe(18 * 512 * (2 * 2048 * 2048 + 2 * 2048 * 256));
  expect(denseCost(wide, 512).projections).toBe(18 * 512 * (2 * 2048 * 4096 + 2 * 2048 * 256));
  expect(denseCost(wide, 512).attention).toBe(18 * 2 * 512 * 512 * 4096);
});

test('ViT-B/16 at 224 pixels costs the 17.6 billion multiply-adds that it is known for', () => {
  const shape = {
    ...vit,
    dModel: 768,
    layers: 12,
    heads: 12,
    kvHeads: 12,
    hidden: 3072,
    outputs: 1000,
    patchInputs: 3 * 16 * 16,
  };
  expect(denseCost(shape, 197).total / 1e9).toBeCloseTo(17.56, 2);
});

test.each([0, -1, 2.5, Number.NaN])('a length of %s is refused', (tokens) => {
  expect(() => denseCost(vit, tokens)).toThrowError(D2DMoEError);
});
