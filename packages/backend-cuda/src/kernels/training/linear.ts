import type { KernelConfig, TensorInfo } from '@tensorflow/tfjs-core';
import type { CudaBackend } from '../../backend.js';
import { matMul } from '../../products/mat-mul.js';
import { halfTypeOf } from '../../tensor-data.js';
import { cudaKernel } from '../config.js';
import { formsIn } from '../forms.js';
import { columnSum } from './column-sum.js';

interface Inputs {
  x: TensorInfo;
  weight: TensorInfo;
  bias?: TensorInfo;
}

/** x [N, dIn] · weight + bias → [N, dOut], in 16 bits where products are; weight [dOut, dIn], or transposed. */
function linear(
  backend: CudaBackend,
  { x, weight, bias }: Inputs,
  { transposed }: { transposed: boolean },
): TensorInfo {
  const half = halfTypeOf(backend.precision);
  const operands = half ?? 'float32';
  const { pointer, output } = formsIn(backend, half);
  const [m, k] = x.shape as [number, number];
  const n = weight.shape[transposed ? 1 : 0] as number;
  const out = output([m, n]);
  matMul(backend, {
    a: pointer(x),
    b: pointer(weight),
    out: out.pointer,
    m,
    n,
    k,
    transposeB: !transposed,
    operands,
    bias: bias && pointer(bias),
  });
  return out;
}

/** [dx, dweight], and the gradient of a bias where one is asked for; those of the parameters are float32. */
function linearGrad(
  backend: CudaBackend,
  { x, weight, dy }: { x: TensorInfo; weight: TensorInfo; dy: TensorInfo },
  { transposed, bias }: { transposed: boolean; bias: boolean },
): TensorInfo[] {
  // Gradients are often smaller than what fp16 holds.
  const half = backend.precision === 'bf16' ? 'bf16' : undefined;
  const operands = half ?? 'float32';
  const { pointer, output } = formsIn(backend, half);
  const [rows, dIn] = x.shape as [number, number];
  const dOut = dy.shape[1] as number;
  const dx = output([rows, dIn]);
  matMul(backend, {
    a: pointer(dy),
    b: pointer(weight),
    out: dx.pointer,
    m: rows,
    n: dIn,
    k: dOut,
    transposeB: transposed,
    operands,
  });
  const dweight = backend.output(weight.shape, 'float32');
  const [left, right] = transposed ? [x, dy] : [dy, x];
  matMul(backend, {
    a: pointer(left),
    b: pointer(right),
    out: dweight.pointer,
    m: weight.shape[0] as number,
    n: weight.shape[1] as number,
    k: rows,
    transposeA: true,
    operands,
    result: 'float32',
  });
  return bias ? [dx, dweight, columnSum(backend, dy)] : [dx, dweight];
}

/** The affine layer and its gradient, one call of tfjs each. */
export const linearKernels: KernelConfig[] = [
  cudaKernel<Inputs, { transposed: boolean }>('Linear', ({ inputs, attrs, backend }) =>
    linear(backend, inputs, attrs),
  ),
  cudaKernel<
    { x: TensorInfo; weight: TensorInfo; dy: TensorInfo },
    { transposed: boolean; bias: boolean }
  >('LinearGrad', ({ inputs, attrs, backend }) => linearGrad(backend, inputs, attrs)),
];
