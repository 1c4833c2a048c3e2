import * as Plot from '@observablehq/plot';
import { cheapestWithin } from '../../choose.js';
import { type Figure, plotFigure } from '../figure.js';
import { formatCost, formatPercent, formatScore } from '../format.js';
import { headlinePoint, keptShares } from '../findings.js';
import { colours, seriesStyle } from '../palette.js';
import type { ReportData, ReportPoint } from '../types.js';

type Costs = 'cost' | 'convertedCost';

const width = 860;
const legendWidth = 250;
const margins = { marginTop: 24, marginRight: legendWidth + 6, marginBottom: 46, marginLeft: 60 };

/** Scores of less than this share of the dense one, above it for a loss, lie below the figure's edge. */
const shown = 0.9;

/** Cost–quality curves: dynamic-k and every baseline, by total cost or by that of the converted layers alone. */
export function costQualityFigure(data: ReportData, by: Costs): Figure {
  const { dense, dynamicK, baselines } = data;
  const { name, value, higherIsBetter } = dense.score;
  const bound = value * (higherIsBetter ? shown : 2 - shown);
  const all = [dynamicK, ...baselines.map(({ points }) => points)];
  const lines = all.map((points) => visiblePart(points, by, bound, higherIsBetter));
  const drawn = lines.flat();
  const costs = [...drawn.map(({ x }) => x), 1];
  const scores = [...drawn.map(({ y }) => y), value];
  const x: [number, number] = [
    Math.max(0, Math.floor(Math.min(...costs) * 10 - 0.2) / 10),
    Math.max(...costs) + 0.01,
  ];
  const spread = Math.max(...scores) - Math.min(...scores) || Math.abs(value) / 10;
  const y: [number, number] = [
    Math.min(...scores) - 0.04 * spread,
    Math.max(...scores) + 0.08 * spread,
  ];
  const levels = keptShares
    .map((keep) => ({ keep, y: value * (higherIsBetter ? keep : 2 - keep) }))
    .filter((level) => level.y > y[0] && level.y < y[1]);
  const chosen = headlinePoint(data);
  const isAccuracy = name === 'accuracy';
  const format = (score: number) => (isAccuracy ? formatPercent(score) : score.toFixed(2));
  const costName = by === 'cost' ? 'total cost' : 'cost of the converted layers';
  return plotFigure(
    {
      name: by === 'cost' ? 'cost-quality' : 'cost-quality-converted',
      title: `${isAccuracy ? 'Accuracy' : 'Loss'} against ${costName}`,
      description: `${isAccuracy ? 'Accuracy (higher is better)' : 'Loss (lower is better)'} by ${costName} relative to the dense model, for dynamic-k${baselines.map(({ label }) => `, ${label}`).join('')}. The dense model’s is ${formatScore(dense.score)}.${chosen ? ` Dynamic-k’s operating point: ${formatScore(chosen.score)} at ${formatCost(chosen[by])}.` : ''} The table of all points has every figure.`,
    },
    {
      width,
      height: Math.max(400, 130 + 23 * baselines.length),
      ...margins,
      x: {
        domain: x,
        label: `${costName}, relative to the dense model`,
        labelAnchor: 'center',
        labelArrow: 'none',
        tickSize: 0,
      },
      y: {
        domain: y,
        label: isAccuracy ? 'accuracy' : 'loss (lower is better)',
        labelArrow: 'none',
        tickSize: 0,
        tickFormat: format,
        ticks: 6,
      },
      marks: [
        Plot.gridX({ stroke: colours.faint.light, strokeOpacity: 1, strokeWidth: 0.6 }),
        Plot.ruleY(levels, {
          y: 'y',
          stroke: colours.faint.light,
          strokeWidth: 0.8,
          className: 'level',
        }),
        Plot.text(levels, {
          x: x[1],
          y: 'y',
          text: ({ keep }: { keep: number }) =>
            isAccuracy ? formatPercent(keep) : `+${formatPercent(1 - keep)}`,
          textAnchor: 'end',
          dy: -6,
          fontSize: 10,
          fill: colours.muted.light,
          stroke: colours.paper.light,
          strokeWidth: 3,
        }),
        Plot.ruleY([value], {
          stroke: colours.ink.light,
          strokeWidth: 1,
          strokeDasharray: '1,2',
          className: 'dense',
        }),
        ...baselines.flatMap((baseline, i) => {
          const { colour, dash, symbol } = seriesStyle(i);
          const points = lines[i + 1] as VisiblePoint[];
          const common = {
            x: 'x',
            y: 'y',
            stroke: colour,
            className: `series series-${baseline.name}`,
          };
          return [
            Plot.line(points, {
              ...common,
              strokeWidth: 1.6,
              strokeDasharray: dash,
              ariaDescription: baseline.label,
            }),
            Plot.dot(
              points.filter(({ measured }) => measured),
              {
                ...common,
                className: `markers markers-${baseline.name}`,
                r: 3.2,
                symbol,
                fill: colours.paper.light,
                strokeWidth: 1.3,
              },
            ),
          ];
        }),
        Plot.line(lines[0] as VisiblePoint[], {
          x: 'x',
          y: 'y',
          stroke: colours.accent.light,
          strokeWidth: 3,
          className: 'series series-dynamic-k',
          ariaDescription: 'Dynamic-k',
        }),
        Plot.dot(
          (lines[0] as VisiblePoint[]).filter(({ measured }) => measured),
          {
            x: 'x',
            y: 'y',
            r: 3.6,
            fill: colours.accent.light,
            className: 'markers markers-dynamic-k',
          },
        ),
        ...(chosen
          ? [
              Plot.dot([chosen], {
                x: by,
                y: ({ score }: ReportPoint) => score.value,
                r: 9,
                fill: colours.accent.light,
                fillOpacity: 0.15,
                stroke: colours.accent.light,
                strokeWidth: 2,
                className: 'chosen',
              }),
            ]
          : []),
        ...legend(data, by),
      ],
    },
  );
}

