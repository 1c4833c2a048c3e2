import type { KernelConfig, TensorInfo } from '@tensorflow/tfjs-core';
import { upcastType, util } from '@tensorflow/tfjs-core';
import { kernel } from '../launch.js';
import { requireReal, withType } from './cast.js';
import { cudaKernel } from './config.js';

const select32 = kernel('elementwise', 'select_32', 'p p p p l l');
const select8 = kernel('elementwise', 'select_8', 'p p p p l l');

/** Select: elements of one of two tensors of one shape; a condition of rank 1 chooses whole slices. */
export const selectKernels: KernelConfig[] = [
  cudaKernel<{ condition: TensorInfo; t: TensorInfo; e: TensorInfo }>(
    'Select',
    ({ inputs: { condition, t, e }, backend }) => {
      requireReal('Select', condition, t, e);
      const dtype = upcastType(t.dtype, e.dtype);
      const size = util.sizeFromShape(t.shape);
      const choices = util.sizeFromShape(condition.shape);
      return withType(backend, condition, 'bool', (c) =>
        withType(backend, t, dtype, (yes) =>
          withType(backend, e, dtype, (no) => {
            const out = backend.output(t.shape, dtype);
            backend.launch(dtype === 'bool' ? select8 : select32, backend.blocks(size), 256, [
              backend.pointer(c),
              backend.pointer(yes),
              backend.pointer(no),
              out.pointer,
              size,
              choices === 0 ? 1 : size / choices,
            ]);
            return out;
          }),
        ),
      );
    },
  ),
];
