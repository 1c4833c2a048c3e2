import { cheapestWithin } from '../choose.js';
import { type ExecutedByToken, summarizeExecuted } from '../observe/executed-by-token.js';
import type { RouterError } from '../observe/router-error.js';
import { keptLabel, keptShares } from './findings.js';
import {
  formatCost,
  formatCount,
  formatDifference,
  formatPercent,
  formatScore,
  siteLabel,
} from './format.js';
import { type Cell, escape, table } from './html.js';
import type {
  ActivationSparsity,
  ReportData,
  ReportPoint,
  ReportSettings,
  ThresholdGain,
  WallClock,
} from './types.js';

/** All curves, dynamic-k's first. */
function methods({ dynamicK, baselines }: ReportData) {
  return [{ label: 'Dynamic-k', knob: 'τ', points: dynamicK, isBound: false }, ...baselines];
}

/** The cost at which each method keeps 99, 97 and 95 %; the lowest of each column is marked. */
export function keptTable(data: ReportData): string {
  const { dense } = data;
  const rows = methods(data).map(({ label, points, isBound = false }) => ({
    label: isBound ? `${label} (a bound)` : label,
    isBound,
    costs: keptShares.map((keep) => cheapestWithin(points, { keep, dense: dense.score })),
  }));
  const least = keptShares.map((_, column) =>
    Math.min(
      ...rows
        .filter(({ isBound }) => !isBound)
        .map(({ costs }) => costs[column]?.cost ?? Number.POSITIVE_INFINITY),
    ),
  );
  const cell = (point: ReportPoint | undefined, column: number, isBound: boolean): Cell => {
    if (!point) return 'not reached';
    const best = rows.length > 1 && !isBound && point.cost === least[column];
    return {
      html: `<span${best ? ' class="best"' : ''}>${formatCost(point.cost)}${best ? ' ◂' : ''}</span> <span class="part">(${formatCost(point.convertedCost)})</span>`,
    };
  };
  return table(
    `Total cost, in brackets that of the converted layers, of the cheapest measured point that keeps …${rows.length > 1 ? ' ◂ marks the lowest of a column.' : ''}`,
    ['', ...keptShares.map((keep) => keptLabel(keep, dense.score.name))],
    rows.map(({ label, costs, isBound }) => [
      label,
      ...costs.map((point, column) => cell(point, column, isBound)),
    ]),
  );
}

/** Every measured point of every method. */
export function allPointsTable(data: ReportData): string {
  const { dense } = data;
  const rows = methods(data).flatMap(({ label, knob, points }) =>
    points.map((point): Cell[] => {
      const value = point.tau ?? point.value;
      return [
        label,
        value === undefined ? 'by layer' : `${knob ?? ''} ${Number(value.toPrecision(4))}`.trim(),
        formatScore(point.score),
        point.cost.toFixed(4),
        point.convertedCost.toFixed(4),
      ];
    }),
  );
  return table(
    'All measured points; costs are relative to the dense model',
    ['method', 'setting', dense.score.name, 'total cost', 'converted layers'],
    [['Dense', '', formatScore(dense.score), '1', '1'], ...rows],
  );
}

export function gainsTable(gains: readonly ThresholdGain[]): string {
  return table(
    'One threshold for all layers against one for each, on the test data',
    ['budget', 'one: score', 'cost', 'by layer: score', 'cost', 'score gained', 'cost saved'],
    gains.map(({ budget, global, perLayer }) => {
      const sign = global.score.higherIsBetter ? 1 : -1;
      const gain = sign * (perLayer.score.value - global.score.value);
      return [
        budget,
        formatScore(global.score),
        formatCost(global.cost),
        formatScore(perLayer.score),
        formatCost(perLayer.cost),
        `${gain < 0 ? '−' : '+'}${formatDifference(global.score.name, gain)}`,
        (global.cost - perLayer.cost).toFixed(3).replace('-', '−'),
      ];
    }),
  );
}

export function executedTable(sites: readonly ExecutedByToken[]): string {
  return table(
    'Experts executed per token',
    ['', 'experts', 'mean', 'std. dev.', '5 %', '25 %', 'median', '75 %', '95 %'],
    sites.map((site) => {
      const { mean, deviation, quantiles } = summarizeExecuted(site);
      return [
        siteLabel(site.site),
        formatCount(site.experts),
        mean.toFixed(1),
        deviation.toFixed(1),
        ...quantiles.map(String),
      ];
    }),
  );
}

export function sparsityTable(sites: readonly ActivationSparsity[]): string {
  return table(
    'Shares of activations',
    ['', 'zero, before', 'zero, after', 'below max/100, before', 'below max/100, after'],
    sites.map(({ site, before, after }) => [
      siteLabel(site),
      formatPercent(before.zero),
      formatPercent(after.zero),
      formatPercent(before.belowHundredth),
      formatPercent(after.belowHundredth),
    ]),
  );
}

export function routersTable(sites: readonly RouterError[]): string {
  return table(
    'Routers, by layer',
    ['', 'relative error', 'captured', 'attainable'],
    sites.map(({ site, relativeError, captured, attainable }) => [
      siteLabel(site),
      relativeError.toFixed(3),
      formatPercent(captured),
      formatPercent(attainable),
    ]),
  );
}

export function wallClockTable({ dense, converted, batch }: WallClock): string {
  const row = (label: string, cost: number, timing: WallClock['dense']) => [
    label,
    timing.median.toFixed(2),
    timing.least.toFixed(2),
    timing.greatest.toFixed(2),
    (timing.median / dense.median).toFixed(3),
    cost.toFixed(3),
  ];
  return table(
    `Milliseconds of a pass over ${batch}`,
    ['', 'median', 'fastest', 'slowest', 'relative time', 'relative multiply-adds'],
    [
      row('dense', 1, dense),
      ...converted.map(({ label, cost, timing }) => row(label, cost, timing)),
    ],
  );
}

export function settingsTables(stages: readonly ReportSettings[]): string {
  const rows = stages.map(({ stage, seed, seconds, settings }): Cell[] => [
    stage,
    seed === undefined ? '' : String(seed),
    seconds === undefined ? '' : `${formatCount(seconds)} s`,
    {
      html: Object.entries(settings)
        .map(([name, value]) => `${escape(name)}&nbsp;<b>${escape(shown(value))}</b>`)
        .join(', '),
    },
  ]);
  return `<div class="settings">${table('By stage', ['stage', 'seed', 'took', 'settings'], rows)}</div>`;
}

function shown(value: unknown): string {
  if (Array.isArray(value)) {
    // Rules of one kind name it once: `threshold 0 0.1 0.2`.
    const kinds = new Set(value.map((item: unknown) => (item as { rule?: unknown } | null)?.rule));
    const [kind] = kinds;
    return kinds.size === 1 && typeof kind === 'string'
      ? `${kind} ${value.map(({ value: of }: { value: unknown }) => String(of)).join(' ')}`
      : value.map(shown).join(' ');
  }
  if (typeof value === 'object' && value !== null) {
    return Object.values(value).map(shown).join(' ');
  }
  return String(value);
}
