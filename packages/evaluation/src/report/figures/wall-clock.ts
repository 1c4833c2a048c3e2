import * as Plot from '@observablehq/plot';
import { type Figure, plotFigure } from '../figure.js';
import { formatRoughly } from '../format.js';
import { colours } from '../palette.js';
import type { WallClock } from '../types.js';

const names = { cost: 'multiply-adds', time: 'time' };

/** Wall-clock time beside multiply-adds, both relative to the dense model, one row for each threshold. */
export function wallClockFigure({ device, batch, dense, converted }: WallClock): Figure {
  const rows = converted.map(({ label, cost, timing }) => ({
    label,
    cost,
    time: timing.median / dense.median,
    least: timing.least / dense.median,
    greatest: timing.greatest / dense.median,
  }));
  const end = Math.max(1, ...rows.flatMap(({ cost, greatest }) => [cost, greatest]));
  const accent = colours.accent.light;
  const muted = colours.muted.light;
  const mark = { y: 'label' };
  return plotFigure(
    {
      name: 'wall-clock',
      title: 'Wall-clock time beside multiply-adds',
      description: `Relative to the dense model, on ${device}, ${batch}. ${rows.map(({ label, cost, time }) => `${label}: time ${formatRoughly(time)}, multiply-adds ${formatRoughly(cost)}`).join('; ')}.`,
    },
    {
      width: 860,
      height: 104 + 44 * rows.length,
      marginLeft: 24 + 7 * Math.max(...rows.map(({ label }) => label.length)),
      marginRight: 40,
      marginTop: 36,
      marginBottom: 44,
      x: {
        domain: [0, end * 1.06],
        label: 'relative to the dense model',
        labelAnchor: 'center',
        labelArrow: 'none',
        tickSize: 0,
      },
      y: { domain: rows.map(({ label }) => label), label: null, tickSize: 0 },
      marks: [
        Plot.gridX({ stroke: colours.faint.light, strokeOpacity: 1, strokeWidth: 0.6 }),
        Plot.ruleX([1], { stroke: colours.ink.light, strokeDasharray: '1,2', className: 'dense' }),
        Plot.text(['dense'], {
          x: 1,
          frameAnchor: 'top',
          text: () => 'dense',
          dy: -12,
          fontSize: 11,
        }),
        Plot.link(rows, {
          ...mark,
          x1: 'least',
          x2: 'greatest',
          stroke: accent,
          strokeWidth: 1.4,
          className: 'range',
        }),
        Plot.dot(rows, {
          ...mark,
          x: 'cost',
          r: 5,
          symbol: 'diamond',
          fill: colours.paper.light,
          stroke: muted,
          strokeWidth: 1.6,
          className: 'multiply-adds',
        }),
        Plot.dot(rows, {
          ...mark,
          x: 'time',
          r: 5,
          symbol: 'square',
          fill: accent,
          className: 'time',
        }),
        // The first row says what the marks are; above and below, the two never meet.
        ...(['cost', 'time'] as const).map((key) =>
          Plot.text(rows, {
            ...mark,
            x: key,
            dy: key === 'cost' ? -14 : 14,
            text: (row: (typeof rows)[number]) =>
              `${row === rows[0] ? names[key] : ''} ${formatRoughly(row[key])}`.trim(),
            fontSize: 11,
            fontWeight: key === 'cost' ? 400 : 700,
            fill: key === 'cost' ? muted : accent,
            className: `value-${key}`,
          }),
        ),
      ],
    },
  );
}
