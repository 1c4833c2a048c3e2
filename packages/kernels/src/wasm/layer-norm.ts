import type * as tf from '@tensorflow/tfjs-core';
import { util } from '@tensorflow/tfjs-core';
import type { WasmContext } from './module.js';

interface Attributes {
  epsilon: number;
  centred: boolean;
}

export function layerNormKernel({ backend, kernels, pointer }: WasmContext) {
  return {
    kernelName: 'LayerNorm',
    kernelFunc: ({
      inputs: { x, scale, shift },
      attrs,
    }: {
      inputs: { x: tf.TensorInfo; scale: tf.TensorInfo; shift?: tf.TensorInfo };
      attrs: Attributes;
    }) => {
      const d = x.shape.at(-1) as number;
      const rows = util.sizeFromShape(x.shape) / d;
      const out = backend.makeOutput(x.shape, 'float32');
      kernels.layerNorm(
        pointer(x),
        pointer(scale),
        shift === undefined ? 0 : pointer(shift),
        pointer(out),
        rows,
        d,
        attrs.epsilon,
        attrs.centred ? 1 : 0,
      );
      return out;
    },
  };
}

export function layerNormGradKernel({ backend, kernels, pointer }: WasmContext) {
  return {
    kernelName: 'LayerNormGrad',
    kernelFunc: ({
      inputs: { x, scale, dy },
      attrs,
    }: {
      inputs: { x: tf.TensorInfo; scale: tf.TensorInfo; dy: tf.TensorInfo };
      attrs: Attributes;
    }) => {
      const d = x.shape.at(-1) as number;
      const rows = util.sizeFromShape(x.shape) / d;
      const outputs = [backend.makeOutput(x.shape, 'float32'), backend.makeOutput([d], 'float32')];
      if (attrs.centred) outputs.push(backend.makeOutput([d], 'float32'));
      const [dx, dscale, dshift] = outputs.map(pointer);
      kernels.layerNormGrad(
        pointer(x),
        pointer(scale),
        pointer(dy),
        dx as number,
        dscale as number,
        dshift ?? 0,
        rows,
        d,
        attrs.epsilon,
        attrs.centred ? 1 : 0,
      );
      return outputs;
    },
  };
}