/** A curve's point as it is drawn; where a curve leaves the figure it has one that was not measured. */
interface VisiblePoint {
  x: number;
  y: number;
  measured: boolean;
}

/** The part of a curve that is good enough to be drawn, cut where it crosses the bound. */
export function visiblePart(
  points: readonly ReportPoint[],
  by: Costs,
  bound: number,
  higherIsBetter: boolean,
): VisiblePoint[] {
  const sorted = points
    .map((point) => ({ x: point[by], y: point.score.value, measured: true }))
    .sort((a, b) => a.x - b.x || a.y - b.y);
  const isShown = ({ y }: VisiblePoint) => (higherIsBetter ? y >= bound : y <= bound);
  const first = sorted.findIndex(isShown);
  if (first === -1) return [];
  const part = sorted.slice(first).filter(isShown);
  const [before, after] = [sorted[first - 1], sorted[first]];
  if (!before || !after) return part;
  const share = (bound - before.y) / (after.y - before.y);
  return [{ x: before.x + share * (after.x - before.x), y: bound, measured: false }, ...part];
}

/** Names beside samples of line and marker, each with the cost at which the method keeps 99 %. */
function legend({ dense, dynamicK, baselines }: ReportData, by: Costs): Plot.Markish[] {
  const at99 = (points: readonly ReportPoint[]) => {
    const point = cheapestWithin(points, { keep: 0.99, dense: dense.score });
    return point ? formatCost(point[by]) : '–';
  };
  const accent = colours.accent.light;
  const entries: LegendEntry[] = [
    {
      name: 'dense',
      label: `Dense, ${formatScore(dense.score)}`,
      value: '1',
      line: { stroke: colours.ink.light, strokeWidth: 1, strokeDasharray: '1,2' },
    },
    {
      name: 'dynamic-k',
      label: 'Dynamic-k',
      value: at99(dynamicK),
      line: { stroke: accent, strokeWidth: 3 },
      marker: { r: 4, fill: accent },
    },
    ...baselines.map(({ name, label, points }, i): LegendEntry => {
      const { colour, dash, symbol } = seriesStyle(i);
      return {
        name,
        label,
        value: at99(points),
        line: { stroke: colour, strokeWidth: 1.6, strokeDasharray: dash },
        marker: { r: 3.6, symbol, stroke: colour, strokeWidth: 1.3, fill: colours.paper.light },
      };
    }),
  ];
  const heading = dense.score.name === 'accuracy' ? 'cost at 99 %' : 'cost at +1 %';
  const place = { frameAnchor: 'top-right', lineAnchor: 'middle' } as const;
  return [
    Plot.text([heading], {
      ...place,
      textAnchor: 'end',
      dx: legendWidth,
      dy: 4,
      fontSize: 11,
      fill: colours.muted.light,
    }),
    ...entries.flatMap(({ name, label, value, line, marker }, i) => {
      const dy = 28 + 23 * i;
      const text = { ...place, dy, className: `series-label label-${name}` };
      return [
        Plot.vector([0], {
          frameAnchor: 'top-right',
          dx: 30,
          dy,
          rotate: 90,
          length: 32,
          anchor: 'middle',
          shape: straight,
          ...line,
        }),
        ...(marker ? [Plot.dot([0], { frameAnchor: 'top-right', dx: 30, dy, ...marker })] : []),
        Plot.text([label], {
          ...text,
          textAnchor: 'start',
          dx: 54,
          fill: line.stroke,
          fontWeight: name === 'dynamic-k' ? 700 : 400,
        }),
        Plot.text([value], {
          ...text,
          textAnchor: 'end',
          dx: legendWidth,
          fontVariant: 'tabular-nums',
          className: `value-${name}`,
        }),
      ];
    }),
  ];
}

/** One row of the legend. */
interface LegendEntry {
  name: string;
  label: string;
  value: string;
  line: { stroke: string; strokeWidth: number; strokeDasharray?: string };
  marker?: Plot.DotOptions;
}

/** A vector's shape without a head. */
const straight = {
  draw(
    context: { moveTo(x: number, y: number): void; lineTo(x: number, y: number): void },
    length: number,
  ) {
    context.moveTo(0, 0);
    context.lineTo(0, -length);
  },
};
