import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, relative } from 'node:path';
import { parseArgs } from 'node:util';
import { build } from './build.mjs';
import { endLike, requireSuccess, run } from './children.mjs';
import { packAll, published } from './pack.mjs';
import { root } from './paths.mjs';

const usage = `usage: npm run release -- [--dry-run | --check REF | --version]

  --dry-run    pack every package and show what would go out
  --check REF  fail where a package has changed since REF and no changeset says so
  --version    raise the versions, and write the changelogs, that the changesets ask for
Without an option it publishes every package whose version is not on the registry yet.`;

/**
 * Publishes the packages, or does one of the steps before that.
 *
 * @param {string[]} args
 */
export async function release(args) {
  const options = read(args);
  if (options === undefined) return;
  if (options.check !== undefined) {
    endLike(await run('changeset', ['status', `--since=${options.check}`]));
  } else if (options.version) {
    requireSuccess(await run('changeset', ['version']), 'the versions could not be raised.');
    // The lockfile names the packages' versions.
    endLike(await run('pnpm', ['install', '--lockfile-only']));
  } else {
    await build();
    if (options['dry-run']) await show();
    requireKernels();
    if (!options['dry-run']) await publish();
  }
}

/** @param {string[]} args */
function read(args) {
  try {
    return parseArgs({
      args,
      options: {
        'dry-run': { type: 'boolean', default: false },
        check: { type: 'string' },
        version: { type: 'boolean', default: false },
      },
    }).values;
  } catch (error) {
    console.error(`error: ${error instanceof Error ? error.message : String(error)}\n${usage}`);
    process.exitCode = 2;
    return undefined;
  }
}

/**
 * Publishes what the registry does not have yet. Where a workflow on GitHub does so, npm signs that the packages were
 * built there, and compares that with the repository which each package names.
 */
async function publish() {
  const repository = process.env['GITHUB_REPOSITORY'];
  if (repository !== undefined) {
    for (const folder of published()) {
      const file = join(folder, 'package.json');
      const manifest = JSON.parse(readFileSync(file, 'utf8'));
      const directory = relative(root, folder).replaceAll('\\', '/');
      const url = `git+https://github.com/${repository}.git`;
      manifest.repository = { type: 'git', url, directory };
      writeFileSync(file, `${JSON.stringify(manifest, undefined, 2)}\n`);
    }
  }
  endLike(await run('changeset', ['publish']));
}

/** A backend without its kernels must not go out: where nvcc is missing, a build leaves them out. */
function requireKernels() {
  const folder = join(root, 'packages/backend-cuda/dist/ptx');
  const count = (/** @type {string} */ path, /** @type {string} */ suffix) =>
    existsSync(path) ? readdirSync(path).filter((name) => name.endsWith(suffix)).length : 0;
  if (count(folder, '.ptx') >= count(join(root, 'kernels/cuda'), '.cu')) return;
  console.error(
    `error: ${folder} lacks kernel modules: node tools/build-cuda.mjs makes them and needs nvcc.`,
  );
  process.exit(1);
}

/** Packs every package and prints a table of what would be published. */
async function show() {
  const folder = mkdtempSync(join(tmpdir(), 'd2dmoe-release-'));
  try {
    const next = await plannedVersions();
    const packed = await packAll(folder);
    const width = Math.max(...packed.map(({ name }) => name.length));
    for (const { name, version, size, files } of packed) {
      const planned = next.get(name);
      const versions = planned === undefined ? version : `${version} → ${planned}`;
      const kilobytes = `${(size / 1000).toFixed(1)} kB`.padStart(12);
      console.log(
        `${name.padEnd(width)}  ${versions.padEnd(16)}${kilobytes}  ${files.length} files`,
      );
    }
    console.log('Nothing was published.');
  } finally {
    rmSync(folder, { recursive: true });
  }
}

/** What the changesets would raise the versions to, by package. */
async function plannedVersions() {
  // Not with the others: only here, and only once it is installed.
  const { default: getReleasePlan } = await import('@changesets/get-release-plan');
  const { releases } = await getReleasePlan(root);
  return new Map(releases.map(({ name, newVersion }) => [name, newVersion]));
}
