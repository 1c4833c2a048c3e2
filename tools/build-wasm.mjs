// Compiles the AssemblyScript kernels of kernels/wasm into packages/kernels/dist/wasm, once with SIMD and once with
// relaxed SIMD as well. The modules import their memory, shared and of at most 65,536 pages: they work in place in
// tfjs's own.
import { mkdirSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import asc from 'assemblyscript/asc';

const root = fileURLToPath(new URL('..', import.meta.url));
const out = `${root}packages/kernels/dist/wasm`;
mkdirSync(out, { recursive: true });

/** @type {Record<string, string>} */
const builds = {
  'kernels.wasm': 'simd,threads',
  'kernels-relaxed.wasm': 'simd,relaxed-simd,threads',
};
for (const [name, features] of Object.entries(builds)) {
  const files = [`${root}kernels/wasm/index.ts`, '--outFile', `${out}/${name}`];
  const flags = `--enable ${features} -O3 --noAssert --runtime stub`;
  const memory =
    '--importMemory --noExportMemory --sharedMemory --initialMemory 1 --maximumMemory 65536';
  const { error } = await asc.main([...files, ...flags.split(' '), ...memory.split(' ')], {
    stdout: process.stdout,
    stderr: process.stderr,
  });
  if (error) throw error;
}
