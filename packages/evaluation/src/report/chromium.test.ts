import { existsSync } from 'node:fs';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { type Browser, chromium, type Page } from 'playwright-core';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { reportData } from '../../testing/report-data.js';
import { formatCost } from './format.js';
import { renderReport } from './render.js';

const executablePath = '/usr/bin/chromium';
const data = reportData();
const { html, figures } = renderReport(data);
const names = Object.keys(figures).map((file) => file.slice(0, -'.svg'.length));

describe.skipIf(!existsSync(executablePath))('the report in Chromium', () => {
  let folder: string;
  let browser: Browser;
  let page: Page;
  const requests: string[] = [];
  const problems: string[] = [];

  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), 'd2dmoe-report-'));
    await writeFile(join(folder, 'report.html'), html);
    for (const [file, svg] of Object.entries(figures)) await writeFile(join(folder, file), svg);
    browser = await chromium.launch({
      executablePath,
      args: ['--headless', '--no-sandbox', '--disable-gpu', '--disable-background-networking'],
    });
    page = await browser.newPage({ viewport: { width: 1100, height: 900 } });
    page.on('request', (request) => requests.push(request.url()));
    page.on('console', (message) => problems.push(message.text()));
    page.on('pageerror', (error) => problems.push(error.message));
    await page.goto(pathToFileURL(join(folder, 'report.html')).href);
  });
  afterAll(async () => {
    await browser?.close();
    await rm(folder, { recursive: true, force: true });
  });

  test('asks for nothing but itself', async () => {
    const others = requests.filter((url) => !url.startsWith('data:'));
    expect(others).toEqual([pathToFileURL(join(folder, 'report.html')).href]);
    expect(problems).toEqual([]);
  });

  test('shows every figure, named and described', async () => {
    for (const name of names) {
      const figure = page.getByRole('img', { name: await title(name), exact: true });
      expect(await figure.count()).toBe(1);
      const box = await figure.boundingBox();
      expect(box?.width).toBeGreaterThan(500);
      expect(box?.height).toBeGreaterThan(50);
      expect((await page.locator(`#${name}-description`).textContent())?.length).toBeGreaterThan(
        20,
      );
      expect(await page.locator(`#${name} figcaption`).textContent()).toMatch(/^Figure \d+\. ./);
    }
    expect(await page.locator('figure').count()).toBe(names.length);
  });

  const title = async (name: string) =>
    (await page.locator(`#${name}-title`).textContent()) as string;

  test('draws each series with its line, its markers and its label', async () => {
    const curves = [
      { name: 'dynamic-k', label: 'Dynamic-k', points: data.dynamicK },
      ...data.baselines,
    ];
    for (const figure of ['cost-quality', 'cost-quality-converted']) {
      const lines = new Set<string>();
      for (const { name, label, points } of curves) {
        const path = page.locator(`#${figure} .series-${name} path`);
        expect(await path.count()).toBe(1);
        lines.add((await path.getAttribute('d')) as string);
        // What is worse than 90 % of the dense score is left to the table.
        const shown = points.filter(({ score }) => score.value >= 0.9 * data.dense.score.value);
        expect(await page.locator(`#${figure} .markers-${name} > *`).count()).toBe(shown.length);
        expect(await page.locator(`#${figure} .label-${name}`).textContent()).toBe(label);
      }
      expect(lines.size).toBe(curves.length);
    }
  });

  test('places points where their figures say', async () => {
    const centres = await page
      .locator('#cost-quality .markers-dynamic-k circle')
      .evaluateAll((circles) =>
        circles.map((circle) => {
          const { x, y, width, height } = circle.getBoundingClientRect();
          return [x + width / 2, y + height / 2] as const;
        }),
      );
    const shown = data.dynamicK
      .filter(({ score }) => score.value >= 0.81)
      .toSorted((a, b) => a.cost - b.cost);
    expect(centres.length).toBe(shown.length);
    const [first, second, third] = centres as [
      readonly [number, number],
      readonly [number, number],
      readonly [number, number],
    ];
    const [a, b, c] = shown as [(typeof shown)[0], (typeof shown)[0], (typeof shown)[0]];
    expect((second[0] - first[0]) / (third[0] - first[0])).toBeCloseTo(
      (b.cost - a.cost) / (c.cost - a.cost),
      1,
    );
    expect((second[1] - first[1]) / (third[1] - first[1])).toBeCloseTo(
      (b.score.value - a.score.value) / (c.score.value - a.score.value),
      1,
    );
  });

  test('has one mark for each layer, patch and token', async () => {
    const layers = 2;
    expect(await page.locator('#executed-by-layer .ridge path').count()).toBe(layers);
    expect(await page.locator('#executed-by-layer .median circle').count()).toBe(layers);
    expect(await page.locator('#activation-sparsity .filled circle').count()).toBe(2 * layers);
    expect(await page.locator('#router-error .value circle').count()).toBe(layers);
    expect(await page.locator('#wall-clock .time path').count()).toBe(1);
    expect(await page.locator('#patches .patch').count()).toBe(4);
    const tokens = page.locator('#tokens .token');
    expect(await tokens.count()).toBe(7);
    expect(await tokens.nth(2).locator('text').textContent()).toBe(' <b>');
    // The bar's length is the share of the greatest.
    const [full, half] = await Promise.all(
      [1, 3].map(async (i) => {
        const [ground, bar] = await tokens
          .nth(i)
          .locator('rect')
          .evaluateAll((rects) => rects.map((rect) => Number(rect.getAttribute('width'))));
        return (bar as number) / (ground as number);
      }),
    );
    expect(full).toBeCloseTo(1, 2);
    expect(half).toBeCloseTo(0.5, 2);
  });

  test('has the numbers in tables', async () => {
    const rows = (caption: string) =>
      page
        .locator('table', { has: page.locator('caption', { hasText: caption }) })
        .locator('tbody tr')
        .evaluateAll((all) =>
          all.map((row) => Array.from(row.children, (cell) => cell.textContent)),
        );
    const kept = await rows('the cheapest measured point that keeps');
    expect(kept[0]).toEqual([
      'Dynamic-k',
      `${formatCost(0.42)} ◂ (0.210)`,
      `${formatCost(0.42)} ◂ (0.210)`,
      `${formatCost(0.42)} ◂ (0.210)`,
    ]);
    const all = await rows('All measured points');
    const points = data.dynamicK.length + data.baselines.flatMap((curve) => curve.points).length;
    expect(all.length).toBe(1 + points);
    expect(all[2]).toEqual(['Dynamic-k', 'τ 0.1', '89.80 %', '0.6000', '0.3000']);
    expect(await rows('Experts executed per token')).toContainEqual([
      'layer 1',
      '4',
      '1.8',
      '1.0',
      '1',
      '1',
      '1',
      '2',
      '4',
    ]);
    expect((await rows('Shares of activations'))[0]).toEqual([
      'layer 0',
      '2 %',
      '93 %',
      '11 %',
      '97 %',
    ]);
    expect((await rows('Routers, by layer'))[1]).toEqual(['layer 1', '0.340', '81 %', '90 %']);
    expect((await rows('Milliseconds'))[1]).toEqual([
      'τ = 0.2',
      '6.00',
      '5.40',
      '7.20',
      '0.600',
      '0.420',
    ]);
    expect((await rows('By stage'))[0]?.slice(0, 3)).toEqual(['sparsify', '7', '1,234 s']);
    expect((await rows('One threshold for all'))[0]?.slice(-2)).toEqual(['+0.60 points', '0.010']);
  });

  test('changes its colours with the reader’s scheme, and keeps them readable', async () => {
    const colours = () =>
      page.evaluate(() => {
        const style = (selector: string) =>
          getComputedStyle(document.querySelector(selector) as Element);
        return {
          ground: style('body').backgroundColor,
          line: style('#cost-quality .series-dynamic-k path').stroke,
          baseline: style('#cost-quality .series-cats path').stroke,
          label: style('#cost-quality .label-cats').fill,
          axis: style('#cost-quality [aria-label="x-axis label"] text').fill,
        };
      });
    const light = await colours();
    await page.emulateMedia({ colorScheme: 'dark' });
    const dark = await colours();
    await page.emulateMedia({ colorScheme: 'light' });
    for (const [use, colour] of Object.entries(light)) {
      expect(dark[use as keyof typeof dark]).not.toBe(colour);
    }
    for (const { ground, ...others } of [light, dark]) {
      for (const colour of Object.values(others)) {
        expect(contrast(colour, ground)).toBeGreaterThan(4.5);
      }
    }
  });

  test('prints without a clipped figure or table', async () => {
    // A4 less its margins, at 96 pixels an inch.
    await page.setViewportSize({ width: 688, height: 1020 });
    await page.emulateMedia({ media: 'print' });
    const overflowing = await page.evaluate(() =>
      Array.from(document.querySelectorAll('figure svg, table'))
        .filter((element) => {
          const { left, right, width } = element.getBoundingClientRect();
          return width > 0 && (left < -0.5 || right > document.documentElement.clientWidth + 0.5);
        })
        .map((element) => element.parentElement?.id ?? element.textContent),
    );
    expect(overflowing).toEqual([]);
    const clipped = await page.evaluate(() =>
      Array.from(document.querySelectorAll('figure svg')).flatMap((svg) => {
        const frame = svg.getBoundingClientRect();
        return Array.from(svg.querySelectorAll('text'))
          .filter((text) => {
            const { left, right, top, bottom, width } = text.getBoundingClientRect();
            const outside =
              left < frame.left - 1 ||
              right > frame.right + 1 ||
              top < frame.top - 1 ||
              bottom > frame.bottom + 1;
            return width > 0 && outside;
          })
          .map((text) => `${svg.parentElement?.id}: ${text.textContent}`);
      }),
    );
    expect(clipped).toEqual([]);
    // Folded tables are open on paper, where nobody can unfold them.
    expect(
      await page.locator('caption', { hasText: 'Experts executed per token' }).isVisible(),
    ).toBe(true);
    expect((await page.pdf({ preferCSSPageSize: true })).length).toBeGreaterThan(10_000);
    await page.emulateMedia({ media: 'screen' });
    await page.setViewportSize({ width: 1100, height: 900 });
  });

  test('fits a telephone', async () => {
    await page.setViewportSize({ width: 390, height: 800 });
    expect(await page.evaluate(() => document.documentElement.scrollWidth)).toBe(390);
    await page.setViewportSize({ width: 1100, height: 900 });
  });

  test.each(names)('%s.svg opens by itself, light and dark', async (name) => {
    const own = await browser.newPage();
    await own.goto(pathToFileURL(join(folder, `${name}.svg`)).href);
    const found = await own.evaluate(() => ({
      root: document.documentElement.localName,
      title: document.querySelector('title')?.textContent,
      errors: document.querySelectorAll('parsererror').length,
      fill: getComputedStyle(document.documentElement).fill,
    }));
    await own.emulateMedia({ colorScheme: 'dark' });
    const dark = await own.evaluate(() => getComputedStyle(document.documentElement).fill);
    await own.close();
    expect(found).toMatchObject({ root: 'svg', title: await title(name), errors: 0 });
    expect(dark).not.toBe(found.fill);
  });
});

/** The contrast of two `rgb(…)` colours as WCAG defines it. */
function contrast(a: string, b: string): number {
  const luminance = (colour: string) => {
    const [red, green, blue] = (colour.match(/[\d.]+/g) as string[]).map((text) => {
      const value = Number(text) / 255;
      return value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
    }) as [number, number, number];
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
  };
  const [dark, light] = [luminance(a), luminance(b)].toSorted((x, y) => x - y) as [number, number];
  return (light + 0.05) / (dark + 0.05);
}
