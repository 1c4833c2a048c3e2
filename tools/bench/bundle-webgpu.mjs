// Writes the bench of WebGPU, tfjs and the backend as one ES module, for a machine without npm:
//   node tools/bench/bundle-webgpu.mjs FOLDER
//   node FOLDER/bench.mjs webgpu
// The folder gets Dawn beside it, for this machine's platform. Linux needs libvulkan.so.1 and a Vulkan driver there.
import { cpSync, mkdirSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { bundleBench } from './bundle.mjs';

const folder = process.argv[2];
if (folder === undefined) {
  console.error('usage: node tools/bench/bundle-webgpu.mjs FOLDER');
  process.exit(2);
}
// There is no page where there is no npm.
await bundleBench('src/webgpu/main.ts', join(folder, 'bench.mjs'), {
  external: ['webgpu', '*/page.js'],
});
const dawn = dirname(createRequire(import.meta.url).resolve('webgpu'));
const platform = process.platform === 'darwin' ? 'universal' : process.arch;
const binary = `dist/${process.platform}-${platform}`;
const target = join(folder, 'node_modules/webgpu');
mkdirSync(target, { recursive: true });
for (const part of ['index.js', 'package.json', binary]) {
  cpSync(join(dawn, part), join(target, part), { recursive: true });
}
