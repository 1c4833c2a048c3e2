import type { TensorInfo } from '@tensorflow/tfjs-core';
import type { CudaBackend } from '../backend.js';
import { formsIn } from '../kernels/forms.js';
import { withScratch } from '../kernels/run.js';
import { kernel } from '../launch.js';
import { matMul } from '../products/mat-mul.js';
import { ACTIVATIONS, type ExpertsCall, HALF_OF, pitchOf, type Storage } from './call.js';

const unpackKernel = (name: string) =>
  kernel('experts-composed', `experts_unpack_${name}`, 'p p p l i i');
const unpackKernels: Record<Storage, ReturnType<typeof unpackKernel>> = {
  float32: unpackKernel('f32'),
  float16: unpackKernel('f16'),
  bfloat16: unpackKernel('bf16'),
  int8: unpackKernel('int8'),
};
const activateKernel = (name: string) =>
  kernel('experts-composed', `experts_activate_${name}`, 'p p p p p l i i i');
const activateKernels = {
  float32: activateKernel('f32'),
  bf16: activateKernel('bf16'),
  fp16: activateKernel('f16'),
};

/** Most hidden activations in memory at once. */
const MOST_HIDDEN = 2 ** 28;

/**
 * The expert op as a dense FFN whose hidden activations are masked: takes any shape and storage, at the cost of the
 * dense one. Weights of 16 bits are multiplied as they are; others go through float32 in memory.
 */
export function maskedDense(backend: CudaBackend, call: ExpertsCall): TensorInfo {
  const { rows, dIn, dOut, hidden, storage, gate } = call;
  const out = backend.output([rows, dOut], 'float32');
  const isDense = pitchOf(dIn, storage) === dIn && pitchOf(dOut, storage) === dOut;
  const half = isDense ? HALF_OF[storage] : undefined;
  const operands = half ?? 'float32';
  const bytes = half ? 2 : 4;
  const x = formsIn(backend, half).pointer(call.x);
  const selection = backend.pointer(call.selection);
  const span = Math.max(1, Math.min(rows, Math.floor(MOST_HIDDEN / hidden)));

  /** Calls `use` with a packed matrix, `which` of up, gate and down, in the products' form. */
  const plain = (packed: number, which: 0 | 1 | 2, use: (matrix: number) => void) => {
    if (isDense && (half || storage === 'float32')) return use(packed);
    const width = which === 2 ? dOut : dIn;
    return withScratch(backend, hidden * width * 4, (matrix) => {
      backend.launch(unpackKernels[storage], backend.blocks(hidden * width), 256, [
        packed,
        call.scales + which * hidden * 4,
        matrix,
        hidden,
        width,
        pitchOf(width, storage),
      ]);
      use(matrix);
    });
  };

  withScratch(backend, span * hidden * bytes * (gate === 0 ? 1 : 2), (up) => {
    const gated = gate === 0 ? 0 : up + span * hidden * bytes;
    for (let first = 0; first < rows; first += span) {
      const m = Math.min(span, rows - first);
      const project = (packed: number, which: 0 | 1, to: number) =>
        plain(packed, which, (b) =>
          matMul(backend, {
            a: x + first * dIn * bytes,
            b,
            out: to,
            m,
            n: hidden,
            k: dIn,
            transposeB: true,
            operands,
          }),
        );
      project(call.up, 0, up);
      if (gate !== 0) project(gate, 1, gated);
      backend.launch(activateKernels[operands], backend.blocks(m * hidden), 256, [
        up,
        gated,
        selection + first * call.experts,
        call.upBias,
        call.gateBias,
        m,
        call.experts,
        call.expertSize,
        ACTIVATIONS.indexOf(call.activation),
      ]);
      plain(call.down, 2, (b) =>
        matMul(backend, {
          a: up,
          b,
          out: out.pointer + first * dOut * 4,
          m,
          n: dOut,
          k: hidden,
          operands,
          result: 'float32',
          bias: call.downBias,
        }),
      );
    }
  });
  return out;
}
