import { type Figure, standalone } from './figure.js';
import { costQualityFigure } from './figures/cost-quality.js';
import { lollipopFigure, pairsFigure } from './figures/by-layer.js';
import { executedByLayerFigure } from './figures/executed-by-layer.js';
import { patchesFigure } from './figures/patches.js';
import { tokensFigure } from './figures/tokens.js';
import { wallClockFigure } from './figures/wall-clock.js';
import { comparisonSentences, headline, headlinePoint } from './findings.js';
import {
  formatCost,
  formatCount,
  formatLarge,
  formatPercent,
  formatRoughly,
  formatScore,
  formatSetting,
  siteLabel,
} from './format.js';
import { escape, table } from './html.js';
import { style } from './style.js';
import {
  allPointsTable,
  executedTable,
  gainsTable,
  keptTable,
  routersTable,
  settingsTables,
  sparsityTable,
  wallClockTable,
} from './tables.js';
import type { ReportData } from './types.js';

/** A report as files. */
export interface RenderedReport {
  /** The whole report: one file that needs no other and no script. */
  html: string;
  /** Its figures by file name, `cost-quality.svg`: each an SVG file of its own. */
  figures: Record<string, string>;
}

/** One part of the report. */
interface Section {
  id: string;
  title: string;
  /** HTML before the figures. */
  text: string;
  figures: { figure: Figure; caption: string }[];
  /** HTML after them. */
  tables: string;
}

/**
 * Renders a report of a conversion: a function of its data alone. Figures are inline SVG that follows the reader's
 * colour scheme; every figure has a table beside it; no line or mark is told from another by colour alone.
 */
export function renderReport(data: ReportData): RenderedReport {
  const sections = [
    curves(data),
    thresholds(data),
    executed(data),
    samples(data),
    wallClock(data),
    sparsity(data),
    routers(data),
    settings(data),
  ].filter((section) => section !== undefined);
  let number = 0;
  const body = sections
    .map(({ id, title, text, figures, tables }) => {
      const shown = figures.map(
        ({ figure, caption }) =>
          `<figure id="${figure.name}">${figure.svg}<figcaption><b>Figure ${++number}.</b> ${caption}</figcaption></figure>`,
      );
      return `<section aria-labelledby="${id}"><h2 id="${id}">${escape(title)}</h2>${text}${shown.join('')}${tables}</section>`;
    })
    .join('\n');
  const title = `${data.name}: ${headline(data)}`;
  const html = `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>${escape(title)}</title>
<link rel="icon" href="data:,">
<style>${style}</style>
</head>
<body>
<main>
${top(data)}
${body}
</main>
</body>
</html>
`;
  const figures = sections.flatMap((section) => section.figures.map(({ figure }) => figure));
  return {
    html,
    figures: Object.fromEntries(
      figures.map((figure) => [`${figure.name}.svg`, standalone(figure)]),
    ),
  };
}

function top(data: ReportData): string {
  const { dense, operatingPoints } = data;
  const point = headlinePoint(data);
  const scoreName = dense.score.name;
  const [first] = operatingPoints;
  const how = first
    ? `Its threshold${point?.tau === undefined ? 's were' : `, τ = ${formatSetting(point.tau)}, was`} ${first.chosen}.`
    : 'No operating point was calibrated; this one was picked on the data that it is measured on, which flatters it.';
  const facts: [string, string][] = [
    ...(point
      ? ([
          [formatRoughly(point.cost), 'of the dense model’s multiply-adds'],
          [
            formatRoughly(point.convertedCost),
            'of those of the converted layers, routers included',
          ],
          [formatScore(point.score), `${scoreName}, dense ${formatScore(dense.score)}`],
        ] satisfies [string, string][])
      : []),
    ...timeFact(data),
    [formatLarge(dense.multiplyAdds), 'multiply-adds of a sample, dense'],
  ];
  const description = facts
    .map(([figure, name]) => `<div><dt>${escape(name)}</dt><dd>${escape(figure)}</dd></div>`)
    .join('');
  const head = escape(headline(data)).replace(
    /\d[\d.,]*( %)?/g,
    (number) => `<b>${number.replace(' ', '\u00a0')}</b>`,
  );
  return `<header>
<p class="model"><strong>${escape(data.name)}</strong> · dense to dynamic-k mixture of experts</p>
<h1>${head}</h1>
<p class="lead">Measured on ${escape(data.data)}, ${formatCount(dense.samples)} samples. ${escape(how)}</p>
<dl class="facts">${description}</dl>
</header>`;
}

/** The time of the row whose cost is the headline's, if it was measured. */
function timeFact(data: ReportData): [string, string][] {
  const cost = headlinePoint(data)?.cost;
  const row = data.wallClock?.converted.find((other) => other.cost === cost);
  if (!data.wallClock || !row) return [];
  return [
    [
      formatRoughly(row.timing.median / data.wallClock.dense.median),
      'of the dense model’s wall-clock time on this device',
    ],
  ];
}

