import { createHash } from 'node:crypto';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { requireSuccess, run } from './children.mjs';
import { root } from './paths.mjs';

/** Installs the dependencies, unless those of exactly this lockfile are in place. */
export async function install() {
  /** @type {{ packageManager: string }} */
  const { packageManager } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'));
  // A node_modules that npm made is replaced without a question.
  const args = ['install', '--frozen-lockfile', '--config.confirmModulesPurge=false'];
  await installOnce('the dependencies', root, 'pnpm-lock.yaml', [
    'npx',
    '--yes',
    packageManager,
    ...args,
  ]);
}

/** Installs the libraries that the bench compares with, which are too large to come with every clone. */
export async function installBenchPeers() {
  const folder = join(root, 'tools', 'bench', 'peers');
  const args = ['ci', '--ignore-scripts', '--no-audit', '--no-fund'];
  await installOnce("the bench's peers", folder, 'package-lock.json', ['npm', ...args]);
}

/**
 * @param {string} what For the user.
 * @param {string} folder
 * @param {string} lockfile Its name in the folder.
 * @param {[string, ...string[]]} command What installs.
 */
async function installOnce(what, folder, lockfile, [command, ...args]) {
  const contents = readFileSync(join(folder, lockfile));
  const wanted = createHash('sha256').update(contents).digest('hex');
  const stamp = join(folder, 'node_modules', '.d2dmoe-install');
  if (existsSync(stamp) && readFileSync(stamp, 'utf8') === wanted) return;
  console.error(`Installing ${what} …`);
  requireSuccess(
    await run(command, args, { cwd: folder, stdoutToStderr: true }),
    `${what} could not be installed; the lines above say why.`,
  );
  writeFileSync(stamp, wanted);
}
