import { expect, test } from 'vitest';
import type { CurvePoint, DenseEvaluation } from './evaluate.js';
import { curveTable } from './table.js';

const accuracy = (value: number) => ({ name: 'accuracy', value, higherIsBetter: true }) as const;

const point: CurvePoint = {
  rule: { rule: 'threshold', value: 0.05 },
  tau: 0.05,
  score: accuracy(0.91),
  loss: 0.3,
  cost: 0.75,
  convertedCost: 0.5,
  parametersRead: 0.7,
  executed: { 'layers.0.ffn': 0.25, 'layers.1.ffn': 0.5 },
  meanExpertsPerToken: 6,
};
const dense: DenseEvaluation = {
  score: accuracy(0.92),
  samples: 10,
  tokens: 200,
  multiplyAdds: 1e6,
  parameters: 1e5,
};

test('a curve as a table', () => {
  const points: CurvePoint[] = [
    point,
    { ...point, rule: { rule: 'topK', value: 12 }, cost: 1.0421, convertedCost: 1.1 },
    { ...point, rule: { rule: 'cumulativeShare', value: 0.1 + 0.2 }, executed: { a: 1 } },
    { ...point, rule: { 'layers.0.ffn': { rule: 'topK', value: 1 } } },
  ];
  expect(curveTable(points, dense)).toBe(
    [
      'rule       accuracy  total cost  converted cost  experts executed',
      'dense        0.9200       1.000           1.000',
      'τ 0.05       0.9100       0.750           0.500            37.5 %',
      'k 12         0.9100       1.042           1.100            37.5 %',
      'share 0.3    0.9100       0.750           0.500           100.0 %',
      'per site     0.9100       0.750           0.500            37.5 %',
    ].join('\n'),
  );
});

test('a curve of losses, without its dense reference', () => {
  const points = [
    { ...point, score: { name: 'loss', value: 3.3, higherIsBetter: false } as const },
  ];
  expect(curveTable(points).split('\n')).toEqual([
    'rule      loss  total cost  converted cost  experts executed',
    'τ 0.05  3.3000       0.750           0.500            37.5 %',
  ]);
});
