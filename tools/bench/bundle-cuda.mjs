// Writes the bench of the card, tfjs and the backend as one ES module, for a machine without npm:
//   node tools/bench/bundle-cuda.mjs OUT.mjs
//   D2DMOE_CUDA_MODULES=FOLDER_OF_PTX node OUT.mjs cuda --peers tools/bench/peers
// Only koffi has to be installed there.
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

const outfile = process.argv[2];
if (outfile === undefined) {
  console.error('usage: node tools/bench/bundle-cuda.mjs OUT.mjs');
  process.exit(2);
}
await build({
  entryPoints: [join(here, 'src/cuda/main.ts')],
  outfile,
  bundle: true,
  format: 'esm',
  platform: 'node',
  target: 'node20',
  mainFields: ['module', 'main'],
  external: ['koffi'],
  alias: sources(),
  // tfjs's packages promise to have no side effects, but their gradients are nothing else.
  ignoreAnnotations: true,
  // The CommonJS parts call `require` for node's own modules.
  banner: {
    js: "import { createRequire } from 'node:module';\nconst require = createRequire(import.meta.url);",
  },
  plugins: [
    {
      // Images are not benched: without side effects the import goes where nothing of it is used.
      name: 'sharp stays outside',
      setup: (bundle) => {
        bundle.onResolve({ filter: /^sharp$/ }, ({ path }) => ({
          path,
          external: true,
          sideEffects: false,
        }));
      },
    },
  ],
  logLevel: 'error',
});
