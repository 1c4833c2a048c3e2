import * as tf from '@tensorflow/tfjs-core';
import { adamStepKernel } from './adam-step.js';
import { dynamicKExpertsKernel } from './dynamic-k-experts.js';
import { layerNormGradKernel, layerNormKernel } from './layer-norm.js';
import { batchMatMulKernel, fusedMatMulKernel } from './mat-mul.js';
import { instantiate, type ThreadOptions, type WasmContext } from './module.js';
import { packExpertsKernel } from './pack-experts.js';
import { unsortedSegmentSumKernel } from './segment-sum.js';
import { selectExpertsKernel } from './select-experts.js';
import type { ThreadSource } from './thread-pool.js';
import { webThreads } from './thread-web.js';

let registered: WasmContext | undefined;

/**
 * Registers this package's kernels for tfjs's wasm backend: matrix products in place of tfjs's own, what tfjs lacks
 * for training, and fused steps. They work in tfjs's memory, without copies. Registered again, they take the place of
 * those registered before, whose threads end.
 *
 * Threads need that memory to be shared: see {@link shareTfjsMemory}; in Node `useWasm` calls it. The result of a
 * product does not depend on the number of threads, bit for bit.
 *
 * @param bytes the module `kernels.wasm`, or `kernels-relaxed.wasm` where the engine has relaxed SIMD
 * @param source where threads come from: by default the page's workers
 * @returns how many threads the kernels use
 * @throws D2DMoEError `BACKEND_MISMATCH` where the current backend is not `wasm`; `THREADS_INVALID` where `threads` is
 * not an integer from 1 to 64; `THREADS_UNAVAILABLE` where more than one are asked for and cannot be had
 */
export async function registerWasmKernels(
  bytes: BufferSource,
  options: ThreadOptions = {},
  source: ThreadSource = webThreads,
): Promise<{ threads: number }> {
  const context = await instantiate(bytes, options, source);
  await registered?.dispose();
  registered = context;
  const kernels = [
    batchMatMulKernel(context),
    fusedMatMulKernel(context),
    unsortedSegmentSumKernel(context),
    layerNormKernel(context),
    layerNormGradKernel(context),
    adamStepKernel(context),
    packExpertsKernel(context),
    selectExpertsKernel(context),
    dynamicKExpertsKernel(context),
  ];
  for (const kernel of kernels) {
    const config = { ...kernel, backendName: 'wasm' };
    if (tf.getKernel(config.kernelName, 'wasm')) tf.unregisterKernel(config.kernelName, 'wasm');
    tf.registerKernel(config as unknown as tf.KernelConfig);
  }
  return { threads: context.pool.threads };
}
