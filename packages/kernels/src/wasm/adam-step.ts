import type * as tf from '@tensorflow/tfjs-core';
import { util } from '@tensorflow/tfjs-core';
import type { WasmContext } from './module.js';

interface Attributes {
  rate: number;
  beta1: number;
  beta2: number;
  epsilon: number;
  keep: number;
}

export function adamStepKernel({ backend, kernels, pointer }: WasmContext) {
  return {
    kernelName: 'AdamStep',
    kernelFunc: ({
      inputs: { param, gradient, first, second },
      attrs: { rate, beta1, beta2, epsilon, keep },
    }: {
      inputs: Record<'param' | 'gradient' | 'first' | 'second', tf.TensorInfo>;
      attrs: Attributes;
    }) => {
      const outputs = [param, first, second].map(({ shape }) =>
        backend.makeOutput(shape, 'float32'),
      );
      const pointers = [param, gradient, first, second, ...outputs].map(pointer);
      const size = util.sizeFromShape(param.shape);
      kernels.adamStep(...pointers, size, rate, beta1, beta2, epsilon, keep);
      return outputs;
    },
  };
}
