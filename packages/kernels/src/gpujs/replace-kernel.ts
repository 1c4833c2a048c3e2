import * as tf from '@tensorflow/tfjs-core';

/** Registers a tfjs kernel, in place of one that is there. */
export function replaceKernel(
  kernelName: string,
  backendName: string,
  kernelFunc: (call: never) => tf.TensorInfo | tf.TensorInfo[],
): void {
  if (tf.getKernel(kernelName, backendName)) tf.unregisterKernel(kernelName, backendName);
  tf.registerKernel({ kernelName, backendName, kernelFunc: kernelFunc as tf.KernelFunc });
}