function curves(data: ReportData): Section {
  const { baselines, dense } = data;
  const findings = comparisonSentences(data);
  const list =
    findings.length === 0
      ? ''
      : `<ul class="findings">${findings.map((sentence) => `<li>${escape(sentence)}</li>`).join('')}</ul>`;
  const about =
    baselines.length === 0
      ? ''
      : `<details><summary>What the baselines do</summary><dl class="about">${baselines
          .map(
            ({ label, description }) => `<dt>${escape(label)}</dt><dd>${escape(description)}</dd>`,
          )
          .join('')}</dl></details>`;
  return {
    id: 'curves',
    title: 'Cost and quality',
    text: `<p>One converted model serves every point of its curve: the threshold τ is chosen when it runs. Costs are multiply-adds of matrix products, routers included, relative to the dense model on the same data.</p>${list}`,
    figures: [
      {
        figure: costQualityFigure(data, 'cost'),
        caption: `The whole model. The ring is the operating point of the headline; the dotted line is the dense model. Points further than 10 % from the dense ${dense.score.name} are in the table alone.`,
      },
      {
        figure: costQualityFigure(data, 'convertedCost'),
        caption: 'The same scores against the cost of the converted layers alone.',
      },
    ],
    tables: keptTable(data) + about + details('All points', allPointsTable(data), 'long'),
  };
}

function thresholds(data: ReportData): Section | undefined {
  const { gains, operatingPoints } = data;
  if (!gains?.length && operatingPoints.length < 2) return undefined;
  const points =
    operatingPoints.length < 2
      ? ''
      : table(
          'Operating points that the checkpoint stores, measured on the test data',
          ['name', 'threshold', data.dense.score.name, 'total cost', 'converted layers'],
          operatingPoints.map(({ name, point }) => [
            name,
            point.tau === undefined ? 'by layer' : `τ = ${formatSetting(point.tau)}`,
            formatScore(point.score),
            formatCost(point.cost),
            formatCost(point.convertedCost),
          ]),
        );
  return {
    id: 'thresholds',
    title: 'Operating points and thresholds by layer',
    text: gains?.length
      ? '<p>A budget can be met by one threshold for all layers or by one for each, both found on the calibration split. This is what either gives on data that neither has seen.</p>'
      : '',
    figures: [],
    tables: points + (gains?.length ? gainsTable(gains) : ''),
  };
}

function executed({ executed: sites }: ReportData): Section | undefined {
  if (!sites?.length) return undefined;
  return {
    id: 'executed',
    title: 'Experts executed, layer by layer',
    text: '<p>The number of experts is not fixed: easy tokens run few, hard ones many, and layers differ in how many they need.</p>',
    figures: [
      {
        figure: executedByLayerFigure(sites),
        caption:
          'The distribution over tokens at the headline’s operating point. Thin bar: 5th to 95th percentile; thick bar: the middle half of the tokens; ring: the median. Each layer’s outline is scaled to the same height.',
      },
    ],
    tables: details('Experts executed, as a table', executedTable(sites)),
  };
}

function samples({ images, texts }: ReportData): Section | undefined {
  if (!images?.length && !texts?.length) return undefined;
  const figures = [
    ...(images?.length
      ? [
          {
            figure: patchesFigure(images),
            caption:
              'Pictures beside the experts that their patches execute, mean over layers. The area and the shade of a patch’s square both say how many.',
          },
        ]
      : []),
    ...(texts?.length
      ? [
          {
            figure: tokensFigure(texts),
            caption:
              'Tokens shaded by the share of experts that they execute, mean over layers. The bar below a token says the same by its length: a bar as wide as its token is the greatest share shown.',
          },
        ]
      : []),
  ];
  const shares = (name: string, list: readonly { executed: readonly number[] }[]) =>
    table(
      `Share of experts executed, by ${name}`,
      ['sample', 'mean', 'least', 'greatest'],
      list.map(({ executed: own }, i) => [
        `${i + 1}`,
        formatPercent(own.reduce((sum, share) => sum + share, 0) / own.length),
        formatPercent(Math.min(...own)),
        formatPercent(Math.max(...own)),
      ]),
    );
  return {
    id: 'samples',
    title: 'Where the work goes',
    text: '<p>The first samples of the test data, at the headline’s operating point.</p>',
    figures,
    tables: details(
      'Samples, as a table',
      (images?.length ? shares('patch', images) : '') +
        (texts?.length ? shares('token', texts) : ''),
    ),
  };
}

