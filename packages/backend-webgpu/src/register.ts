import { registerKernel, unregisterKernel, getKernel } from '@tensorflow/tfjs-core';
import { dynamicKExpertsKernel } from './dynamic-k-experts.js';
import { packExpertsKernel } from './pack-experts.js';
import { selectExpertsKernel } from './select-experts.js';

const kernels = [packExpertsKernel, selectExpertsKernel, dynamicKExpertsKernel];

/**
 * Registers PackExperts, SelectExperts and DynamicKExperts of @d2dmoe/kernels for tfjs's webgpu backend, whoever has
 * started it. {@link useWebGPU} does it too.
 */
export function registerExpertKernels(): void {
  for (const config of kernels) {
    if (getKernel(config.kernelName, config.backendName)) {
      unregisterKernel(config.kernelName, config.backendName);
    }
    registerKernel(config);
  }
}
