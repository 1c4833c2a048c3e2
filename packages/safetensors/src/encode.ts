import { D2DMoEError } from '@d2dmoe/core';
import { DTYPE_BYTES, type Dtype } from './dtypes.js';
import {
  byteLength,
  checkDtype,
  checkShape,
  excerpt,
  MAX_HEADER_BYTES,
  METADATA_KEY,
} from './header.js';
import { float32ToBFloat16, float32ToFloat16 } from './half.js';
import { quote } from './quote.js';

/**
 * A tensor's elements in row-major order. A Uint8Array holds the raw little-endian bytes of any dtype; the dtype's own
 * typed array (Uint16Array of bits for F16 and BF16) is written as it is; a Float32Array is rounded to nearest even
 * for F16 and BF16 and widened for F64; an Int32Array is widened for I64.
 */
export type TensorData =
  | Uint8Array
  | Int8Array
  | Int16Array
  | Uint16Array
  | Int32Array
  | Float32Array
  | Float64Array
  | BigInt64Array;

/** The typed array that holds each dtype's elements as the file does. */
const OWN_ARRAY = {
  F64: Float64Array,
  I64: BigInt64Array,
  F32: Float32Array,
  I32: Int32Array,
  F16: Uint16Array,
  BF16: Uint16Array,
  I16: Int16Array,
  I8: Int8Array,
  U8: Uint8Array,
  BOOL: Uint8Array,
} as const;

/** What the header says of a tensor that is to be written. */
export interface TensorDescription {
  /** Unique within the file; well-formed UTF-16, and not `__metadata__`. */
  name: string;
  /** How the elements are stored. */
  dtype: Dtype;
  /** Sizes of the axes, outermost first; `[]` for a scalar. */
  shape: readonly number[];
}

/** A tensor that is to be written. */
export interface TensorEntry extends TensorDescription {
  /** As many elements as `shape` says. */
  data: TensorData;
}

/** Where everything goes in a file. */
export interface Layout<T> {
  /** The length of the header and the header, padded so that the tensors begin at a multiple of 8. */
  head: Uint8Array;
  /** The tensors in the order of the file: widest elements first, so that each is aligned, then by name. */
  entries: T[];
  /** The size of the whole file in bytes. */
  size: number;
}

/**
 * Lays out a file.
 *
 * @param file What messages call the file.
 * @throws D2DMoEError `SAFETENSORS_DUPLICATE_NAME`, `SAFETENSORS_DTYPE_UNKNOWN`, `SAFETENSORS_SHAPE_INVALID`,
 *   `SAFETENSORS_NAME_INVALID` for a name that the format reserves or UTF-8 cannot hold,
 *   `SAFETENSORS_METADATA_INVALID`, `SAFETENSORS_HEADER_TOO_LARGE`.
 */
export function layOut<T extends TensorDescription>(
  file: string,
  tensors: Iterable<T>,
  metadata: Readonly<Record<string, string>> = {},
): Layout<T> {
  const entries = [...tensors].sort(
    (a, b) =>
      DTYPE_BYTES[b.dtype] - DTYPE_BYTES[a.dtype] || (a.name < b.name ? -1 : +(a.name > b.name)),
  );
  // The JSON is put together by hand: an object would reorder names that look like numbers and lose "__proto__".
  const fields: string[] = [];
  if (Object.keys(metadata).length > 0) {
    fields.push(`"${METADATA_KEY}":{${metadataFields(file, metadata).join()}}`);
  }
  const names = new Set<string>();
  let offset = 0;
  for (const { name, dtype, shape } of entries) {
    checkName(file, name, names);
    names.add(name);
    checkDtype(`${file}: tensor ${quote(name)}`, dtype);
    checkShape(`${file}: tensor ${quote(name)}`, shape);
    const end = offset + byteLength(dtype, shape);
    const value = { dtype, shape, data_offsets: [offset, end] };
    fields.push(`${JSON.stringify(name)}:${JSON.stringify(value)}`);
    offset = end;
  }
  const head = encodeHead(file, `{${fields.join()}}`);
  return { head, entries, size: head.length + offset };
}

