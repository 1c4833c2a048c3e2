import { readFile } from 'node:fs/promises';
import { Adam } from '@d2dmoe/kernels';
import { useWasm } from '@d2dmoe/kernels/node';
import { registerWasmKernels } from '@d2dmoe/kernels/wasm';
import '@tensorflow/tfjs-backend-wasm';
import * as tf from '@tensorflow/tfjs-core';
import { trainingAdam } from '../workload.js';
import type { Peer } from './peer.js';
import { prepareTfjs } from './tfjs.js';

const prepare = prepareTfjs({
  transposedUp: false,
  optimizer: (params) => {
    const adam = new Adam(params, trainingAdam);
    return (gradients) => adam.step(gradients);
  },
});

/** Our kernels, with relaxed SIMD where the engine has it. */
export async function d2dmoe(threads: number): Promise<Peer> {
  const { relaxedSimd, threads: used } = await useWasm({ threads });
  if (used !== threads)
    throw new Error(`useWasm runs ${used} threads, not the ${threads} asked for.`);
  return { about: { relaxedSimd, threads }, prepare };
}

/** Our kernels without relaxed SIMD, as on an engine that lacks it; one thread. */
export async function d2dmoeSimd(): Promise<Peer> {
  await tf.setBackend('wasm');
  await tf.ready();
  const file = new URL('./wasm/kernels.wasm', import.meta.resolve('@d2dmoe/kernels'));
  await registerWasmKernels(await readFile(file));
  return { about: { relaxedSimd: false, threads: 1 }, prepare };
}
