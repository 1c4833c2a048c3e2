import { spawnSync } from 'node:child_process';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { workspacePackages } from './documents.js';
import { root } from './paths.mjs';

const release = (...args: string[]) =>
  spawnSync(process.execPath, [join(root, 'tools/run.mjs'), 'release', ...args], {
    cwd: root,
    encoding: 'utf8',
  });

test('a dry run shows the next version of every package', () => {
  const { stdout } = release('--dry-run');
  for (const { manifest } of workspacePackages) {
    expect(stdout).toMatch(new RegExp(`^${manifest.name} .* kB {2}\\d+ files$`, 'm'));
  }
  expect(stdout).toContain('Nothing was published.');
}, 120_000);

test('anything else is answered with the usage', () => {
  expect(release('--publish')).toMatchObject({
    status: 2,
    stderr: expect.stringContaining('usage: npm run release') as string,
  });
});
