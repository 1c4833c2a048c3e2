import { createHash } from 'node:crypto';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { requireSuccess, run } from './children.mjs';
import { root } from './paths.mjs';

/** Installs the dependencies, unless those of exactly this lockfile are in place. */
export async function install() {
  const lockfile = createHash('sha256').update(readFileSync(join(root, 'pnpm-lock.yaml')));
  const wanted = lockfile.digest('hex');
  const stamp = join(root, 'node_modules', '.d2dmoe-install');
  if (existsSync(stamp) && readFileSync(stamp, 'utf8') === wanted) return;

  /** @type {{ packageManager: string }} */
  const { packageManager } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'));
  console.error(`Installing the dependencies with ${packageManager} …`);
  // A node_modules that npm made is replaced without a question.
  const args = ['install', '--frozen-lockfile', '--config.confirmModulesPurge=false'];
  requireSuccess(
    await run('npx', ['--yes', packageManager, ...args], { stdoutToStderr: true }),
    'the dependencies could not be installed; the lines above say why.',
  );
  writeFileSync(stamp, wanted);
}
