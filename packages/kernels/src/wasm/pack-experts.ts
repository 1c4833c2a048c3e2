import { D2DMoEError } from '@d2dmoe/core';
import type * as tf from '@tensorflow/tfjs-core';
import { PackExperts, type PackExpertsAttrs } from '../pack-experts.js';
import type { FeedForwardWeights } from '../types.js';
import type { WasmContext } from './module.js';

type Weights = { [Name in keyof Omit<FeedForwardWeights, 'activation'>]: tf.TensorInfo };

/** The values that a panel of a ragged size is read past its end, in floats. */
const margin = 8;

/**
 * Lays an FFN out in the panels that the expert op reads: [vectors, up, down], and gate for a gated one. `vectors` is
 * upBias, gateBias, and int8's scales of up, gate and down, `hidden` floats each, then downBias. The matrices are
 * tensors of their own, of the dense ones' size wherever the sizes are multiples of 8: tfjs's allocator then puts the
 * next one where a dense one was freed.
 */
export function packExpertsKernel({ backend, kernels, pointer }: WasmContext) {
  return {
    kernelName: PackExperts,
    kernelFunc: ({
      inputs,
      attrs: { expertSize, storage },
    }: {
      inputs: Weights;
      attrs: PackExpertsAttrs;
    }) => {
      if (storage !== 'float32' && storage !== 'int8') {
        throw new D2DMoEError(
          'STORAGE_UNSUPPORTED',
          `The wasm backend has no packed experts in ${storage}: use float32 or int8.`,
        );
      }
      const { up, gate, down, upBias, gateBias, downBias } = inputs;
      const [hidden, dIn] = up.shape as [number, number];
      const dOut = down.shape[1] as number;
      const int8 = storage === 'int8';
      const vectors = backend.makeOutput([5 * hidden + dOut + margin], 'float32');
      const values = backend.typedArrayFromHeap(vectors);
      values.fill(0);
      values.fill(1, 2 * hidden, 5 * hidden);
      for (const [offset, bias] of [
        [0, upBias],
        [hidden, gateBias],
        [5 * hidden, downBias],
      ] as const) {
        if (bias) values.set(backend.typedArrayFromHeap(bias), offset);
      }
      const ragged = expertSize % 8 !== 0 || dOut % 8 !== 0 ? margin : 0;
      const pack = (
        kernel: 'packColumns' | 'packRows',
        matrix: tf.TensorInfo,
        width: number,
        scales: number,
      ) => {
        const floats = hidden * width;
        // tfjs has no int8: four values to an int32.
        const packed = int8
          ? backend.makeOutput([Math.ceil(floats / 4) + ragged], 'int32')
          : backend.makeOutput([floats + ragged], 'float32');
        const scalePointer = int8 ? pointer(vectors) + scales * hidden * 4 : 0;
        kernels[kernel](pointer(matrix), pointer(packed), scalePointer, hidden, width, expertSize);
        return packed;
      };
      const outputs = [vectors, pack('packColumns', up, dIn, 2), pack('packRows', down, dOut, 4)];
      if (gate) outputs.push(pack('packColumns', gate, dIn, 3));
      return outputs;
    },
  };
}
