import type { KernelConfig, KernelFunc, TensorInfo } from '@tensorflow/tfjs-core';
import type { CudaBackend } from '../backend.js';

/** What a kernel gets: tensors by name, attributes by name, and the backend that owns the tensors. */
export interface KernelCall<Inputs, Attrs> {
  /** Tensors by the names of the tfjs kernel. */
  inputs: Inputs;
  /** Attributes by the names of the tfjs kernel. */
  attrs: Attrs;
  /** Owner of the tensors, which launches and allocates. */
  backend: CudaBackend;
}

/**
 * A tfjs kernel of the backend `cuda`.
 *
 * @param kernelName The tfjs name: `Add`, `Relu`, `FusedBatchNorm`.
 * @param run Enqueues the work and returns the output or outputs; nothing waits for the device.
 */
export function cudaKernel<Inputs = object, Attrs = object>(
  kernelName: string,
  run: (call: KernelCall<Inputs, Attrs>) => TensorInfo | TensorInfo[],
): KernelConfig {
  // tfjs types all kernels as one function type; its maps of inputs and attributes are named here.
  return { kernelName, backendName: 'cuda', kernelFunc: run as unknown as KernelFunc };
}
