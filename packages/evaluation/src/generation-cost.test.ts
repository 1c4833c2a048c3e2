import '@tensorflow/tfjs-backend-cpu';
import type { RouterWeights } from '@d2dmoe/kernels';
import type { Site } from '@d2dmoe/models';
import * as tf from '@tensorflow/tfjs-core';
import { expect, test } from 'vitest';
import { gemma, gpt2 } from '../testing/shapes.js';
import { ExecutionCounter } from './execution-counter.js';
import { generationCost } from './generation-cost.js';

const none = { sites: [], routers: new Map() };

test('a dense text costs what its passes add up to, by hand', () => {
  // Per token 4·256² of projections and 2·256·1024 of FFN in each of 6 layers, and the head of 256·8192.
  const perToken = 6 * (262_144 + 524_288) + 2_097_152;
  // The prompt sees 3 × 3 pairs, the two new tokens that are run see 4 and 5.
  const attention = 6 * 2 * (9 + 4 + 5) * 256;
  const cost = generationCost({ shape: gpt2, ...none }, { promptTokens: 3, newTokens: 3 });
  expect(cost).toEqual({
    total: 5 * perToken + attention,
    dense: 5 * perToken + attention,
    relativeTotal: 1,
  });
});

test('executed experts replace the FFNs of the layers that have a router', () => {
  const site: Site = {
    name: 'layers.1.ffn',
    kind: 'feedForward',
    role: 'ffn',
    layer: 1,
    dIn: 256,
    dOut: 256,
    hidden: 1024,
    gated: true,
  };
  const router = {
    hidden: { shape: [32, 256] },
    output: { shape: [64, 32] },
  } as RouterWeights;
  const model = { shape: gemma, sites: [site], routers: new Map([[site.name, router]]) };
  const executed = new Map([[site.name, 150]]);
  const { total, dense, relativeTotal } = generationCost(model, {
    promptTokens: 8,
    newTokens: 3,
    executed,
  });
  const saved = 10 * 3 * 256 * 1024 - 150 * 16 * 3 * 256 - 10 * (256 * 32 + 32 * 64);
  expect(dense - total).toBe(saved);
  expect(relativeTotal).toBe(total / dense);
  const tooMany = new Map([[site.name, 10 * 64 + 1]]);
  expect(() =>
    generationCost(model, { promptTokens: 8, newTokens: 3, executed: tooMany }),
  ).toThrowError(/allow 0 to 640/);
});

test('the counter adds up the pairs of each site over passes and frees its sums', async () => {
  const before = tf.memory().numTensors;
  const counter = new ExecutionCounter();
  expect(await counter.read()).toEqual(new Map());
  for (const rows of [
    [
      [1, 0, 1],
      [0, 0, 1],
    ],
    [[1, 1, 1]],
  ]) {
    tf.tidy(() => {
      const selection = tf.tensor2d(rows, undefined, 'bool');
      counter.observe({ name: 'a' }, selection);
      counter.observe({ name: 'b' }, tf.logicalNot(selection));
    });
  }
  expect(await counter.read()).toEqual(
    new Map([
      ['a', 6],
      ['b', 3],
    ]),
  );
  counter.dispose();
  expect(tf.memory().numTensors).toBe(before);
});
