// Compiles the AssemblyScript kernels of kernels/wasm into packages/kernels/dist/wasm, once with SIMD and once with
// relaxed SIMD as well. The modules import their memory: they work in place in tfjs's own.
import { mkdirSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import asc from 'assemblyscript/asc';

const root = fileURLToPath(new URL('..', import.meta.url));
const out = `${root}packages/kernels/dist/wasm`;
mkdirSync(out, { recursive: true });
for (const [name, features] of [
  ['kernels.wasm', 'simd'],
  ['kernels-relaxed.wasm', 'simd,relaxed-simd'],
]) {
  const { error, stderr } = await asc.main([
    `${root}kernels/wasm/index.ts`,
    ...['--outFile', `${out}/${name}`, '--enable', features],
    ...['-O3', '--runtime', 'stub', '--noAssert', '--importMemory', '--noExportMemory'],
  ]);
  if (error) {
    process.stderr.write(`${stderr.toString()}\n`);
    throw error;
  }
}
