// Compiles the AssemblyScript kernels of kernels/wasm into packages/kernels/dist/wasm, once with SIMD and once with
// relaxed SIMD as well. The modules import their memory: they work in place in tfjs's own.
import { mkdirSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import asc from 'assemblyscript/asc';

const root = fileURLToPath(new URL('..', import.meta.url));
const out = `${root}packages/kernels/dist/wasm`;
mkdirSync(out, { recursive: true });

/** @type {Record<string, string>} */
const builds = { 'kernels.wasm': 'simd', 'kernels-relaxed.wasm': 'simd,relaxed-simd' };
for (const [name, features] of Object.entries(builds)) {
  const files = [`${root}kernels/wasm/index.ts`, '--outFile', `${out}/${name}`];
  const memory = ['--runtime', 'stub', '--importMemory', '--noExportMemory'];
  const { error } = await asc.main(
    [...files, '--enable', features, '-O3', '--noAssert', ...memory],
    { stdout: process.stdout, stderr: process.stderr },
  );
  if (error) throw error;
}
