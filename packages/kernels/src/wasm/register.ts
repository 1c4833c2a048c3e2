import * as tf from '@tensorflow/tfjs-core';
import { adamStepKernel } from './adam-step.js';
import { layerNormGradKernel, layerNormKernel } from './layer-norm.js';
import { batchMatMulKernel, fusedMatMulKernel } from './mat-mul.js';
import { instantiate } from './module.js';
import { unsortedSegmentSumKernel } from './segment-sum.js';

/**
 * Registers this package's kernels for tfjs's wasm backend: matrix products in place of tfjs's own, what tfjs lacks
 * for training, and fused steps. They work in tfjs's memory, without copies.
 *
 * @param bytes the module `kernels.wasm`, or `kernels-relaxed.wasm` where the engine has relaxed SIMD
 * @throws D2DMoEError `BACKEND_MISMATCH` where the current backend is not `wasm`
 */
export async function registerWasmKernels(bytes: BufferSource): Promise<void> {
  const context = await instantiate(bytes);
  const kernels = [
    batchMatMulKernel(context),
    fusedMatMulKernel(context),
    unsortedSegmentSumKernel(context),
    layerNormKernel(context),
    layerNormGradKernel(context),
    adamStepKernel(context),
  ];
  for (const kernel of kernels) {
    const config = { ...kernel, backendName: 'wasm' };
    if (tf.getKernel(config.kernelName, 'wasm')) tf.unregisterKernel(config.kernelName, 'wasm');
    tf.registerKernel(config as unknown as tf.KernelConfig);
  }
}
