import { createHash } from 'node:crypto';
import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { requireSuccess, run } from './children.mjs';
import { root } from './paths.mjs';

/**
 * Installs the dependencies, unless those of exactly this lockfile and these manifests are in place: a manifest that was
 * changed without the lockfile fails here and not in a fresh clone.
 */
export async function install() {
  /** @type {{ packageManager: string }} */
  const { packageManager } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'));
  // A node_modules that npm made is replaced without a question.
  const args = ['install', '--frozen-lockfile', '--config.confirmModulesPurge=false'];
  const files = ['pnpm-lock.yaml', 'pnpm-workspace.yaml', 'package.json', ...manifests()];
  await installOnce('the dependencies', root, files, ['npx', '--yes', packageManager, ...args]);
}

/** Installs the libraries that the bench compares with, which are too large to come with every clone. */
export async function installBenchPeers() {
  const folder = join(root, 'tools', 'bench', 'peers');
  const args = ['ci', '--ignore-scripts', '--no-audit', '--no-fund'];
  await installOnce("the bench's peers", folder, ['package-lock.json'], ['npm', ...args]);
}

/** The package.json of every package of the workspace, from the root. */
function manifests() {
  return ['packages', 'apps', 'tools']
    .flatMap((parent) => readdirSync(join(root, parent)).map((name) => join(parent, name)))
    .map((folder) => join(folder, 'package.json'))
    .filter((file) => existsSync(join(root, file)));
}

/**
 * @param {string} what For the user.
 * @param {string} folder
 * @param {string[]} files In the folder: what is installed is decided by their contents.
 * @param {[string, ...string[]]} command What installs.
 */
async function installOnce(what, folder, files, [command, ...args]) {
  const hash = createHash('sha256');
  for (const file of files) hash.update(readFileSync(join(folder, file)));
  const wanted = hash.digest('hex');
  const stamp = join(folder, 'node_modules', '.d2dmoe-install');
  if (existsSync(stamp) && readFileSync(stamp, 'utf8') === wanted) return;
  console.error(`Installing ${what} …`);
  requireSuccess(
    await run(command, args, { cwd: folder, stdoutToStderr: true }),
    `${what} could not be installed; the lines above say why.`,
  );
  writeFileSync(stamp, wanted);
}
