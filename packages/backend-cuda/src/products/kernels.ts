import { D2DMoEError } from '@d2dmoe/core';
import {
  _FusedMatMul,
  type _FusedMatMulAttrs,
  BatchMatMul,
  type BatchMatMulAttrs,
  type KernelConfig,
  type TensorInfo,
  util,
} from '@tensorflow/tfjs-core';
import type { CudaBackend } from '../backend.js';
import { cudaKernel } from '../kernels/config.js';
import { formsIn } from '../kernels/forms.js';
import { runKernel } from '../kernels/run.js';
import { batchRuns } from './batches.js';
import { matMul } from './mat-mul.js';
import { halfTypeOf } from '../tensor-data.js';
import { type Activation, BYTES } from './product.js';

/** What {@link batchMatMul} multiplies. */
export interface BatchMatMulOptions {
  a: TensorInfo;
  b: TensorInfo;
  transposeA: boolean;
  transposeB: boolean;
  /** Added to every row, of n values. */
  bias?: TensorInfo | undefined;
  /** Applied after the bias; default 'linear'. */
  activation?: Activation;
  /** Slope of 'leakyrelu' below zero. */
  alpha?: number;
  /** Whether the result is the sums as they are, not rounded to the backend's precision. */
  isOut32?: boolean;
}

/**
 * op(a) · op(b) over the last two dimensions, the others broadcast. float32 in the backend's precision: under 'bf16' and
 * 'fp16' from and to that form, with float32 sums. int32 modulo 2^32.
 *
 * @throws D2DMoEError CUDA_SHAPE, CUDA_DTYPE.
 */
export function batchMatMul(backend: CudaBackend, options: BatchMatMulOptions): TensorInfo {
  const { a, b, transposeA, transposeB, bias, isOut32 = false } = options;
  const { activation = 'linear', alpha = 0 } = options;
  if (a.dtype !== b.dtype || (a.dtype !== 'float32' && a.dtype !== 'int32')) {
    throw new D2DMoEError(
      'CUDA_DTYPE',
      `matMul of ${a.dtype} and ${b.dtype} tensors: both have to be float32, or both int32.`,
    );
  }
  if (a.shape.length < 2 || b.shape.length < 2) {
    throw new D2DMoEError(
      'CUDA_SHAPE',
      `matMul of shapes [${a.shape.join()}] and [${b.shape.join()}]: both need two dimensions or more.`,
    );
  }
  const [linesA = 0, lengthA = 0] = a.shape.slice(-2);
  const [linesB = 0, lengthB = 0] = b.shape.slice(-2);
  const [m, k] = transposeA ? [lengthA, linesA] : [linesA, lengthA];
  const [inner, n] = transposeB ? [lengthB, linesB] : [linesB, lengthB];
  if (k !== inner) {
    throw new D2DMoEError(
      'CUDA_SHAPE',
      `matMul of shapes [${a.shape.join()}] and [${b.shape.join()}] with transposeA=${transposeA} and transposeB=${transposeB}: the inner dimensions ${k} and ${inner} have to be equal.`,
    );
  }
  const { dims, runs } = batchRuns(a.shape.slice(0, -2), b.shape.slice(0, -2));
  const shape = [...dims, m, n];
  const half = a.dtype === 'float32' ? halfTypeOf(backend.precision) : undefined;
  const outHalf = isOut32 ? undefined : half;
  const out = outHalf ? backend.output16(shape, outHalf) : backend.output(shape, a.dtype);
  if (runs.length === 0 || m === 0 || n === 0) return out;

  const operands = half ?? a.dtype;
  const result = outHalf ?? a.dtype;
  const bytes = BYTES[operands];
  const { pointer } = formsIn(backend, half);
  const [left, right] = [pointer(a), pointer(b)];
  for (const run of runs) {
    // The rows of many left matrices against one right matrix are one product.
    const isFolded = run.count > 1 && run.stepA === 1 && run.stepB === 0 && !transposeA;
    matMul(backend, {
      a: left + run.a * m * k * bytes,
      b: right + run.b * k * n * bytes,
      out: out.pointer + run.out * m * n * BYTES[result],
      batch: isFolded ? 1 : run.count,
      m: isFolded ? run.count * m : m,
      n,
      k,
      transposeA,
      transposeB,
      strideA: run.stepA * m * k,
      strideB: run.stepB * k * n,
      strideOut: m * n,
      operands,
      result,
      activation,
      alpha,
      bias: bias && formsIn(backend, outHalf).pointer(bias),
    });
  }
  return out;
}

