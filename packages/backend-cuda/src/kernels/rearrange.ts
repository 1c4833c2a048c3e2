import { type DataType, type TensorInfo, util } from '@tensorflow/tfjs-core';
import type { CudaBackend } from '../backend.js';
import { bytesPerElement } from '../tensor-data.js';
import { copyOnHost, countOf, isRun, type Layout, merged } from './layout.js';
import { stridedCopy } from './strided-copy.js';

/** A tensor that a copy reads, and where its elements go. */
export interface Piece {
  readonly tensor: TensorInfo;
  readonly layout: Layout;
}

/**
 * A tensor of the given shape whose elements are those of x in another order: the one entry for all
 * kernels that move elements and compute nothing. The result is another tensor over the same data where
 * the order stays, and in bf16 form where x exists in that form only; strings are moved on the host.
 */
export function rearranged(
  backend: CudaBackend,
  x: TensorInfo,
  shape: readonly number[],
  layout: Layout,
): TensorInfo {
  if (countOf(layout) === util.sizeFromShape(x.shape) && isRun(merged(layout.axes))) {
    return backend.alias(x, shape);
  }
  return gathered(backend, [{ tensor: x, layout }], shape);
}

/**
 * A tensor of the given shape that is put together from pieces of one dtype.
 *
 * @param rest What the pieces leave out: nothing, or elements that are to be zero.
 */
export function gathered(
  backend: CudaBackend,
  pieces: readonly Piece[],
  shape: readonly number[],
  rest: 'none' | 'zeros' = 'none',
): TensorInfo {
  const dtype = pieces[0]?.tensor.dtype ?? 'float32';
  const odd = pieces.find((piece) => piece.tensor.dtype !== dtype);
  if (odd !== undefined) {
    throw new Error(
      `Tensors that are joined have one dtype, not ${dtype} and ${odd.tensor.dtype}.`,
    );
  }
  if (dtype === 'string') {
    const values: Uint8Array[] = [];
    for (const { tensor, layout } of pieces) copyOnHost(stringsOf(backend, tensor), values, layout);
    return backend.makeTensorInfo(shape, 'string', values);
  }
  if (dtype === 'complex64') {
    const part = (name: 'real' | 'imag') =>
      gathered(
        backend,
        pieces.map(({ tensor, layout }) => ({
          tensor: backend.complexParts(tensor)[name],
          layout,
        })),
        shape,
        rest,
      );
    return joined(backend, part('real'), part('imag'));
  }
  const only16 = pieces.every(({ tensor }) => backend.isOnly16(tensor));
  const output = only16 ? backend.output16(shape) : backend.output(shape, dtype);
  const bytes = only16 ? 2 : bytesPerElement(dtype);
  if (rest === 'zeros') backend.memset(output.pointer, util.sizeFromShape([...shape]) * bytes);
  for (const { tensor, layout } of pieces) {
    if (countOf(layout) === 0) continue;
    const from = only16 ? backend.pointer16(tensor) : backend.pointer(tensor);
    stridedCopy(backend, from, output.pointer, bytes, layout);
  }
  return output;
}

/** Runs a kernel on a tensor, or on the real and then the imaginary part of a complex one. */
export function byParts(
  backend: CudaBackend,
  x: TensorInfo,
  run: (part: TensorInfo, name: 'real' | 'imag') => TensorInfo,
): TensorInfo {
  if (x.dtype !== 'complex64') return run(x, 'real');
  const { real, imag } = backend.complexParts(x);
  const { shape } = x;
  return joined(backend, run({ ...real, shape }, 'real'), run({ ...imag, shape }, 'imag'));
}

function joined(backend: CudaBackend, real: TensorInfo, imag: TensorInfo): TensorInfo {
  const result = backend.complex(real, imag);
  backend.disposeIntermediateTensorInfo(real);
  backend.disposeIntermediateTensorInfo(imag);
  return result;
}

/** The encoded strings of a tensor. */
export function stringsOf(backend: CudaBackend, x: TensorInfo): Uint8Array[] {
  return backend.readSync(x.dataId) as Uint8Array[];
}

const word = new DataView(new ArrayBuffer(4));

/** The pattern of four bytes that a constant fills memory with: one element, or one byte four times. */
export function bitsOf(value: number, dtype: DataType): number {
  if (dtype === 'bool') return (value & 0xff) * 0x01010101;
  if (dtype === 'int32') return value >>> 0;
  word.setFloat32(0, value);
  return word.getUint32(0);
}
