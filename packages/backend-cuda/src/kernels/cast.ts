import { D2DMoEError } from '@d2dmoe/core';
import type { DataType, KernelConfig, TensorInfo } from '@tensorflow/tfjs-core';
import { util } from '@tensorflow/tfjs-core';
import type { CudaBackend } from '../backend.js';
import { kernel } from '../launch.js';
import { cudaKernel } from './config.js';
import { PACK_THREADS, packBlocks } from './packs.js';

const CASTS = new Map(
  [
    'float32_int32',
    'float32_bool',
    'int32_float32',
    'int32_bool',
    'bool_float32',
    'bool_int32',
  ].map((name) => [name, kernel('elementwise', `cast_${name}`, 'p p l f f')]),
);

/** Refuses strings and complex numbers where a kernel computes with real ones. */
export function requireReal(name: string, ...tensors: readonly TensorInfo[]): void {
  for (const { dtype } of tensors) {
    if (dtype === 'complex64' || dtype === 'string') {
      throw new D2DMoEError(
        'CUDA_DTYPE',
        `${name} does not support ${dtype} tensors; cast to float32, int32 or bool first.`,
      );
    }
  }
}

/** The parts of a complex64 tensor in its own shape: theirs are from before it was reshaped. */
export function complexParts(
  backend: CudaBackend,
  x: TensorInfo,
): { real: TensorInfo; imag: TensorInfo } {
  const { real, imag } = backend.complexParts(x);
  return { real: { ...real, shape: x.shape }, imag: { ...imag, shape: x.shape } };
}

function castComplex(backend: CudaBackend, x: TensorInfo, dtype: DataType): TensorInfo {
  if (x.dtype === 'complex64') return cast(backend, complexParts(backend, x).real, dtype);
  const real = cast(backend, x, 'float32');
  const imag = backend.output(x.shape, 'float32');
  backend.memset(imag.pointer, util.sizeFromShape(x.shape) * 4);
  const out = backend.complex(real, imag);
  backend.disposeIntermediateTensorInfo(real);
  backend.disposeIntermediateTensorInfo(imag);
  return out;
}

/**
 * A tensor of another type: another reference to the same data where the type is the same. Numbers become integers as
 * in JavaScript's typed arrays; what is not 0 becomes true; complex numbers lose their imaginary part.
 *
 * @throws D2DMoEError CUDA_DTYPE for strings.
 */
export function cast(backend: CudaBackend, x: TensorInfo, dtype: DataType): TensorInfo {
  if (x.dtype === dtype) return backend.alias(x, x.shape);
  if (x.dtype === 'complex64' || dtype === 'complex64') return castComplex(backend, x, dtype);
  const function_ = CASTS.get(`${x.dtype}_${dtype}`);
  if (function_ === undefined) {
    throw new D2DMoEError('CUDA_DTYPE', `Cast cannot turn a ${x.dtype} tensor into ${dtype}.`);
  }
  const size = util.sizeFromShape(x.shape);
  const out = backend.output(x.shape, dtype);
  const args = [backend.pointer(x), out.pointer, size, 0, 0];
  backend.launch(function_, packBlocks(size), PACK_THREADS, args);
  return out;
}

/** Calls `use` with `x` in a type, and gives back what that took. */
export function withType<R>(
  backend: CudaBackend,
  x: TensorInfo,
  dtype: DataType,
  use: (x: TensorInfo) => R,
): R {
  if (x.dtype === dtype) return use(x);
  const converted = cast(backend, x, dtype);
  try {
    return use(converted);
  } finally {
    backend.disposeIntermediateTensorInfo(converted);
  }
}

/** `x` in a type, in place of `x`: for results that were computed in another one. */
export function castAway(backend: CudaBackend, x: TensorInfo, dtype: DataType): TensorInfo {
  if (x.dtype === dtype) return x;
  const out = cast(backend, x, dtype);
  backend.disposeIntermediateTensorInfo(x);
  return out;
}

/** Cast, and what takes complex numbers apart. */
export const castKernels: KernelConfig[] = [
  cudaKernel<{ x: TensorInfo }, { dtype: DataType }>('Cast', ({ inputs, attrs, backend }) =>
    cast(backend, inputs.x, attrs.dtype),
  ),
  cudaKernel<{ real: TensorInfo; imag: TensorInfo }>('Complex', ({ inputs, backend }) =>
    backend.complex(inputs.real, inputs.imag),
  ),
  cudaKernel<{ input: TensorInfo }>('Real', ({ inputs, backend }) => {
    const { real } = complexParts(backend, inputs.input);
    return backend.alias(real, real.shape);
  }),
  cudaKernel<{ input: TensorInfo }>('Imag', ({ inputs, backend }) => {
    const { imag } = complexParts(backend, inputs.input);
    return backend.alias(imag, imag.shape);
  }),
  cudaKernel<{ x: TensorInfo }>('Identity', ({ inputs, backend }) =>
    backend.alias(inputs.x, inputs.x.shape),
  ),
];
