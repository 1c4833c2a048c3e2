import { execFileSync, spawnSync } from 'node:child_process';
import { cpSync, existsSync, mkdtempSync, readdirSync, rmSync, symlinkSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { delimiter, join } from 'node:path';
import { afterAll, expect, test } from 'vitest';
import { root } from './paths.mjs';

const copy = mkdtempSync(join(tmpdir(), 'd2dmoe-new-'));
afterAll(() => rmSync(copy, { recursive: true }));

/** Runs a command in the copy; returns its exit code and what it said. */
function inCopy(command: string, ...args: string[]) {
  const PATH = [join(root, 'node_modules/.bin'), process.env['PATH']].join(delimiter);
  const { status, stdout, stderr } = spawnSync(command, args, {
    cwd: copy,
    env: { ...process.env, PATH },
    encoding: 'utf8',
    shell: process.platform === 'win32',
  });
  return { status, said: `${stdout}${stderr}` };
}

const passed = { status: 0, said: expect.any(String) as string };
const create = (...args: string[]) =>
  inCopy(
    process.execPath,
    '--input-type=module',
    '--eval',
    `import { create } from './tools/workspace/new.mjs'; await create(${JSON.stringify(args)});`,
  );

test('a new package and a new kernel build and pass lint, format and tests as they are', () => {
  // The files of the repository, with the dependencies that are installed here.
  const files = execFileSync('git', ['ls-files', '--cached', '--others', '--exclude-standard'], {
    cwd: root,
    encoding: 'utf8',
  });
  for (const file of files.trim().split('\n')) {
    if (existsSync(join(root, file))) cpSync(join(root, file), join(copy, file));
  }
  const folders = ['packages', 'apps', 'tools'].flatMap((parent) =>
    readdirSync(join(root, parent)).map((name) => `${parent}/${name}`),
  );
  for (const folder of ['', ...folders]) {
    const modules = join(root, folder, 'node_modules');
    if (existsSync(modules) && existsSync(join(copy, folder))) {
      symlinkSync(modules, join(copy, folder, 'node_modules'), 'junction');
    }
  }

  expect(create('package', 'half-life')).toEqual(passed);
  expect(create('kernel', 'half-life')).toEqual(passed);
  symlinkSync(
    join(root, 'packages/clustering/node_modules'),
    join(copy, 'packages/half-life/node_modules'),
    'junction',
  );
  const kernel = 'packages/backend-cuda/src/kernels/half-life.ts';
  expect(inCopy('tsc', '-b', 'packages/half-life', 'packages/backend-cuda')).toEqual(passed);
  const linted = ['packages/half-life', kernel, 'packages/backend-cuda/src/register.ts'];
  expect(inCopy('oxlint', '--type-aware', '--deny-warnings', ...linted)).toEqual(passed);
  const formatted = [...linted, '.changeset', 'tools/workspace/imports.test.ts'];
  expect(inCopy('biome', 'format', ...formatted)).toEqual(passed);
  // The kernel's own test would build the whole emulator in the copy, which takes minutes.
  const tests = ['packages/half-life', 'tools/workspace/imports', 'tools/workspace/docs'];
  expect(inCopy('vitest', 'run', ...tests)).toEqual(passed);

  expect(create('package', 'half-life')).toMatchObject({
    status: 2,
    said: expect.stringContaining('is there already') as string,
  });
}, 300_000);

test('anything else is answered with the usage', () => {
  expect(create('package', 'Half Life')).toMatchObject({
    status: 2,
    said: expect.stringContaining('usage: npm run new') as string,
  });
});
