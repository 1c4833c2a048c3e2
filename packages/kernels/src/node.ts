import { readFile } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { pathToFileURL } from 'node:url';
import { setFlagsFromString } from 'node:v8';
import '@tensorflow/tfjs-backend-wasm';
import * as tf from '@tensorflow/tfjs-core';
import type { ThreadOptions } from './wasm/module.js';
import { registerWasmKernels } from './wasm/register.js';
import { shareTfjsMemory } from './wasm/share-tfjs-memory.js';
import { nodeThreads } from './wasm/thread-node.js';

/** A module of one function that uses i8x16.relaxed_swizzle: it validates only where the engine has relaxed SIMD. */
const relaxedProbe = new Uint8Array([
  0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 15, 1, 13, 0, 65, 1, 253, 15,
  65, 2, 253, 15, 253, 128, 2, 11,
]);

/**
 * Makes tfjs's wasm backend the current one in Node and registers this package's kernels for it. Where the engine has
 * relaxed SIMD behind a flag only (Node 20), the flag is set: nothing but the compilation of modules that use those
 * instructions depends on it. A backend that starts here gets shared memory, which threads need.
 *
 * Called again, it takes the new number of threads. Threads neither keep the process alive nor outlive it.
 *
 * @returns whether the kernels use relaxed SIMD, whether V8's flag had to be set for it, and how many threads
 * @throws D2DMoEError `THREADS_INVALID` where `threads` is not an integer from 1 to 64; `THREADS_UNAVAILABLE` where more
 * than one are asked for and that backend was already started without shared memory
 */
export async function useWasm(
  options: ThreadOptions = {},
): Promise<{ relaxedSimd: boolean; flagSet: boolean; threads: number }> {
  await (sharing ??= shareInstalledTfjs());
  await tf.setBackend('wasm');
  await tf.ready();
  if (!WebAssembly.validate(relaxedProbe)) {
    setFlagsFromString('--experimental-wasm-relaxed-simd');
    flagSet = WebAssembly.validate(relaxedProbe);
  }
  const relaxedSimd = WebAssembly.validate(relaxedProbe);
  const file = relaxedSimd ? 'kernels-relaxed.wasm' : 'kernels.wasm';
  const bytes = await readFile(new URL(`../dist/wasm/${file}`, import.meta.url));
  const { threads } = await registerWasmKernels(bytes, options, nodeThreads);
  return { relaxedSimd, flagSet, threads };
}

let sharing: Promise<void> | undefined;
let flagSet = false;

async function shareInstalledTfjs(): Promise<void> {
  const entry = createRequire(import.meta.url).resolve('@tensorflow/tfjs-backend-wasm');
  const binary = new URL('tfjs-backend-wasm-simd.wasm', pathToFileURL(entry));
  shareTfjsMemory(await readFile(binary));
}
