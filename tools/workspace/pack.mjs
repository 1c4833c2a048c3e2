import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { requireSuccess, run } from './children.mjs';
import { root } from './paths.mjs';

/**
 * A packed package: `filename` is its tarball, `size` the bytes of that.
 *
 * @typedef {{ name: string, version: string, filename: string, size: number, files: { path: string }[] }} Packed
 */

/**
 * Packs every package that is published, as it was built.
 *
 * @param {string} destination The folder for the tarballs.
 * @param {string[]} [folders] Those of the packages; all of them by default.
 * @returns {Promise<Packed[]>}
 */
export async function packAll(destination, folders = published()) {
  /** @type {Packed[]} */
  const packed = [];
  for (const folder of folders) {
    const args = ['pack', '--pack-destination', destination, '--json'];
    const outcome = await run('pnpm', args, { cwd: folder, quiet: true });
    requireSuccess(outcome, `${folder} could not be packed.`);
    packed.push(JSON.parse(outcome.output.slice(outcome.output.indexOf('{'))));
  }
  return packed;
}

/** The folders of all packages that are not private. */
export function published() {
  return ['packages', 'apps']
    .flatMap((parent) => readdirSync(join(root, parent)).map((name) => join(root, parent, name)))
    .filter((folder) => {
      const file = join(folder, 'package.json');
      return existsSync(file) && JSON.parse(readFileSync(file, 'utf8')).private !== true;
    });
}
