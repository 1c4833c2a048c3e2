import { readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { runBuilt } from '../../testing/command.js';
import { temporaryFolder } from '../../testing/tiny.js';
import type { DemoResult } from './demo.js';

const reportUsage = fileURLToPath(new URL('../../testing/report-usage.mjs', import.meta.url));
const mostSeconds = 300;

let folder: string;
beforeAll(async () => {
  folder = await temporaryFolder(true);
});
afterAll(() => rm(folder, { recursive: true }));

test('the demo: a good dense model, and 97 % of it at 0.6 of the cost', {
  timeout: 1_800_000,
}, async () => {
  const started = performance.now();
  const { code, stdout, stderr } = await runBuilt(['demo', '--json', 'result.json'], {
    cwd: folder,
    node: ['--import', reportUsage],
    env: { D2DMOE_TEST_USAGE_FILE: join(folder, 'usage') },
  });
  const seconds = (performance.now() - started) / 1000;
  expect({ code, stderr }).toMatchObject({ code: 0 });
  // Where other work slows the demo down, its CPU time says how long it would have taken alone.
  const cpuSeconds = Number(await readFile(join(folder, 'usage'), 'utf8'));
  expect(Math.min(seconds, cpuSeconds)).toBeLessThan(mostSeconds);

  const result = JSON.parse(await readFile(join(folder, 'result.json'), 'utf8')) as DemoResult;
  const curve: unknown = JSON.parse(
    await readFile(join(folder, 'demo', 'converted', 'curve.json'), 'utf8'),
  );
  expect(result.curve).toEqual(curve);
  const { dense, score } = result.curve;
  expect(score.name).toBe('accuracy');
  expect(dense.score).toBeGreaterThanOrEqual(0.9);
  const named = result.curve.operating_points ?? [];
  expect(named.map(({ name }) => name)).toEqual(['keep-0.99', 'keep-0.97', 'keep-0.95']);
  for (const { name, point } of named) {
    const kept = Number(name.replace('keep-', '')) * dense.score;
    // Chosen on 1,000 images and measured on 1,000 others: three standard errors of the difference.
    const noise = 3 * Math.sqrt((2 * kept * (1 - kept)) / 1000);
    expect(point.score).toBeGreaterThanOrEqual(kept - noise);
    expect(stdout).toContain(`${name}  accuracy ${point.score.toFixed(4)}`);
  }
  const [first] = named;
  expect(first?.point.score).toBeGreaterThanOrEqual(0.97 * dense.score);
  expect(first?.point.cost).toBeLessThanOrEqual(0.6);

  const again = await runBuilt(['demo'], { cwd: folder });
  const stages = ['train', 'sparsify', 'split', 'route', 'finetune', 'calibrate', 'evaluate'];
  expect(again.stderr.match(/^\w+: skipped/gm)).toEqual(stages.map((name) => `${name}: skipped`));
});
