import { D2DMoEError } from '@d2dmoe/core';
import type { DataType, KernelConfig, TensorInfo } from '@tensorflow/tfjs-core';
import { util } from '@tensorflow/tfjs-core';
import type { CudaBackend } from '../backend.js';
import { kernel } from '../launch.js';
import { cudaKernel } from './config.js';

const fill32 = kernel('elementwise', 'fill_32', 'p l i');
const fill8 = kernel('elementwise', 'fill_8', 'p l i');
const rangeFloat = kernel('elementwise', 'range_f32', 'p l d d');
const rangeInt = kernel('elementwise', 'range_i32', 'p l d d');

/** The bits of a value as an element of a type holds them. */
function bits(value: number, dtype: DataType): number {
  if (dtype === 'bool') return value === 0 ? 0 : 1;
  return dtype === 'int32' ? value | 0 : (new Int32Array(new Float32Array([value]).buffer)[0] ?? 0);
}

/** A new tensor (float32, int32 or bool) with one value everywhere. */
export function fill(
  backend: CudaBackend,
  shape: readonly number[],
  value: number,
  dtype: DataType,
): TensorInfo {
  const size = util.sizeFromShape(shape as number[]);
  const out = backend.output(shape, dtype);
  const pattern = bits(value, dtype);
  if (pattern === 0) {
    backend.memset(out.pointer, size * (dtype === 'bool' ? 1 : 4));
  } else if (dtype === 'bool') {
    backend.launch(fill8, backend.blocks(Math.ceil(size / 16)), 256, [out.pointer, size, pattern]);
  } else {
    backend.launch(fill32, backend.blocks(Math.ceil(size / 4)), 256, [out.pointer, size, pattern]);
  }
  return out;
}

/** One value everywhere, in another tensor's shape and type; complex numbers get it as their real part. */
function fillLike(backend: CudaBackend, name: string, x: TensorInfo, value: number): TensorInfo {
  if (x.dtype === 'string') {
    throw new D2DMoEError('CUDA_DTYPE', `${name} does not support string tensors.`);
  }
  if (x.dtype !== 'complex64') return fill(backend, x.shape, value, x.dtype);
  const real = fill(backend, x.shape, value, 'float32');
  const imag = fill(backend, x.shape, 0, 'float32');
  const out = backend.complex(real, imag);
  backend.disposeIntermediateTensorInfo(real);
  backend.disposeIntermediateTensorInfo(imag);
  return out;
}

function sequence(
  backend: CudaBackend,
  size: number,
  start: number,
  step: number,
  dtype: 'float32' | 'int32',
): TensorInfo {
  const out = backend.output([size], dtype);
  const function_ = dtype === 'int32' ? rangeInt : rangeFloat;
  backend.launch(function_, backend.blocks(size), 256, [out.pointer, size, start, step]);
  return out;
}

interface RangeAttrs {
  start: number;
  stop: number;
  step: number;
  dtype: 'float32' | 'int32';
}

/** tf.range: its length and step; a step of 1, the default, goes either way. */
function range(backend: CudaBackend, { start, stop, step, dtype }: RangeAttrs): TensorInfo {
  const empty = start === stop || (start < stop && step < 0) || (stop < start && step > 1);
  if (empty) return sequence(backend, 0, start, step, dtype);
  const size = Math.abs(Math.ceil((stop - start) / step));
  return sequence(backend, size, start, stop < start && step === 1 ? -1 : step, dtype);
}

/** Tensors that follow from attributes or from another tensor's shape. */
export const fillKernels: KernelConfig[] = [
  cudaKernel<object, { shape: number[]; value: number | string | boolean; dtype?: DataType }>(
    'Fill',
    ({ attrs: { shape, value, dtype }, backend }) => {
      const type = dtype ?? util.inferDtype(value);
      if (type !== 'string') return fill(backend, shape, Number(value), type);
      const text = util.encodeString(String(value));
      const values = Array.from({ length: util.sizeFromShape(shape) }, () => text);
      return backend.makeTensorInfo(shape, 'string', values);
    },
  ),
  cudaKernel<{ x: TensorInfo }>('ZerosLike', ({ inputs, backend }) =>
    fillLike(backend, 'ZerosLike', inputs.x, 0),
  ),
  cudaKernel<{ x: TensorInfo }>('OnesLike', ({ inputs, backend }) =>
    fillLike(backend, 'OnesLike', inputs.x, 1),
  ),
  cudaKernel<object, { start: number; stop: number; num: number }>(
    'LinSpace',
    ({ attrs: { start, stop, num }, backend }) =>
      sequence(backend, num, start, num > 1 ? (stop - start) / (num - 1) : 0, 'float32'),
  ),
  cudaKernel<object, RangeAttrs>('Range', ({ attrs, backend }) => range(backend, attrs)),
];
