import { type CurveJson, type CurveJsonPoint, curveToJson } from '@d2dmoe/evaluation';
import type { RouterWeights } from '@d2dmoe/kernels';
import type { ModelShape, Site } from '@d2dmoe/models';
import { expect, test } from 'vitest';
import { curveReport } from './report.js';

const site: Site = {
  name: 'layers.0.ffn',
  kind: 'feedForward',
  role: 'ffn',
  layer: 0,
  dIn: 8,
  dOut: 8,
  hidden: 32,
  gated: false,
};

function curve(rule: 'threshold' | 'topK', values: number[]): CurveJson {
  const score = { name: 'accuracy', value: 0.9, higherIsBetter: true } as const;
  const shape: ModelShape = {
    dModel: 8,
    layers: 1,
    heads: 2,
    kvHeads: 2,
    headDim: 4,
    hidden: 32,
    gated: false,
    outputs: 3,
    outputPositions: 'first',
    pooler: false,
    patchInputs: 12,
    maxPositions: 5,
  };
  const router = { hidden: { shape: [4, 8] }, output: { shape: [8, 4] } } as RouterWeights;
  return curveToJson({
    name: 'tiny',
    model: {
      shape,
      task: 'image-classification',
      sites: [site],
      routers: new Map([[site.name, router]]),
    },
    dense: { score, samples: 10, tokens: 50, multiplyAdds: 100, parameters: 100 },
    points: values.map((value) => ({
      rule: { rule, value },
      ...(rule === 'threshold' && { tau: value }),
      score: { ...score, value: 0.89 },
      loss: 0.3,
      cost: 0.5,
      convertedCost: 0.4,
      parametersRead: 0.6,
      executed: { 'layers.0.ffn': 0.4 },
      meanExpertsPerToken: 3,
    })),
  });
}

test('the operating points are named below the curve, with what one threshold for all layers gives', () => {
  const file = curve('threshold', [0, 0.2]);
  const [global] = file.points as [CurveJsonPoint];
  const { tau: _, ...point } = { ...global, score: 0.895, cost: 0.45 };
  const report = curveReport({
    ...file,
    operating_points: [
      { name: 'keep-0.99', point, global },
      { name: 'cost-0.5', point: { ...global, tau: 0.20001 } },
    ],
  });
  expect(report.split('\n').slice(-4)).toEqual([
    'Thresholds chosen on the validation split, on the test split (dense accuracy 0.9000):',
    '',
    '  keep-0.99  accuracy 0.8950 at 0.450 of the dense cost, tau by layer; with one tau for all layers 0.8900 at 0.500',
    '  cost-0.5   accuracy 0.8900 at 0.500 of the dense cost, tau 0.2',
  ]);
});

test('a curve of a model that was not calibrated says nothing of a choice', () => {
  expect(curveReport(curve('topK', [2, 4]))).not.toContain('chosen');
});
