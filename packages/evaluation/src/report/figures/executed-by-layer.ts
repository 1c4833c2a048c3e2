import * as Plot from '@observablehq/plot';
import { type ExecutedByToken, summarizeExecuted } from '../../observe/executed-by-token.js';
import { type Figure, plotFigure } from '../figure.js';
import { formatPercent, siteLabel } from '../format.js';
import { colours } from '../palette.js';

/** A ridge's greatest height, in rows. */
const ridgeHeight = 0.78;

/** Bins of a ridge at most; where there are more experts, neighbouring counts share one. */
const bins = 130;

/**
 * How many experts tokens execute, by layer: a ridge for the distribution over tokens, a bar from the 5th to the 95th
 * percentile, a thicker one between the quartiles, and a mark at the median (Szatkowski et al. 2024 show the same as
 * variance by layer).
 */
export function executedByLayerFigure(sites: readonly ExecutedByToken[]): Figure {
  const rows = sites.map((site, row) => {
    const { mean, quantiles } = summarizeExecuted(site);
    const [p5, p25, p50, p75, p95] = quantiles.map((count) => count / site.experts);
    return { row, label: siteLabel(site.site), mean: mean / site.experts, p5, p25, p50, p75, p95 };
  });
  const ridges = sites.flatMap((site, row) => ridge(site, row));
  const greatest = Math.max(...ridges.map(({ x }) => x));
  const left = 24 + 7 * Math.max(...rows.map(({ label }) => label.length));
  const accent = colours.accent.light;
  return plotFigure(
    {
      name: 'executed-by-layer',
      title: 'Experts executed per token, by layer',
      description: `The distribution over tokens of the share of experts executed. Means: ${rows.map(({ label, mean }) => `${label} ${formatPercent(mean)}`).join(', ')}.`,
    },
    {
      width: 860,
      height: 80 + rows.length * 54,
      marginLeft: left,
      marginRight: 90,
      marginTop: 16,
      marginBottom: 44,
      x: {
        domain: [0, greatest],
        label: 'share of the layer’s experts that a token executes',
        labelAnchor: 'center',
        labelArrow: 'none',
        tickFormat: (share: number) => formatPercent(share),
        tickSize: 0,
        ticks: 8,
      },
      y: { domain: [rows.length - 0.6, -0.9], axis: null },
      marks: [
        Plot.gridX({ stroke: colours.faint.light, strokeOpacity: 1, strokeWidth: 0.6 }),
        Plot.areaY(ridges, {
          x: 'x',
          y1: 'y1',
          y2: 'y2',
          z: 'row',
          fill: accent,
          fillOpacity: 0.22,
          stroke: accent,
          strokeWidth: 1,
          curve: 'linear',
          className: 'ridge',
        }),
        Plot.link(rows, {
          x1: 'p5',
          x2: 'p95',
          y: 'row',
          dy: 7,
          stroke: accent,
          strokeWidth: 1.4,
          className: 'range',
        }),
        Plot.link(rows, {
          x1: 'p25',
          x2: 'p75',
          y: 'row',
          dy: 7,
          stroke: accent,
          strokeWidth: 6,
          className: 'quartiles',
        }),
        Plot.dot(rows, {
          x: 'p50',
          y: 'row',
          dy: 7,
          r: 4.5,
          fill: colours.paper.light,
          stroke: accent,
          strokeWidth: 2,
          className: 'median',
        }),
        Plot.text(rows, {
          frameAnchor: 'left',
          y: 'row',
          text: 'label',
          textAnchor: 'end',
          dx: -10,
          className: 'site-label',
        }),
        Plot.text(rows, {
          frameAnchor: 'right',
          y: 'row',
          text: ({ mean }: { mean: number }) => `mean ${formatPercent(mean)}`,
          textAnchor: 'start',
          dx: 8,
          fontVariant: 'tabular-nums',
          fill: colours.muted.light,
        }),
      ],
    },
  );
}

/** The outline of a distribution above its row's line, the same height for every row's greatest bin. */
function ridge(
  { experts, histogram }: ExecutedByToken,
  row: number,
): { row: number; x: number; y1: number; y2: number }[] {
  const width = Math.ceil((experts + 1) / bins);
  const sums: number[] = [];
  for (const [count, tokens] of histogram.entries()) {
    const bin = Math.floor(count / width);
    sums[bin] = (sums[bin] ?? 0) + tokens;
  }
  const greatest = Math.max(...sums);
  const last = sums.findLastIndex((sum) => sum > 0);
  const first = sums.findIndex((sum) => sum > 0);
  // One empty bin at either end, so that the outline comes down to the line.
  return Array.from({ length: last - first + 3 }, (_, i) => {
    const bin = first + i - 1;
    const centre = (bin * width + (width - 1) / 2) / experts;
    return {
      row,
      x: Math.max(0, Math.min(centre, 1)),
      y1: row,
      y2: row - (ridgeHeight * (sums[bin] ?? 0)) / greatest,
    };
  });
}
