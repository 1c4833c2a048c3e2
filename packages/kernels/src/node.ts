import { readFile } from 'node:fs/promises';
import { setFlagsFromString } from 'node:v8';
import '@tensorflow/tfjs-backend-wasm';
import * as tf from '@tensorflow/tfjs-core';
import { registerWasmKernels } from './wasm/register.js';

/** A module of one function that uses i8x16.relaxed_swizzle: it validates only where the engine has relaxed SIMD. */
const relaxedProbe = new Uint8Array([
  0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 15, 1, 13, 0, 65, 1, 253, 15,
  65, 2, 253, 15, 253, 128, 2, 11,
]);

/**
 * Makes tfjs's wasm backend the current one in Node and registers this package's kernels for it. Where the engine has
 * relaxed SIMD behind a flag only (Node 20), the flag is set: nothing but the compilation of modules that use those
 * instructions depends on it.
 *
 * @returns whether the kernels use relaxed SIMD
 */
export async function useWasm(): Promise<{ relaxedSimd: boolean }> {
  await tf.setBackend('wasm');
  await tf.ready();
  if (!WebAssembly.validate(relaxedProbe)) setFlagsFromString('--experimental-wasm-relaxed-simd');
  const relaxedSimd = WebAssembly.validate(relaxedProbe);
  const file = relaxedSimd ? 'kernels-relaxed.wasm' : 'kernels.wasm';
  await registerWasmKernels(await readFile(new URL(`../dist/wasm/${file}`, import.meta.url)));
  return { relaxedSimd };
}
