import * as tf from '@tensorflow/tfjs-core';
import type { WasmContext } from './module.js';

/** The gradient of gather, which tfjs's wasm backend lacks. */
export function unsortedSegmentSumKernel({ backend, kernels, pointer }: WasmContext) {
  return {
    kernelName: tf.UnsortedSegmentSum,
    kernelFunc: ({
      inputs: { x, segmentIds },
      attrs: { numSegments },
    }: {
      inputs: { x: tf.TensorInfo; segmentIds: tf.TensorInfo };
      attrs: { numSegments: number };
    }) => {
      tf.util.assert(
        x.dtype === 'float32',
        () => `unsortedSegmentSum: dtype ${x.dtype}, only float32 is supported.`,
      );
      const rank = segmentIds.shape.length;
      const rest = x.shape.slice(rank);
      const out = backend.makeOutput([numSegments, ...rest], 'float32');
      const rows = tf.util.sizeFromShape(segmentIds.shape);
      const d = tf.util.sizeFromShape(rest);
      kernels.segmentSum(pointer(x), pointer(segmentIds), pointer(out), rows, d, numSegments);
      return out;
    },
  };
}
