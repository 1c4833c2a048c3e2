import { describe, expect, test } from 'vitest';
import { denseAccuracy, point, reportData } from '../../testing/report-data.js';
import { renderReport } from './render.js';

const { html, figures } = renderReport(reportData());

test('a report is a function of its data', () => {
  expect(renderReport(reportData())).toEqual({ html, figures });
});

test('it is one file: no script, and nothing that is fetched', () => {
  expect(html).not.toMatch(/<script|<iframe|<object|@import|url\(/i);
  const addresses = html.matchAll(/(?:href|src|srcset|data)="([^"]*)"/g);
  for (const [, address] of addresses) expect(address).toMatch(/^data:/);
});

test('every figure is in the report and a file of its own', () => {
  expect(Object.keys(figures).toSorted()).toEqual([
    'activation-sparsity.svg',
    'cost-quality-converted.svg',
    'cost-quality.svg',
    'executed-by-layer.svg',
    'patches.svg',
    'router-captured.svg',
    'router-error.svg',
    'tokens.svg',
    'wall-clock.svg',
  ]);
  for (const [file, svg] of Object.entries(figures)) {
    const name = file.slice(0, -'.svg'.length);
    expect(html).toContain(`<figure id="${name}"><svg`);
    expect(svg).toContain('xmlns="http://www.w3.org/2000/svg"');
    expect(svg).toContain(`aria-labelledby="${name}-title"`);
    expect(svg).toContain(`aria-describedby="${name}-description"`);
    expect(svg).toContain('prefers-color-scheme: dark');
  }
});

test('names and tokens are escaped', () => {
  expect(html).toContain('tiny &lt;bert&gt;');
  expect(html).not.toContain('<bert>');
  expect(html).not.toContain('<b> ');
  expect(figures['tokens.svg']).toContain('&lt;b&gt;');
  expect(`${html}${figures['tokens.svg']}`).not.toContain('\u0000');
});

test('a figure tells its series apart by dashes and markers, not by colour alone', () => {
  const dashes = ['moefication', 'cats', 'oracle'].map((name) => {
    const series = new RegExp(`<g[^>]*class="series series-${name}"[^>]*>`).exec(
      figures['cost-quality.svg'] as string,
    );
    return /stroke-dasharray="([^"]+)"/.exec(series?.[0] as string)?.[1];
  });
  expect(new Set(dashes).size).toBe(3);
  expect(dashes).not.toContain(undefined);
});

describe('a report of little', () => {
  const little = renderReport({
    name: 'a',
    data: 'b',
    dense: denseAccuracy,
    dynamicK: [point(0.9, 0.5, 0.1)],
    baselines: [],
    operatingPoints: [],
    settings: [],
  });

  test('has the curves alone, and says that its point was picked on the test data', () => {
    expect(Object.keys(little.figures)).toEqual(['cost-quality.svg', 'cost-quality-converted.svg']);
    expect(little.html.match(/<section/g)?.length).toBe(1);
    expect(little.html).toContain('which flatters it');
  });

  test('has no NaN, undefined or null in it', () => {
    for (const text of [html, little.html]) expect(text).not.toMatch(/NaN|undefined|null|Infinity/);
  });
});
