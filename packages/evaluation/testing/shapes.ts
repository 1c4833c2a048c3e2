import type { ModelShape } from '@d2dmoe/models';

const text = { patchInputs: 0, pooler: false, gated: false, headDim: 64, heads: 4, kvHeads: 4 };

export const vit: ModelShape = {
  dModel: 192,
  layers: 6,
  heads: 3,
  kvHeads: 3,
  headDim: 64,
  hidden: 768,
  gated: false,
  outputs: 10,
  outputPositions: 'first',
  pooler: false,
  patchInputs: 3 * 4 * 4,
  maxPositions: 65,
};

export const bert: ModelShape = {
  ...text,
  dModel: 256,
  layers: 4,
  hidden: 1024,
  outputs: 6,
  outputPositions: 'first',
  pooler: true,
  maxPositions: 64,
};

export const gpt2: ModelShape = {
  ...text,
  dModel: 256,
  layers: 6,
  hidden: 1024,
  outputs: 8192,
  outputPositions: 'all',
  maxPositions: 256,
};

export const gemma: ModelShape = {
  ...text,
  dModel: 256,
  layers: 4,
  kvHeads: 1,
  hidden: 1024,
  gated: true,
  outputs: 8192,
  outputPositions: 'all',
  maxPositions: 256,
};
