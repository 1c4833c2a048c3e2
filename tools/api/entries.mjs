import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

/** The workspace's root directory. */
export const root = fileURLToPath(new URL('../..', import.meta.url));

/**
 * One entry of a published package: its folder, a name such as `kernels` or `kernels-node`, and its declarations.
 *
 * @typedef {{ folder: string, name: string, types: string }} Entry
 */

/**
 * All entries with types, in the order of the packages' names.
 *
 * @returns {Entry[]}
 */
export function packageEntries() {
  return readdirSync(join(root, 'packages')).flatMap((name) => {
    const folder = join(root, 'packages', name);
    const file = join(folder, 'package.json');
    if (!existsSync(file)) return [];
    /** @type {{ exports: Record<string, { types?: string }> }} */
    const { exports } = JSON.parse(readFileSync(file, 'utf8'));
    return Object.entries(exports).flatMap(([path, { types }]) =>
      types === undefined
        ? []
        : [
            {
              folder,
              name: `${name}${path.slice(1).replace('/', '-')}`,
              types: join(folder, types),
            },
          ],
    );
  });
}
