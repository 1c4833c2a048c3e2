import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { ModelType } from '@d2dmoe/models';
import { beforeAll, expect, test } from 'vitest';
import { putCheckpoint, putData, temporaryFolder } from '../../testing/tiny.js';
import { convert, evaluate, useDevice } from '../index.js';

beforeAll(() => useDevice());

const samplesFigure: [ModelType, string][] = [
  ['vit', 'patches.svg'],
  ['bert', 'tokens.svg'],
  ['gpt2', 'tokens.svg'],
];

test.each(samplesFigure)('a conversion of %s leaves a report', async (type, figure) => {
  const folder = await temporaryFolder();
  const input = join(folder, 'dense');
  const output = join(folder, 'converted');
  const data = { directory: join(folder, 'data'), seed: 3 };
  await putCheckpoint(input, type);
  await putData(data.directory, type);
  const statuses: string[] = [];
  const options = {
    input,
    output,
    data,
    seed: 3,
    settings: {
      sparsify: { steps: 2, batchSize: 4 },
      split: { expertSize: 8 },
      route: { steps: 2, batchSize: 4, width: 8 },
      taus: [0, 0.5],
      budgets: [{ keep: 0.5 }],
    },
    onProgress: ({ status, name }: { status: string; name: string }) =>
      name === 'report' && statuses.push(status),
  };
  await convert(options);
  expect(statuses).toEqual(['initiate', 'done']);
  expect((await readdir(join(output, 'figures'))).toSorted()).toEqual(
    [
      'activation-sparsity.svg',
      'cost-quality-converted.svg',
      'cost-quality.svg',
      'executed-by-layer.svg',
      'router-captured.svg',
      'router-error.svg',
      'wall-clock.svg',
      figure,
    ].toSorted(),
  );
  const html = await readFile(join(output, 'report.html'), 'utf8');
  expect(html).toContain('chosen on the validation split for 50 % of the dense');
  for (const stage of ['sparsify', 'split', 'route', 'calibrate', 'evaluate']) {
    expect(html).toContain(`<th scope="row">${stage}</th><td>3</td>`);
  }
  expect(html).not.toMatch(/NaN|undefined/);

  // What is there and up to date stays.
  await convert(options);
  expect(statuses).toEqual(['initiate', 'done']);

  const evaluation = {
    input: output,
    output: join(folder, 'evaluation'),
    dense: input,
    data,
    seed: 3,
    rules: [{ rule: 'threshold', value: 0.2 }] as const,
  };
  await evaluate({ ...evaluation, report: join(folder, 'report') });
  expect(await readdir(join(folder, 'report'))).toEqual(['figures', 'report.html']);
  await expect(evaluate({ ...evaluation, report: join(folder, 'report') })).rejects.toMatchObject({
    code: 'REPORT_EXISTS',
    message: `The report folder ${join(folder, 'report')} exists already; name a new one, or remove it first.`,
  });
});
