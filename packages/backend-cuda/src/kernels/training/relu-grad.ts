import type { KernelConfig, TensorInfo } from '@tensorflow/tfjs-core';
import { util } from '@tensorflow/tfjs-core';
import { kernel } from '../../launch.js';
import { cudaKernel } from '../config.js';

const variant = (forms: string) => kernel('relu-grad', `relu_grad_${forms}`, 'p p p l');
const f32 = variant('f32_f32');
const bf16 = variant('bf16_bf16');
const mixed = variant('bf16_f32');

/** dy where x, ReLU's input or its output, is positive; in 16 bits where products are and x is, whatever dy is. */
export const reluGradKernels: KernelConfig[] = [
  cudaKernel<{ x: TensorInfo; dy: TensorInfo }>('ReluGrad', ({ inputs: { x, dy }, backend }) => {
    const size = util.sizeFromShape(x.shape);
    const half = backend.precision === 'bf16' && backend.has16(x);
    const halfDy = half && backend.isOnly16(dy);
    const out = half ? backend.output16(x.shape) : backend.output(x.shape, 'float32');
    backend.launch(half ? (halfDy ? bf16 : mixed) : f32, backend.blocks(Math.ceil(size / 4)), 256, [
      half ? backend.pointer16(x) : backend.pointer(x),
      halfDy ? backend.pointer16(dy) : backend.pointer(dy),
      out.pointer,
      size,
    ]);
    return out;
  }),
];
