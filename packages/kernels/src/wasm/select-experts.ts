import type * as tf from '@tensorflow/tfjs-core';
import { SelectExperts } from '../select-experts.js';
import type { SelectionRule } from '../types.js';
import type { WasmContext } from './module.js';

/** The numbers by which kernels/wasm/select-experts.ts knows them. */
const rules: Record<SelectionRule['rule'], number> = { threshold: 0, topK: 1, cumulativeShare: 2 };

export function selectExpertsKernel({ backend, kernels, pointer }: WasmContext) {
  return {
    kernelName: SelectExperts,
    kernelFunc: ({
      inputs: { predictedNorms },
      attrs: { rule, value },
    }: {
      inputs: { predictedNorms: tf.TensorInfo };
      attrs: SelectionRule;
    }) => {
      const [rows, experts] = predictedNorms.shape as [number, number];
      const selection = backend.makeOutput([rows, experts], 'bool');
      const heap = backend.makeOutput([2 * experts], 'float32');
      kernels.selectExperts(
        pointer(predictedNorms),
        pointer(selection),
        rows,
        experts,
        rules[rule],
        value,
        pointer(heap),
      );
      backend.disposeData(heap.dataId);
      return selection;
    },
  };
}
