import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmdirSync } from 'node:fs';
import { cp, mkdir, readdir, readFile, rm, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { Random } from '@d2dmoe/core';
import { openSafetensors } from '@d2dmoe/safetensors';
import { fileSource } from '@d2dmoe/safetensors/node';
import { afterAll, beforeAll, expect, test, vi } from 'vitest';
import { type Outcome, runBuilt, type RunOptions } from '../testing/command.js';
import { putCheckpoint, putData, temporaryFolder } from '../testing/tiny.js';
import type { StageRecord } from './stages/stage.js';

const fullDisk = fileURLToPath(new URL('../testing/full-disk.mjs', import.meta.url));
// Each run of the command takes about a second, and more where the machine is busy.
vi.setConfig({ testTimeout: 300_000, hookTimeout: 300_000 });

const steps = 20;
let folder: string;
/** Every file that an undisturbed conversion leaves in its folder, by path, but for the report. */
let undisturbed: Map<string, Buffer>;

beforeAll(async () => {
  folder = await temporaryFolder(true);
  await putCheckpoint(join(folder, 'dense'), 'bert');
  await putData(join(folder, 'data'), 'bert');
  await finish('undisturbed');
  undisturbed = await contents('undisturbed');
});
afterAll(() => rm(folder, { recursive: true }));

/** The curve names the model by its folder, which must be called the same everywhere. */
const moe = (out: string) => join(folder, out, 'moe');

function convert(out: string, options: RunOptions = {}, more: string[] = []): Promise<Outcome> {
  const settings = [
    '--steps',
    steps,
    '--finetune-steps',
    steps,
    '--batch-size',
    8,
    '--expert-size',
    2,
    '--tau',
    '0,0.2,0.5',
  ];
  const routers = ['--router-steps', steps, '--router-batch-size', 8, '--router-width', 8];
  const args = ['dense', '--data', 'data', '--out', moe(out), '--save-every', options.env ? 30 : 0];
  const all = [...args, ...settings, ...routers, ...more].map(String);
  return runBuilt(['convert', ...all], { ...options, cwd: folder });
}

async function finish(out: string, more: string[] = []): Promise<Outcome> {
  const outcome = await convert(out, {}, more);
  expect(outcome.stderr).not.toContain('error');
  expect(outcome.code).toBe(0);
  return outcome;
}

/** Stage records hold how long it took, which is all that may differ. */
function withoutSeconds(path: string, bytes: Buffer): Buffer {
  if (!path.endsWith('.stage.json')) return bytes;
  const record = JSON.parse(bytes.toString()) as StageRecord;
  return Buffer.from(JSON.stringify({ ...record, seconds: 0 }));
}

async function contents(out: string): Promise<Map<string, Buffer>> {
  const paths = (await readdir(moe(out), { recursive: true })).sort();
  const files = new Map<string, Buffer>();
  for (const path of paths) {
    // It shows what was timed.
    if (path === 'report.html' || path.startsWith('figures')) continue;
    const full = join(moe(out), path);
    if ((await stat(full)).isFile()) files.set(path, withoutSeconds(path, await readFile(full)));
  }
  return files;
}

/** The names first: they say more than a difference of bytes. */
function expectSame(files: Map<string, Buffer>, expected = undisturbed): void {
  expect([...files.keys()]).toEqual([...expected.keys()]);
  const different = [...files].filter(([path, bytes]) => !expected.get(path)?.equals(bytes));
  expect(different.map(([path]) => path)).toEqual([]);
}

/** Opens every file under its final name, and reads it to its end. */
async function expectWhole(out: string): Promise<void> {
  for (const [path, bytes] of await contents(out)) {
    if (path.endsWith('.json')) JSON.parse(bytes.toString());
    if (!path.endsWith('.safetensors') || path.includes('.tmp')) continue;
    const file = await openSafetensors(await fileSource(join(moe(out), path)));
    for (const name of file.tensors.keys()) await file.readFloat32(name);
    await file.close();
  }
}

/** Sends the signal once, `delay` milliseconds after the stage has said that it begins. */
function whenStarted(
  stage: string,
  signal: NodeJS.Signals,
  delay = 0,
): NonNullable<RunOptions['onStderr']> {
  let sent = false;
  return (text, kill) => {
    if (sent || !text.includes(`${stage}: started`)) return;
    sent = true;
    setTimeout(() => kill(signal), delay);
  };
}

test('the result of an undisturbed run has no leftovers', () => {
  expect([...undisturbed.keys()]).toEqual(
    [
      'calibrate.stage.json',
      'config.json',
      'curve.json',
      'evaluate.stage.json',
      'model.safetensors',
      'tokenizer.json',
      'calibration.json',
      ...['sparsify', 'split', 'route', 'finetune'].flatMap((stage) =>
        [`${stage}.stage.json`, 'config.json', 'model.safetensors', 'tokenizer.json'].map(
          (file) => `stages/${stage}/${file}`,
        ),
      ),
    ].sort(),
  );
});

test('killed again and again, in every stage, it ends as an undisturbed run does', async () => {
  const random = new Random(Date.now());
  for (const stage of [
    'sparsify',
    'sparsify',
    'split',
    'route',
    'route',
    'finetune',
    'finetune',
    'calibrate',
    'evaluate',
  ]) {
    const training = ['sparsify', 'route', 'finetune'].includes(stage);
    const delay = random.integer(training ? 150 : 20);
    const { signal, stderr } = await convert('killed', {
      onStderr: whenStarted(stage, 'SIGKILL', delay),
    });
    expect({ stage, delay, signal, stderr }).toMatchObject({ signal: 'SIGKILL' });
    await expectWhole('killed');
  }
  await finish('killed');
  expectSame(await contents('killed'));
});

test.each(['sparsify', 'route', 'finetune'])(
  'Ctrl-C in %s: it goes on where it was',
  async (stage) => {
    const { code, stderr } = await convert(stage, {
      onStderr: (text, kill) => {
        // Not at the first step, so that there is something to go on from.
        if (text.includes(`${stage}: 10 %`) && !text.includes('stopping')) kill('SIGINT');
      },
    });
    expect(code).toBe(130);
    expect(stderr).toContain('press Ctrl-C again');
    const stopped = Number(
      new RegExp(`Stopped in stage ${stage} at step (\\d+) of ${steps}`).exec(stderr)?.[1],
    );
    expect(stopped).toBeGreaterThan(0);
    await expectWhole(stage);

    const resumed = await finish(stage);
    expect(resumed.stderr).toContain(`${stage}: started, from step ${stopped}\n`);
    expectSame(await contents(stage));
  },
);

test('Ctrl-C in stages that take few steps', async () => {
  for (const stage of ['split', 'calibrate', 'evaluate']) {
    const { code, stderr } = await convert('short', { onStderr: whenStarted(stage, 'SIGINT') });
    expect({ code, stderr }).toMatchObject({ code: 130 });
    await expectWhole('short');
  }
  await finish('short');
  expectSame(await contents('short'));
});

async function times(out: string): Promise<[string, number][]> {
  const paths = [...(await contents(out)).keys()];
  return Promise.all(
    paths.map(
      async (path) => [path, (await stat(join(moe(out), path))).mtimeMs] as [string, number],
    ),
  );
}

test('what is done is skipped; a changed setting runs its stage and those after it', async () => {
  const before = await times('undisturbed');
  const again = await finish('undisturbed');
  const skipped = ({ stderr }: Outcome) =>
    Array.from(stderr.matchAll(/^(\w+): skipped/gm), ([, stage]) => stage);
  const stages = ['sparsify', 'split', 'route', 'finetune', 'calibrate', 'evaluate'];
  expect(skipped(again)).toEqual(stages);
  expect(await times('undisturbed')).toEqual(before);

  await cp(moe('undisturbed'), moe('changed'), { recursive: true, preserveTimestamps: true });
  const kept = (await times('changed')).filter(([path]) => /stages\/(sparsify|split)/.test(path));
  const changed = await finish('changed', ['--router-width', '6']);
  expect(skipped(changed)).toEqual(['sparsify', 'split']);
  expect(await times('changed')).toEqual(expect.arrayContaining(kept));

  // Back again, as if nothing had been.
  await finish('changed', ['--router-width', '8']);
  expectSame(await contents('changed'));
});

/** Whether `folder` can be given a disk of its own, which takes Linux and root. */
const canMount = (() => {
  const probe = mkdtempSync(join(tmpdir(), 'd2dmoe-mount-'));
  try {
    if (spawnSync('mount', ['-t', 'tmpfs', '-o', 'size=64k', 'tmpfs', probe]).status !== 0) {
      return false;
    }
    spawnSync('umount', [probe]);
    return true;
  } finally {
    rmdirSync(probe);
  }
})();

/** What must hold where the disk was full. */
async function expectDiskFull({ code, stderr }: Outcome, out: string): Promise<void> {
  expect({ code, stderr }).toMatchObject({ code: 1 });
  const lines = stderr.trimEnd().split('\n');
  expect(lines.filter((line) => line.includes('error'))).toEqual([lines.at(-1)]);
  expect(lines.at(-1)).toMatch(/^error: .*full.* because the disk is full; .* \[DISK_FULL\]$/);
  expect([...(await contents(out)).keys()].filter((path) => path.includes('.tmp'))).toEqual([]);
  await expectWhole(out);
}

test('a disk that is full after every stage or so: nothing is lost, nothing is left', async () => {
  // Room for the files of one stage, and for the report: each run goes one stage further.
  const env = { D2DMOE_TEST_DISK_BYTES: '175000' };
  let failures = 0;
  let outcome = await convert('full', { env, node: ['--import', fullDisk] });
  while (outcome.code !== 0 && failures < 10) {
    failures++;
    await expectDiskFull(outcome, 'full');
    outcome = await convert('full', { env, node: ['--import', fullDisk] });
  }
  expect(outcome.code).toBe(0);
  expect(failures).toBeGreaterThanOrEqual(3);
  expectSame(await contents('full'));
});

test.skipIf(!canMount)('a disk that is really full (needs Linux and root)', async () => {
  const disk = join(folder, 'full-tmpfs');
  const mount = (options: string) =>
    expect(spawnSync('mount', ['-t', 'tmpfs', '-o', options, 'tmpfs', disk]).status).toBe(0);
  await mkdir(disk);
  mount('size=300k');
  try {
    await expectDiskFull(await convert('full-tmpfs'), 'full-tmpfs');
    mount('remount,size=10m');
    await finish('full-tmpfs');
    expectSame(await contents('full-tmpfs'));
  } finally {
    expect(spawnSync('umount', [disk]).status).toBe(0);
  }
});

test('another seed gives other weights', async () => {
  await finish('seed', ['--seed', '1']);
  const other = await contents('seed');
  expect([...other.keys()]).toEqual([...undisturbed.keys()]);
  for (const stage of ['sparsify', 'split', 'route']) {
    const path = `stages/${stage}/model.safetensors`;
    expect(other.get(path)?.equals(undisturbed.get(path) as Buffer)).toBe(false);
  }
});