function wallClock(data: ReportData): Section | undefined {
  const { wallClock: clock } = data;
  if (!clock?.converted.length) return undefined;
  const faster = clock.converted.filter(({ timing }) => timing.median < clock.dense.median);
  const best = clock.converted.reduce((a, b) => (b.timing.median < a.timing.median ? b : a));
  const ratio = best.timing.median / clock.dense.median;
  const verdict =
    faster.length === 0
      ? `On this device the saved multiply-adds do not become saved time: at best, at ${best.label}, a pass takes ${formatRoughly(ratio)} of the dense model’s time for ${formatRoughly(best.cost)} of its multiply-adds.`
      : `At ${best.label} a pass takes ${formatRoughly(ratio)} of the dense model’s time for ${formatRoughly(best.cost)} of its multiply-adds.`;
  return {
    id: 'time',
    title: 'Wall-clock time',
    text: `<p>Multiply-adds are arithmetic; time is a matter of the device. Measured on ${escape(clock.device)}; one pass is ${escape(clock.batch)}. ${escape(verdict)}</p>`,
    figures: [
      {
        figure: wallClockFigure(clock),
        caption:
          'Squares: median time of a pass, with a line from the fastest to the slowest run. Diamonds: multiply-adds on the test data. Dense and converted runs took turns; the dense model runs as it was, with its own activation.',
      },
    ],
    tables: wallClockTable(clock),
  };
}

function sparsity({ sparsity: sites }: ReportData): Section | undefined {
  if (!sites?.length) return undefined;
  const pairs = (share: 'zero' | 'belowHundredth') =>
    sites.map(({ site, before, after }) => ({ site, hollow: before[share], filled: after[share] }));
  return {
    id: 'sparsity',
    title: 'Activation sparsity, before and after',
    text: '<p>Experts can be left out because most activations of a layer do nothing for a given token. Fine-tuning with a sparsity term makes that so.</p>',
    figures: [
      {
        figure: pairsFigure(
          {
            name: 'activation-sparsity',
            title: 'Activation sparsity by layer, before and after',
            description: sites
              .map(
                ({ site, before, after }) =>
                  `${siteLabel(site)}: ${formatPercent(before.zero, 0)} of the activations zero before, ${formatPercent(after.zero, 0)} after`,
              )
              .join('; '),
          },
          { hollow: 'before', filled: 'after' },
          [
            { title: 'activations that are exactly zero', pairs: pairs('zero') },
            {
              title: 'below a hundredth of their token’s greatest',
              pairs: pairs('belowHundredth'),
            },
          ],
        ),
        caption:
          'Shares of each layer’s activations, mean over tokens: of the dense model (hollow) and after the sparsifying fine-tuning (filled).',
      },
    ],
    tables: details('Activation sparsity, as a table', sparsityTable(sites)),
  };
}

function routers({ routers: sites }: ReportData): Section | undefined {
  if (!sites?.length) return undefined;
  return {
    id: 'routers',
    title: 'Routers',
    text: '<p>A router predicts the norm of each expert’s output. What matters is that the experts that it selects hold most of what all experts would have contributed.</p>',
    figures: [
      {
        figure: pairsFigure(
          {
            name: 'router-captured',
            title: 'Contribution held by the selected experts, by layer',
            description: sites
              .map(
                ({ site, captured, attainable }) =>
                  `${siteLabel(site)}: ${formatPercent(captured)} captured of ${formatPercent(attainable)} attainable`,
              )
              .join('; '),
          },
          { hollow: 'attainable', filled: 'captured' },
          [
            {
              title: 'share of the contribution norms held by the selected experts',
              pairs: sites.map(({ site, captured, attainable }) => ({
                site,
                hollow: attainable,
                filled: captured,
              })),
            },
          ],
        ),
        caption:
          'Filled: what the experts that the router selects hold of the sum of all experts’ true output norms. Hollow: what as many experts per token hold where they are chosen by their true norms. Both on the inputs of the dense run, at the headline’s operating point.',
      },
      {
        figure: lollipopFigure(
          {
            name: 'router-error',
            title: 'Relative error of the routers, by layer',
            description: sites
              .map(({ site, relativeError }) => `${siteLabel(site)}: ${relativeError.toFixed(2)}`)
              .join('; '),
          },
          'relative error of the predicted norms',
          sites.map(({ site, relativeError }) => ({ site, value: relativeError })),
        ),
        caption:
          'Root of the squared errors of the predicted norms over that of the squared norms: 0 is perfect, 1 is as good as predicting nothing.',
      },
    ],
    tables: routersTable(sites),
  };
}

function settings({ settings: stages }: ReportData): Section | undefined {
  if (stages.length === 0) return undefined;
  return {
    id: 'settings',
    title: 'Settings and seeds',
    text: '<p>What it takes to make these figures again.</p>',
    figures: [],
    tables: settingsTables(stages),
  };
}

/** What is folded on the screen and open in print, except what is `long`. */
const details = (summary: string, content: string, kind: 'short' | 'long' = 'short') =>
  `<details class="${kind}"><summary>${escape(summary)}</summary>${content}</details>`;
