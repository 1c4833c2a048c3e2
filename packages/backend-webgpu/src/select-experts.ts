import type { KernelConfig, TensorInfo } from '@tensorflow/tfjs-core';
import { type Rule, SELECT_ROWS_X, selectExpertsSource } from '../../../kernels/webgpu/index.js';
import { encode } from './encode.js';
import { checkAlive } from './lost.js';
import { bufferOf, openBackend } from './open-backend.js';
import { remember } from './pipelines.js';

const sourceOf = remember(
  ({ rule, experts }: { rule: Rule; experts: number }) => `${rule} ${experts}`,
  ({ rule, experts }) => selectExpertsSource(rule, experts),
);

/** SelectExperts of @d2dmoe/kernels: a bool tensor as any other. */
export const selectExpertsKernel: KernelConfig = {
  kernelName: 'SelectExperts',
  backendName: 'webgpu',
  kernelFunc: ({ inputs, attrs, backend: untyped }) => {
    const backend = openBackend(untyped);
    checkAlive(backend.device);
    const norms = inputs['predictedNorms'] as TensorInfo;
    const { rule, value } = attrs as unknown as { rule: Rule; value: number };
    const [rows = 0, experts = 0] = norms.shape;
    if (rows * experts === 0) {
      return backend.makeTensorInfo([rows, experts], 'bool', new Uint8Array());
    }
    const selection = backend.makeTensorInfo([rows, experts], 'bool');
    encode(backend, 'SelectExperts', [norms, selection], (encoder) => {
      const params = () => {
        const contents = new DataView(new ArrayBuffer(8));
        contents.setFloat32(0, value, true);
        contents.setUint32(4, rows, true);
        return contents.buffer;
      };
      encoder.dispatch(
        sourceOf({ rule, experts }),
        [
          bufferOf(backend, norms),
          bufferOf(backend, selection),
          encoder.uniform(`select ${value} ${rows}`, params),
        ],
        [Math.min(rows, SELECT_ROWS_X), Math.ceil(rows / SELECT_ROWS_X)],
      );
    });
    return selection;
  },
};
