import { existsSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { build } from 'esbuild';

const here = fileURLToPath(new URL('.', import.meta.url));
const packages = fileURLToPath(new URL('../../packages', import.meta.url));

/** The workspace's packages from their sources, so that nothing has to be built. */
function sources() {
  /** @type {Record<string, string>} */
  const alias = {};
  for (const name of readdirSync(packages)) {
    for (const entry of ['index', 'node']) {
      const file = join(packages, name, `src/${entry}.ts`);
      if (existsSync(file)) alias[`@d2dmoe/${name}${entry === 'index' ? '' : `/${entry}`}`] = file;
    }
  }
  return alias;
}

/**
 * Writes a bench, tfjs and the workspace's packages as one ES module.
 *
 * @param {string} entry Its main file, from this folder.
 * @param {string} outfile
 * @param {Pick<import('esbuild').BuildOptions, 'external' | 'plugins'>} options What stays outside.
 */
export async function bundleBench(entry, outfile, options) {
  await build({
    ...options,
    entryPoints: [join(here, entry)],
    outfile,
    bundle: true,
    format: 'esm',
    platform: 'node',
    target: 'node20',
    mainFields: ['module', 'main'],
    alias: sources(),
    // tfjs's packages promise to have no side effects, but gradients and registrations of kernels are nothing else.
    ignoreAnnotations: true,
    // The CommonJS parts call `require` for node's own modules.
    banner: {
      js: "import { createRequire } from 'node:module';\nconst require = createRequire(import.meta.url);",
    },
    logLevel: 'error',
  });
}
