import { readdir, readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import type { CurveJson } from '@d2dmoe/evaluation';
import { dynamicConfig } from '@d2dmoe/models';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { runBuilt } from '../testing/command.js';
import { putCheckpoint, putData, temporaryFolder } from '../testing/tiny.js';
import { classify, convert, loadModel, useDevice } from './index.js';

let folder: string;
/** Costs of one expert per token and of all of them. */
let least: number;
let most: number;

beforeAll(async () => {
  folder = await temporaryFolder(true);
  await useDevice();
  await putCheckpoint(join(folder, 'dense'), 'bert');
  await putData(join(folder, 'data'), 'bert');
  const { curve } = await convert({
    input: join(folder, 'dense'),
    output: join(folder, 'moe'),
    data: { directory: join(folder, 'data'), seed: 0 },
    seed: 0,
    settings: {
      // The dense model has learned nothing that it could teach.
      sparsify: { steps: 30, batchSize: 8, distill: 0 },
      // By weights, this model scores better the more it executes. Of a cost less is spent where that scores better.
      split: { expertSize: 2, by: 'weights' },
      route: { steps: 60, batchSize: 8, width: 8 },
      finetune: { steps: 0 },
      taus: [0, 1],
      budgets: [{ keep: 0.01 }],
    },
  });
  [most, least] = curve.points.map(({ cost }) => cost) as [number, number];
});
afterAll(() => rm(folder, { recursive: true }));

const run = (...args: string[]) => runBuilt(args, { cwd: folder });
const calibrate = (out: string, ...args: string[]) =>
  run('calibrate', 'moe', '--dense', 'dense', '--data', 'data', '--out', out, ...args);

const thresholds = [
  ['--per-layer', ['object', 'number']],
  ['--no-per-layer', ['number']],
] as const;

test.each(thresholds)('calibrate %s meets costs', async (perLayer, types) => {
  const budgets = [0.3, 0.7].map((share) => Number((least + share * (most - least)).toFixed(3)));
  const out = `calibrated${perLayer}`;
  const args = ['--cost', budgets.join(','), '--keep', '0.02', '--json', 'curve.json', perLayer];
  const { code, stdout, stderr } = await calibrate(out, ...args);
  expect({ code, stderr }).toMatchObject({ code: 0 });
  const names = ['keep-0.02', ...budgets.map((cost) => `cost-${cost}`)];
  for (const name of names) {
    expect(stdout).toMatch(new RegExp(`^  ${name} +accuracy 0\\.\\d{4} at`, 'm'));
  }
  const model = await loadModel(join(folder, out));
  const { tau, calibration } = dynamicConfig(model) ?? {};
  model.dispose();
  const points = calibration?.operating_points ?? {};
  expect(Object.keys(points)).toEqual(names);
  expect(points['keep-0.02']?.tau).toEqual(tau);
  for (const cost of budgets) {
    const point = points[`cost-${cost}`];
    expect(types).toContain(typeof point?.tau);
    expect(Math.abs((point?.cost as number) - cost) / cost).toBeLessThan(0.02);
  }
  // What was reached on the test split, which is other data: 40 short texts, so within a tenth.
  const curve = JSON.parse(await readFile(join(folder, 'curve.json'), 'utf8')) as CurveJson;
  expect(curve.operating_points?.map(({ name }) => name)).toEqual(names);
  for (const [i, cost] of budgets.entries()) {
    const reached = curve.operating_points?.[i + 1]?.point.cost as number;
    expect(Math.abs(reached - cost) / cost).toBeLessThan(0.1);
  }

  // A command that runs the model takes a stored point, or looks another budget up.
  const inputs = Array.from({ length: 8 }, (_, i) => `w${i} w${2 * i} w${3 * i}`);
  const checkpoint = join(folder, out);
  const cost = async (selection: object) =>
    (await classify({ checkpoint, inputs, ...selection })).cost;
  const [dear, cheap] = [budgets[1] as number, budgets[0] as number];
  const named = await cost({ point: `cost-${cheap}` });
  expect(await cost({ point: `cost-${dear}` })).toBeGreaterThan(named);
  expect(await cost({})).toBe(await cost({ point: 'keep-0.02' }));
  const middle = await cost({ cost: (dear + cheap) / 2 });
  expect(middle).toBeGreaterThan(await cost({ cost: least * 1.001 }));
  // A budget is not spent where spending more gives no better loss.
  expect(middle).toBeLessThanOrEqual(await cost({ cost: 5 }));
  expect(middle).toBeLessThan(await cost({ tau: 0 }));
  expect(await cost({ keep: 0.02 })).toBeLessThan(await cost({ tau: 0 }));
});

test('inspect lists the operating points', async () => {
  const { stdout } = await run('inspect', 'moe');
  expect(stdout).toMatch(/^ {4}keep-0\.01: accuracy 0\.\d{4} at [01]\.\d{3} of the dense cost$/m);
});

test.each<[string[], string, RegExp]>([
  [['--keep', '1.2'], 'USAGE', /--keep must be a number from 0\.001 to 1, not "1\.2"/],
  [['--cost', '0.001'], 'BUDGET_UNREACHABLE', /error: A cost of 0\.001 .* cost 0\.\d{3} of/],
])('calibrate %o is one sentence, %s', async (args, code, sentence) => {
  const outcome = await calibrate('none', ...args);
  expect(outcome.code).toBe(2);
  expect(outcome.stderr).toMatch(sentence);
  expect(outcome.stderr).toMatch(new RegExp(`^error: [^\\n]+ \\[${code}\\]$`, 'm'));
});

test.each<[string, string[], string, RegExp]>([
  ['moe', ['--cost', '0.5', '--tau', '0.1'], 'SELECTION_INVALID', /cost and tau each say how/],
  ['moe', ['--point', 'fast'], 'SELECTION_INVALID', /no operating point "fast"; it has keep-0\.01/],
  ['moe', ['--cost', '0.001'], 'BUDGET_UNREACHABLE', /A cost of 0\.001 cannot be reached/],
  ['moe/stages/route', ['--keep', '0.9'], 'NOT_CALIBRATED', /run d2dmoe calibrate on it first/],
  ['moe/stages/route', ['--point', 'fast'], 'SELECTION_INVALID', /stores no operating points/],
  ['dense', ['--keep', '0.9'], 'NOT_CONVERTED', /or leave keep out/],
])('classify %s %o is one sentence, %s', async (checkpoint, args, code, sentence) => {
  const outcome = await run('classify', checkpoint, 'w1', ...args);
  expect(outcome).toMatchObject({ code: 2, stdout: '' });
  expect(outcome.stderr).toMatch(sentence);
  expect(outcome.stderr).toMatch(new RegExp(`^error: [^\\n]+ \\[${code}\\]\\n$`));
});

test('evaluate draws baselines beside the curve, each a stage that is not done twice', async () => {
  const args = ['evaluate', 'moe', '--dense', 'dense', '--data', 'data', '--out', 'compared'];
  const given = [...args, '--tau', '0,0.5', '--baselines', 'topK,oracle,earlyExit'];
  const first = await run(...given, '--baseline-steps', '4');
  expect(first).toMatchObject({ code: 0 });
  expect(await readdir(join(folder, 'compared', 'baselines'))).toEqual(
    ['earlyExit', 'oracle', 'topK']
      .flatMap((name) => [`baseline-${name}.stage.json`, `${name}.json`])
      .toSorted(),
  );
  const html = await readFile(join(folder, 'compared', 'report.html'), 'utf8');
  for (const label of ['Fixed k', 'Oracle (a bound)', 'Early exit']) expect(html).toContain(label);
  const again = await run(...given, '--baseline-steps', '4');
  expect(again.stderr.match(/^[\w-]+: skipped/gm)).toEqual(
    ['evaluate', 'baseline-topK', 'baseline-oracle', 'baseline-earlyExit'].map(
      (name) => `${name}: skipped`,
    ),
  );
  const unknown = await run(...args, '--baselines', 'magic');
  expect(unknown.code).toBe(2);
  expect(unknown.stderr).toMatch(/--baselines must be one of .*topK/);
});
