import * as Plot from '@observablehq/plot';
import { type Figure, plotFigure } from '../figure.js';
import { formatPercent, siteLabel } from '../format.js';
import { colours } from '../palette.js';

/** Two shares of one site: a hollow mark, a filled one, and a line between them. */
export interface Pair {
  site: string;
  hollow: number;
  filled: number;
}

/** One panel of {@link pairsFigure}. */
export interface PairPanel {
  title: string;
  pairs: readonly Pair[];
}

/** Panels side by side that show two shares in [0, 1] for each site, as a line between a hollow and a filled mark. */
export function pairsFigure(
  figure: Omit<Figure, 'svg'>,
  names: { hollow: string; filled: string },
  panels: readonly PairPanel[],
): Figure {
  const sites = (panels[0] as PairPanel).pairs.map(({ site }) => siteLabel(site));
  const rows = panels.flatMap(({ title, pairs }) =>
    pairs.map(({ site, hollow, filled }) => ({
      panel: title,
      site: siteLabel(site),
      hollow,
      filled,
    })),
  );
  const first = rows[0] as (typeof rows)[number];
  const accent = colours.accent.light;
  const side = (key: 'hollow' | 'filled', right: boolean) =>
    Plot.text(
      rows.filter(({ hollow, filled }) => ((key === 'filled') === filled >= hollow) === right),
      {
        fx: 'panel',
        x: key,
        y: 'site',
        text: (row: (typeof rows)[number]) => formatPercent(row[key], 0),
        textAnchor: right ? 'start' : 'end',
        dx: right ? 9 : -9,
        fontSize: 11,
        fontVariant: 'tabular-nums',
        fill: key === 'filled' ? accent : colours.muted.light,
        fontWeight: key === 'filled' ? 700 : 400,
        className: `value-${key}`,
      },
    );
  return plotFigure(figure, {
    width: 860,
    height: 92 + 30 * sites.length,
    marginLeft: 24 + 7 * Math.max(...sites.map((site) => site.length)),
    marginRight: 30,
    marginTop: 40,
    marginBottom: 30,
    fx: { label: null, domain: panels.map(({ title }) => title), padding: 0.12, axis: 'top' },
    x: {
      domain: [-0.16, 1.16],
      ticks: [0, 0.25, 0.5, 0.75, 1],
      tickFormat: (share: number) => formatPercent(share),
      label: null,
      tickSize: 0,
    },
    y: { domain: sites, label: null, tickSize: 0 },
    marks: [
      Plot.gridX([0, 0.25, 0.5, 0.75, 1], {
        stroke: colours.faint.light,
        strokeOpacity: 1,
        strokeWidth: 0.6,
      }),
      Plot.link(rows, {
        fx: 'panel',
        x1: 'hollow',
        x2: 'filled',
        y: 'site',
        stroke: accent,
        strokeWidth: 1.5,
        className: 'pair',
      }),
      Plot.dot(rows, {
        fx: 'panel',
        x: 'hollow',
        y: 'site',
        r: 4.5,
        fill: colours.paper.light,
        stroke: colours.muted.light,
        strokeWidth: 1.6,
        className: 'hollow',
      }),
      Plot.dot(rows, {
        fx: 'panel',
        x: 'filled',
        y: 'site',
        r: 5,
        fill: accent,
        className: 'filled',
      }),
      ...[true, false].flatMap((right) => [side('hollow', right), side('filled', right)]),
      // The first row of the first panel says what the marks are.
      ...(['hollow', 'filled'] as const).map((key) => {
        const right = (key === 'filled') === first.filled >= first.hollow;
        return Plot.text([first], {
          fx: 'panel',
          x: key,
          y: 'site',
          dx: right ? -4 : 4,
          dy: -14,
          text: () => names[key],
          textAnchor: right ? 'start' : 'end',
          fontSize: 11,
          fill: key === 'filled' ? accent : colours.muted.light,
          className: `name-${key}`,
        });
      }),
    ],
  });
}

/** One figure of each site: a mark at the end of a line from 0, with the number. */
export function lollipopFigure(
  figure: Omit<Figure, 'svg'>,
  label: string,
  values: readonly { site: string; value: number }[],
): Figure {
  const rows = values.map(({ site, value }) => ({ site: siteLabel(site), value }));
  const sites = rows.map(({ site }) => site);
  const accent = colours.accent.light;
  return plotFigure(figure, {
    width: 860,
    height: 66 + 28 * sites.length,
    marginLeft: 24 + 7 * Math.max(...sites.map((site) => site.length)),
    marginRight: 60,
    marginTop: 12,
    marginBottom: 44,
    x: {
      domain: [0, Math.max(1, ...rows.map(({ value }) => value))],
      label,
      labelAnchor: 'center',
      labelArrow: 'none',
      tickSize: 0,
      ticks: 6,
    },
    y: { domain: sites, label: null, tickSize: 0 },
    marks: [
      Plot.gridX({ stroke: colours.faint.light, strokeOpacity: 1, strokeWidth: 0.6 }),
      Plot.link(rows, { x1: 0, x2: 'value', y: 'site', stroke: accent, strokeWidth: 1.5 }),
      Plot.dot(rows, { x: 'value', y: 'site', r: 5, fill: accent, className: 'value' }),
      Plot.text(rows, {
        x: 'value',
        y: 'site',
        text: ({ value }: { value: number }) => value.toFixed(2),
        textAnchor: 'start',
        dx: 9,
        fontSize: 11,
        fontWeight: 700,
        fill: accent,
      }),
    ],
  });
}
