import type { RouterWeights } from '@d2dmoe/kernels';
import * as fc from 'fast-check';
import { expect, test } from 'vitest';
import type { ModelShape, Site } from '@d2dmoe/models';
import { CostModel } from './cost-model.js';
import { denseCost } from './dense-cost.js';
import { bert, gemma, gpt2 } from '../testing/shapes.js';

/** A model as the cost model sees it: FFN sites and the shapes of their routers. */
function costed(
  shape: ModelShape,
  expertSize: number,
  routerWidth: number,
  converted = shape.layers,
) {
  const { dModel, hidden, gated } = shape;
  const sites = Array.from(
    { length: shape.layers },
    (_, layer): Site => ({
      name: `layers.${layer}.ffn`,
      kind: 'feedForward',
      role: 'ffn',
      layer,
      dIn: dModel,
      dOut: dModel,
      hidden,
      gated,
    }),
  );
  const router = {
    hidden: { shape: [routerWidth, dModel] },
    output: { shape: [hidden / expertSize, routerWidth] },
  } as RouterWeights;
  const routers = new Map(sites.slice(0, converted).map((site) => [site.name, router]));
  return new CostModel({ shape, sites, routers });
}

const everywhere = (model: CostModel, pairs: number) =>
  new Map(model.sites.map(({ name }) => [name, pairs]));

test('with every expert executed the cost is the dense one and the routers', () => {
  const cost = costed(gpt2, 8, 64).cost({
    lengths: [256, 256],
    executed: everywhere(costed(gpt2, 8, 64), 512 * 128),
  });
  const routers = 6 * 512 * (256 * 64 + 64 * 128);
  expect(cost.dense).toBe(2 * 1_946_157_056);
  expect(cost.total).toBe(cost.dense + routers);
  expect(cost.relativeTotal).toBe(1 + routers / cost.dense);
  expect(cost.convertedRelative).toBe(1 + (256 * 64 + 64 * 128) / (2 * 256 * 1024));
});

test('half of the experts of one Gemma layer, the other layers left dense, by hand', () => {
  const model = costed(gemma, 16, 32, 1);
  const cost = model.cost({ lengths: [256], executed: new Map([['layers.0.ffn', 256 * 32]]) });
  const layer = 256 * 32 * (16 * 3 * 256) + 256 * (256 * 32 + 32 * 64);
  expect(cost.total).toBe(1_644_167_168 - 256 * 3 * 256 * 1024 + layer);
  expect(cost.convertedRelative).toBe(layer / (256 * 3 * 256 * 1024));
  // One token reads every matrix once: 4 · (2·256·256 + 2·256·64) + 3 · 3·256·1024 + 256·8192 outside the layer.
  const outside = 655_360 + 3 * 786_432 + 2_097_152;
  expect(cost.parametersRead).toEqual({
    perToken: outside + 32 * 16 * 3 * 256 + 256 * 32 + 32 * 64,
    dense: outside + 786_432,
    relative: (outside + 393_216 + 10_240) / (outside + 786_432),
  });
});

test('total and converted cost fit together as in recorded runs of the published method', () => {
  // Totals and converted costs of GPT-2 and Gemma models of these shapes: the FFNs' share links the two.
  for (const [shape, total, converted] of [
    [gpt2, 0.938, 0.85],
    [gpt2, 0.865, 0.675],
    [gemma, 0.904, 0.803],
    [gemma, 0.827, 0.647],
  ] as const) {
    const model = costed(shape, 8, 64);
    const router = (256 * 64 + 64 * 128) / (shape.gated ? 786_432 : 524_288);
    const pairs = Math.round((converted - router) * 256 * 128);
    const cost = model.cost({ lengths: [256], executed: everywhere(model, pairs) });
    expect(cost.convertedRelative).toBeCloseTo(converted, 3);
    expect(Math.abs(cost.relativeTotal - total)).toBeLessThan(0.001);
  }
});

test('random selections cost what a loop over samples, tokens, layers and experts adds up', () => {
  const shape: ModelShape = {
    ...bert,
    dModel: 12,
    layers: 2,
    heads: 2,
    kvHeads: 2,
    headDim: 6,
    hidden: 24,
    outputs: 3,
  };
  const model = costed(shape, 4, 5);
  // One array of booleans per token and layer: which of the 6 experts run.
  const token = fc.array(fc.array(fc.boolean(), { minLength: 6, maxLength: 6 }), {
    minLength: 2,
    maxLength: 2,
  });
  const samples = fc.array(fc.array(token, { minLength: 1, maxLength: 7 }), {
    minLength: 1,
    maxLength: 5,
  });
  fc.assert(
    fc.property(samples, (data) => {
      let total = 0;
      let dense = 0;
      const executed = everywhere(model, 0);
      for (const tokens of data) {
        const outside =
          denseCost(shape, tokens.length).total - tokens.length * 2 * (12 * 24 + 24 * 12);
        total += outside;
        dense += denseCost(shape, tokens.length).total;
        for (const layers of tokens) {
          for (const [layer, experts] of layers.entries()) {
            total += 12 * 5 + 5 * 6;
            for (const runs of experts) {
              if (!runs) continue;
              total += 4 * 12 + 4 * 12;
              const name = `layers.${layer}.ffn`;
              executed.set(name, (executed.get(name) as number) + 1);
            }
          }
        }
      }
      const cost = model.cost({ lengths: data.map(({ length }) => length), executed });
      expect(cost.total).toBe(total);
      expect(cost.dense).toBe(dense);
    }),
  );
});

test('a replaced projection counts its experts and its router in place of its own matrix', () => {
  const projection: Site = {
    name: 'layers.1.attention.k',
    kind: 'projection',
    role: 'k',
    layer: 1,
    dIn: 256,
    dOut: 64,
    hidden: 48,
    gated: false,
  };
  const router = { hidden: { shape: [8, 256] }, output: { shape: [6, 8] } } as RouterWeights;
  const routers = new Map([[projection.name, router]]);
  const model = new CostModel({ shape: gemma, sites: [projection], routers });
  // 100 tokens, two of the six experts of eight neurons for each.
  const cost = model.cost({ lengths: [100], executed: new Map([[projection.name, 200]]) });
  const converted = 100 * (8 * 256 + 6 * 8) + 200 * 8 * (256 + 64);
  expect(cost.total).toBe(denseCost(gemma, 100).total - 100 * 256 * 64 + converted);
  expect(cost.convertedRelative).toBe(converted / (100 * 256 * 64));
});

test('counts that the tokens cannot have made, or that are missing, are refused', () => {
  const model = costed(bert, 8, 64);
  const lengths = [10];
  const executed = everywhere(model, 10);
  expect(() => model.cost({ lengths, executed: new Map() })).toThrowError(/layers.0.ffn counts no/);
  executed.set('layers.2.ffn', 10 * 128 + 1);
  expect(() => model.cost({ lengths, executed })).toThrowError(/allow 0 to 1280/);
  expect(() => model.cost({ lengths: [], executed })).toThrowError(/no sample/);
});

test('a model without routers has no dynamic cost', () => {
  expect(() => costed(bert, 8, 64, 0)).toThrowError(/no dynamic cost/i);
});