function checkName(file: string, name: string, others: ReadonlySet<string>): void {
  if (others.has(name)) {
    throw new D2DMoEError(
      'SAFETENSORS_DUPLICATE_NAME',
      `${file}: two tensors are named ${quote(name)}; each name must appear once.`,
    );
  }
  if (name === METADATA_KEY || !isWellFormed(name)) {
    throw new D2DMoEError(
      'SAFETENSORS_NAME_INVALID',
      `${file}: a tensor cannot be named ${quote(name)}; any other string without unpaired surrogates will do.`,
    );
  }
}

function metadataFields(file: string, metadata: Readonly<Record<string, string>>): string[] {
  return Object.entries(metadata).map(([key, value]) => {
    if (typeof value !== 'string' || !isWellFormed(key) || !isWellFormed(value)) {
      throw new D2DMoEError(
        'SAFETENSORS_METADATA_INVALID',
        `${file}: metadata field ${quote(key)} must be a string without unpaired surrogates.`,
      );
    }
    return `${JSON.stringify(key)}:${JSON.stringify(value)}`;
  });
}

function isWellFormed(text: string): boolean {
  return !/\p{Surrogate}/u.test(text);
}

function encodeHead(file: string, json: string): Uint8Array {
  const text = new TextEncoder().encode(json);
  const length = Math.ceil(text.length / 8) * 8;
  if (length > MAX_HEADER_BYTES) {
    throw new D2DMoEError(
      'SAFETENSORS_HEADER_TOO_LARGE',
      `${file}: the header would take ${length} bytes, but readers accept at most ${MAX_HEADER_BYTES}; write fewer tensors into one file.`,
    );
  }
  const head = new Uint8Array(8 + length).fill(0x20);
  new DataView(head.buffer).setBigUint64(0, BigInt(length), true);
  head.set(text, 8);
  return head;
}

/**
 * The bytes of a tensor as the file holds them; a view of `data` where nothing has to be converted.
 *
 * @param file What messages call the file.
 * @throws D2DMoEError `SAFETENSORS_SHAPE_MISMATCH` when the data do not fill the shape, `SAFETENSORS_DTYPE_MISMATCH`
 *   when their type cannot be written as the dtype.
 */
export function encodeData(
  file: string,
  { name, dtype, shape }: TensorDescription,
  data: TensorData,
): Uint8Array {
  const converted = convertData(dtype, data);
  if (converted === undefined) {
    throw new D2DMoEError(
      'SAFETENSORS_DTYPE_MISMATCH',
      `${file}: tensor ${quote(name)}: a ${data.constructor.name} cannot be written as ${dtype}; pass the dtype's own typed array or its raw bytes.`,
    );
  }
  const expected = byteLength(dtype, shape);
  if (converted.byteLength !== expected) {
    throw new D2DMoEError(
      'SAFETENSORS_SHAPE_MISMATCH',
      `${file}: tensor ${quote(name)}: shape ${excerpt(shape)} of ${dtype} takes ${expected} bytes, but its data hold ${converted.byteLength}.`,
    );
  }
  return new Uint8Array(converted.buffer, converted.byteOffset, converted.byteLength);
}

function convertData(dtype: Dtype, data: TensorData): TensorData | undefined {
  if (data instanceof Uint8Array || data instanceof OWN_ARRAY[dtype]) {
    return data;
  }
  if (data instanceof Float32Array && dtype === 'F16') {
    return float32ToFloat16(data);
  }
  if (data instanceof Float32Array && dtype === 'BF16') {
    return float32ToBFloat16(data);
  }
  if (data instanceof Float32Array && dtype === 'F64') {
    return Float64Array.from(data);
  }
  if (data instanceof Int32Array && dtype === 'I64') {
    return BigInt64Array.from(data, BigInt);
  }
  return undefined;
}

/**
 * A safetensors file in memory. For models that do not fit there, `writeSafetensors` of the `./node` entry writes one
 * tensor at a time.
 *
 * @param tensors In any order; the file's is widest elements first, then by name.
 * @param metadata Strings of the file's own, its `__metadata__`.
 * @throws D2DMoEError as {@link layOut} and {@link encodeData}.
 */
export function encodeSafetensors(
  tensors: Iterable<TensorEntry>,
  metadata?: Readonly<Record<string, string>>,
): Uint8Array {
  const { head, entries, size } = layOut('safetensors', tensors, metadata);
  const bytes = new Uint8Array(size);
  bytes.set(head);
  let offset = head.length;
  for (const entry of entries) {
    const data = encodeData('safetensors', entry, entry.data);
    bytes.set(data, offset);
    offset += data.length;
  }
  return bytes;
}
