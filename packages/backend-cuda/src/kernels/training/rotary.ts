import type { KernelConfig, TensorInfo } from '@tensorflow/tfjs-core';
import { util } from '@tensorflow/tfjs-core';
import { kernel } from '../../launch.js';
import { cudaKernel } from '../config.js';

const SIGNATURE = 'p p p p l i i i f';
const f32 = kernel('rotary', 'rotary_f32', SIGNATURE);
const bf16 = kernel('rotary', 'rotary_bf16', SIGNATURE);

/** Turns x [B·T, heads·headDim] by the angles of tables [T, headDim], or back with direction −1. */
export const rotaryKernels: KernelConfig[] = [
  cudaKernel<{ x: TensorInfo; cos: TensorInfo; sin: TensorInfo }, { direction: number }>(
    'Rotary',
    ({ inputs: { x, cos, sin }, attrs, backend }) => {
      const size = util.sizeFromShape(x.shape);
      const [positions, headDim] = cos.shape as [number, number];
      const half = backend.isOnly16(x);
      const out = half ? backend.output16(x.shape) : backend.output(x.shape, 'float32');
      backend.launch(half ? bf16 : f32, backend.blocks(size), 256, [
        half ? backend.pointer16(x) : backend.pointer(x),
        backend.pointer(cos),
        backend.pointer(sin),
        out.pointer,
        size,
        x.shape[1] as number,
        headDim,
        positions,
        attrs.direction,
      ]);
      return out;
    },
  ),
];
