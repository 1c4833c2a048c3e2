import type { RouterWeights } from '@d2dmoe/kernels';
import type { Site } from '@d2dmoe/models';
import { expect, test } from 'vitest';
import { type CurveDescription, curveFromJson, curveToJson } from './curve-json.js';
import { gemma } from '../testing/shapes.js';

test('a curve file holds the model’s costs, the dense reference and every point', () => {
  const site: Site = {
    name: 'layers.0.ffn',
    kind: 'feedForward',
    role: 'ffn',
    layer: 0,
    dIn: 256,
    dOut: 256,
    hidden: 1024,
    gated: true,
  };
  const router = { hidden: { shape: [64, 256] }, output: { shape: [128, 64] } } as RouterWeights;
  const loss = (value: number) => ({ name: 'loss', value, higherIsBetter: false }) as const;
  const description: CurveDescription = {
    name: 'my-gemma',
    model: {
      shape: gemma,
      task: 'text-generation',
      sites: [site],
      routers: new Map([[site.name, router]]),
    },
    dense: {
      score: loss(3.6),
      samples: 2,
      tokens: 512,
      multiplyAdds: 1_644_167_168,
      parameters: 5_898_240,
    },
    points: [
      {
        rule: { rule: 'threshold', value: 0.1 },
        tau: 0.1,
        score: loss(3.7),
        loss: 3.7,
        cost: 0.9,
        convertedCost: 0.8,
        parametersRead: 0.85,
        executed: { 'layers.0.ffn': 0.75 },
        meanExpertsPerToken: 96,
      },
      {
        rule: { rule: 'topK', value: 64 },
        score: loss(3.8),
        loss: 3.8,
        cost: 0.8,
        convertedCost: 0.55,
        parametersRead: 0.7,
        executed: { 'layers.0.ffn': 0.5 },
        meanExpertsPerToken: 64,
      },
    ],
  };
  const json = curveToJson(description);
  const { points, dense } = description;
  expect(curveFromJson(json)).toEqual({ points, dense });
  expect(JSON.parse(JSON.stringify(json))).toEqual({
    format_version: 1,
    model: {
      name: 'my-gemma',
      task: 'text-generation',
      sites: {
        'layers.0.ffn': {
          experts: 128,
          dense_cost: 3 * 256 * 1024,
          expert_cost: 8 * 3 * 256,
          router_cost: 64 * 256 + 64 * 128,
        },
      },
    },
    score: { name: 'loss', higher_is_better: false },
    dense: {
      score: 3.6,
      samples: 2,
      tokens: 512,
      multiply_adds: 1_644_167_168,
      parameters: 5_898_240,
    },
    points: [
      {
        rule: { rule: 'threshold', value: 0.1 },
        tau: 0.1,
        score: 3.7,
        loss: 3.7,
        cost: 0.9,
        converted_cost: 0.8,
        parameters_read: 0.85,
        executed: { 'layers.0.ffn': 0.75 },
        mean_experts_per_token: 96,
      },
      {
        rule: { rule: 'topK', value: 64 },
        score: 3.8,
        loss: 3.8,
        cost: 0.8,
        converted_cost: 0.55,
        parameters_read: 0.7,
        executed: { 'layers.0.ffn': 0.5 },
        mean_experts_per_token: 64,
      },
    ],
  });
});
