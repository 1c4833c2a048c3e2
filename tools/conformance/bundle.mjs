import { readdirSync } from 'node:fs';
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
    alias[`@d2dmoe/${name}`] = join(packages, name, 'src/index.ts');
  }
  return alias;
}

/**
 * Writes the suite, tfjs and the backend under test as one ES module. Only koffi stays outside.
 *
 * @param {string} backend `cuda` or `cpu`.
 * @param {string} outfile
 */
export async function bundleSuite(backend, outfile) {
  await build({
    entryPoints: [join(here, 'suite/main.mjs')],
    outfile,
    bundle: true,
    format: 'esm',
    platform: 'node',
    target: 'node20',
    mainFields: ['module', 'main'],
    external: ['koffi'],
    alias: { ...sources(), 'backend-under-test': join(here, `suite/backends/${backend}.mjs`) },
    // tfjs's packages promise to have no side effects, but their tests and kernel lists are nothing else: without this
    // most specs would be shaken out, and the rest would pass.
    ignoreAnnotations: true,
    // The suite's CommonJS parts call `require` for node's own modules.
    banner: {
      js: "import { createRequire } from 'node:module';\nconst require = createRequire(import.meta.url);",
    },
    sourcemap: 'inline',
    logLevel: 'error',
  });
}
