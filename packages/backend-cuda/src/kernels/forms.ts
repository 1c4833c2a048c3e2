import type { TensorInfo } from '@tensorflow/tfjs-core';
import type { CudaBackend, Output } from '../backend.js';
import type { HalfType } from '../tensor-data.js';

/** How a kernel reads float32 tensors and makes them: in a type of 16 bits, or in float32 where none is named. */
export const formsIn = (backend: CudaBackend, half: HalfType | undefined) => ({
  pointer: (t: TensorInfo): number => (half ? backend.pointer16(t, half) : backend.pointer(t)),
  output: (shape: readonly number[]): Output =>
    half ? backend.output16(shape, half) : backend.output(shape, 'float32'),
});
