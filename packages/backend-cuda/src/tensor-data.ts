import { D2DMoEError } from '@d2dmoe/core';
import type { BackendValues, DataType, TensorInfo, TypedArray } from '@tensorflow/tfjs-core';
import { util } from '@tensorflow/tfjs-core';
import type { Block } from './driver/allocator.js';

/** What {@link HalfType} may be. */
export const HALF_TYPES = ['bf16', 'fp16'] as const;
/** A type of 16 bits that a float32 tensor may be on the device in. */
export type HalfType = (typeof HALF_TYPES)[number];

/** A type, or a precision, where it is one of 16 bits. */
export const halfTypeOf = (type: string): HalfType | undefined =>
  HALF_TYPES.find((half) => half === type);

/** What the backend knows of one tensor's data. */
export interface TensorRecord {
  readonly dtype: DataType;
  /** Number of elements. */
  readonly size: number;
  refCount: number;
  /** Values on the host: before the upload, of small tensors after it too, of strings always. */
  values: BackendValues | undefined;
  /** The float32, int32 or bool form on the device. */
  block: Block | undefined;
  /** The forms of 16 bits on the device. */
  readonly halves: Partial<Record<HalfType, Block>>;
  /** The two float32 tensors of a complex64 one. */
  complexTensorInfos: { readonly real: TensorInfo; readonly imag: TensorInfo } | undefined;
  /** Whether this is one of the two. */
  readonly isPart: boolean;
}

/** Bytes of one element on the device. */
export function bytesPerElement(dtype: DataType): number {
  if (dtype === 'float32' || dtype === 'int32') return 4;
  if (dtype === 'bool') return 1;
  throw new D2DMoEError(
    'CUDA_DTYPE',
    dtype === 'string'
      ? 'A string tensor has no form on the device; only kernels that work on the host take it.'
      : `A ${dtype} tensor has no address of its own on the device; its real and its imaginary part have one.`,
  );
}

/** Values as the typed array of their dtype, without a copy where they are that already. */
export function typedValues(values: BackendValues, dtype: DataType): BackendValues {
  if (dtype === 'bool' && !(values instanceof Uint8Array) && !(values instanceof ArrayBuffer)) {
    return Uint8Array.from(values as ArrayLike<number>);
  }
  if (Array.isArray(values) && dtype !== 'string') {
    return dtype === 'int32'
      ? Int32Array.from(values as unknown as number[])
      : Float32Array.from(values as unknown as number[]);
  }
  return util.convertBackendValuesAndArrayBuffer(values, dtype);
}

/** A typed array of `size` elements of a dtype. */
export function emptyValues(dtype: DataType, size: number): TypedArray {
  if (dtype === 'float32') return new Float32Array(size);
  return dtype === 'int32' ? new Int32Array(size) : new Uint8Array(size);
}

/** The bytes of a typed array, not copied. */
export function bytesOf(values: TypedArray): Uint8Array {
  return new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
}
