import type { ReportCurve, ReportData, ReportPoint } from '../src/report/types.js';

/** A curve's point of an accuracy. */
export const point = (value: number, cost: number, tau?: number): ReportPoint => ({
  score: { name: 'accuracy', value, higherIsBetter: true },
  cost,
  convertedCost: cost / 2,
  ...(tau !== undefined && { tau }),
});

/** A curve's point of a loss. */
export const lossPoint = (value: number, cost: number): ReportPoint => ({
  ...point(value, cost),
  score: { name: 'loss', value, higherIsBetter: false },
});

export const baseline = (
  name: string,
  points: readonly ReportPoint[],
  more: Partial<ReportCurve> = {},
): ReportCurve => ({
  name,
  label: `The ${name} & co`,
  description: `What ${name} does.`,
  knob: 'k/n',
  points: points.map((own, i) => ({ ...own, value: i / 10 })),
  ...more,
});

export const denseAccuracy: ReportData['dense'] = {
  score: { name: 'accuracy', value: 0.9, higherIsBetter: true },
  samples: 2500,
  tokens: 12_000,
  multiplyAdds: 73_772_693,
  parameters: 3_212_800,
};

const sites = ['layers.0.ffn', 'layers.1.ffn'];
const timing = (median: number) => ({ median, least: 0.9 * median, greatest: 1.2 * median });
/** A picture of one pixel. */
const pixel =
  'data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8BQDwAEhQGAhKmMIQAAAABJRU5ErkJggg==';

/** A report that has every section. */
export function reportData(): ReportData {
  const atSixty = point(0.898, 0.6, 0.1);
  const chosen = point(0.894, 0.42, 0.2);
  const dynamicK = [
    point(0.9, 1.03, 0),
    atSixty,
    chosen,
    point(0.85, 0.35, 0.4),
    point(0.5, 0.3, 0.9),
  ];
  return {
    name: 'tiny <bert>',
    data: 'the test split of feelings',
    dense: denseAccuracy,
    dynamicK,
    baselines: [
      baseline('moefication', [point(0.9, 1.1), point(0.88, 0.62), point(0.7, 0.4)]),
      baseline('cats', [point(0.9, 0.95), point(0.899, 0.61), point(0.86, 0.5)]),
      baseline('oracle', [point(0.905, 0.9), point(0.9, 0.4)], { isBound: true }),
    ],
    operatingPoints: [
      {
        name: 'keep-0.99',
        chosen: 'chosen on the validation split to keep 99 % of the accuracy',
        point: chosen,
      },
      { name: 'cost-0.6', chosen: 'chosen for a cost of 0.6', point: atSixty },
    ],
    gains: [{ budget: 'a cost of 0.6', global: point(0.89, 0.6), perLayer: point(0.896, 0.59) }],
    executed: sites.map((site) => ({ site, experts: 4, histogram: [0, 5, 3, 1, 1] })),
    sparsity: sites.map((site) => ({
      site,
      before: { zero: 0.02, belowHundredth: 0.11 },
      after: { zero: 0.93, belowHundredth: 0.97 },
    })),
    routers: sites.map((site) => ({
      site,
      relativeError: 0.34,
      captured: 0.81,
      attainable: 0.9,
    })),
    images: [
      {
        image: pixel,
        columns: 2,
        rows: 2,
        executed: [0.1, 0.2, 0.3, 0.4],
        label: 'frog',
        predicted: 'cat',
      },
    ],
    texts: [
      {
        tokens: ['[CLS]', 'a', ' <b>', '&', '\n', '\u0000', ''],
        executed: [0.1, 0.5, 0.2, 0.25, 0.3, 0.1, 0.1],
        label: 'joy',
        predicted: 'joy',
      },
    ],
    wallClock: {
      device: 'a test',
      batch: '64 samples',
      dense: timing(10),
      converted: [{ label: 'τ = 0.2', cost: 0.42, timing: timing(6) }],
    },
    settings: [
      { stage: 'sparsify', seed: 7, seconds: 1234, settings: { alpha: 0.001, steps: 800 } },
      {
        stage: 'evaluate',
        seed: 7,
        settings: { rules: [0, 0.5].map((value) => ({ rule: 'threshold', value })) },
      },
    ],
  };
}