/** Kernels of the activations, for those that cannot follow the product at once. */
const KERNELS: Partial<Record<string, string>> = {
  relu: 'Relu',
  relu6: 'Relu6',
  elu: 'Elu',
  sigmoid: 'Sigmoid',
  leakyrelu: 'LeakyRelu',
  prelu: 'Prelu',
};

interface Inputs {
  a: TensorInfo;
  b: TensorInfo;
}

interface FusedInputs extends Inputs {
  bias?: TensorInfo;
  preluActivationWeights?: TensorInfo;
}

function fusedMatMul(
  backend: CudaBackend,
  inputs: FusedInputs,
  attrs: _FusedMatMulAttrs,
): TensorInfo {
  const { a, b, bias, preluActivationWeights } = inputs;
  const { transposeA, transposeB, activation, leakyreluAlpha } = attrs;
  if (activation !== 'linear' && KERNELS[activation] === undefined) {
    throw new D2DMoEError(
      'CUDA_ACTIVATION',
      `The activation "${activation}" cannot be fused with matMul: it has to be linear, ${Object.keys(KERNELS).join(', ')}.`,
    );
  }
  const isFloat = a.dtype === 'float32';
  const n = b.shape.at(transposeB ? -2 : -1) ?? 0;
  const isRow =
    bias === undefined || (bias.shape.at(-1) === n && util.sizeFromShape(bias.shape) === n);
  const hasBias = isRow && bias?.dtype === 'float32';
  if (isFloat && (bias === undefined || hasBias) && activation !== 'prelu') {
    return batchMatMul(backend, {
      a,
      b,
      transposeA,
      transposeB,
      bias,
      activation,
      alpha: leakyreluAlpha ?? 0,
    });
  }
  // Biases and slopes of other shapes, and int32, go step by step.
  let out = batchMatMul(backend, { a, b, transposeA, transposeB });
  const then = (name: string, inputs: Record<string, TensorInfo>, attrs = {}) => {
    const next = runKernel(backend, name, inputs, attrs);
    backend.disposeIntermediateTensorInfo(out);
    out = next;
  };
  if (bias) then('Add', { a: out, b: bias });
  if (activation === 'prelu') {
    if (!preluActivationWeights) {
      throw new D2DMoEError(
        'CUDA_ACTIVATION',
        'The activation "prelu" needs preluActivationWeights.',
      );
    }
    then('Prelu', { x: out, alpha: preluActivationWeights });
  } else if (activation !== 'linear') {
    then(KERNELS[activation] ?? '', { x: out }, { alpha: leakyreluAlpha });
  }
  return out;
}

/** Kernels of tf.matMul and tf.fused.matMul. */
export const productKernels: KernelConfig[] = [
  cudaKernel<Inputs, BatchMatMulAttrs>(BatchMatMul, ({ inputs, attrs, backend }) => {
    const { a, b } = inputs;
    const { transposeA, transposeB } = attrs;
    return batchMatMul(backend, { a, b, transposeA, transposeB });
  }),
  cudaKernel<FusedInputs, _FusedMatMulAttrs>(_FusedMatMul, ({ inputs, attrs, backend }) =>
    fusedMatMul(backend, inputs, attrs),
  ),
];
