// Writes the bench of WebGPU, tfjs and the backend as one ES module, for a machine without npm:
//   node tools/bench/bundle-webgpu.mjs FOLDER
//   node FOLDER/bench.mjs webgpu
// The folder gets Dawn beside it, for this machine's platform. Linux needs libvulkan.so.1 and a Vulkan driver there.
import { cpSync, existsSync, mkdirSync, readdirSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
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

const folder = process.argv[2];
if (folder === undefined) {
  console.error('usage: node tools/bench/bundle-webgpu.mjs FOLDER');
  process.exit(2);
}
await build({
  entryPoints: [join(here, 'src/webgpu/main.ts')],
  outfile: join(folder, 'bench.mjs'),
  bundle: true,
  format: 'esm',
  platform: 'node',
  target: 'node20',
  mainFields: ['module', 'main'],
  // There is no page where there is no npm.
  external: ['webgpu', '*/page.js'],
  alias: sources(),
  // tfjs's packages promise to have no side effects, but their kernels' registrations are nothing else.
  ignoreAnnotations: true,
  // The CommonJS parts call `require` for node's own modules.
  banner: {
    js: "import { createRequire } from 'node:module';\nconst require = createRequire(import.meta.url);",
  },
  logLevel: 'error',
});
const dawn = dirname(createRequire(import.meta.url).resolve('webgpu'));
const platform = process.platform === 'darwin' ? 'universal' : process.arch;
const binary = `dist/${process.platform}-${platform}`;
const target = join(folder, 'node_modules/webgpu');
mkdirSync(target, { recursive: true });
for (const part of ['index.js', 'package.json', binary]) {
  cpSync(join(dawn, part), join(target, part), { recursive: true });
}
