import { D2DMoEError } from '@d2dmoe/core';
import { DTYPE_BYTES, isDtype, type Dtype } from './dtypes.js';
import { quote } from './quote.js';
import { findJsonFault, isJsonObject } from './strict-json.js';

/**
 * The longest header that is read or written, in bytes. It is the cap of the reference implementation, so whatever
 * that one accepts opens here too, and a file of another kind, whose first eight bytes mean something else, is not
 * taken into memory whole.
 */
export const MAX_HEADER_BYTES = 100_000_000;

/** The one key of a header that names no tensor. */
export const METADATA_KEY = '__metadata__';

/** Where a tensor is and what it is. */
export interface TensorInfo {
  /** Unique within its file. */
  name: string;
  /** How the elements are stored. */
  dtype: Dtype;
  /** Sizes of the axes, outermost first; `[]` for a scalar. */
  shape: readonly number[];
  /** The first byte of the tensor, counted from the beginning of its file. */
  begin: number;
  /** The byte after the tensor's last. */
  end: number;
  /** The name of the source that holds it. */
  file: string;
}

/** What a header says. */
export interface Header {
  metadata: Record<string, string>;
  /** In the order of their bytes. */
  tensors: Map<string, TensorInfo>;
}

/**
 * Parses and checks a header. What it returns is consistent: every tensor lies inside the file, fills its bytes
 * exactly, and no byte of the file belongs to two tensors or to none.
 *
 * @param file What messages call the file.
 * @param bytes The header, without the eight bytes of its length.
 * @param fileSize The size of the whole file in bytes.
 * @throws D2DMoEError with one of the `SAFETENSORS_…` codes that the README lists.
 */
export function parseHeader(file: string, bytes: Uint8Array, fileSize: number): Header {
  const json = parseJson(file, bytes);
  const dataBegin = 8 + bytes.length;
  let metadata: Record<string, string> = {};
  const infos: TensorInfo[] = [];
  for (const [name, value] of Object.entries(json)) {
    if (name === METADATA_KEY) {
      metadata = checkMetadata(file, value);
    } else {
      infos.push(parseEntry(file, name, value, dataBegin));
    }
  }
  infos.sort((a, b) => a.begin - b.begin || a.end - b.end);
  checkLayout(file, infos, dataBegin, fileSize);
  return { metadata, tensors: new Map(infos.map((info) => [info.name, info])) };
}

function parseJson(file: string, bytes: Uint8Array): Record<string, unknown> {
  let value: unknown;
  try {
    // A byte order mark is not JSON and must not be dropped silently.
    const text = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes);
    if (text.startsWith('{')) {
      const fault = findJsonFault(text, '{{[');
      if (fault !== undefined) {
        throw faultError(file, fault.kind, fault.path);
      }
    }
    value = JSON.parse(text);
  } catch (error) {
    if (D2DMoEError.isInstance(error)) {
      throw error;
    }
    throw new D2DMoEError(
      'SAFETENSORS_HEADER_NOT_JSON',
      `${file}: the header (${bytes.length} bytes from byte 8) is not JSON in UTF-8; the file is damaged or no safetensors file.`,
      { cause: error },
    );
  }
  // The format wants the brace first, white space only at the end.
  if (!isJsonObject(value) || bytes[0] !== 0x7b) {
    throw new D2DMoEError(
      'SAFETENSORS_HEADER_NOT_OBJECT',
      `${file}: the header must be a JSON object that begins with "{" at byte 8.`,
    );
  }
  return value;
}

function faultError(file: string, kind: 'duplicate' | 'nesting', path: string[]): D2DMoEError {
  const [name = '', field] = path;
  const where = name === METADATA_KEY ? METADATA_KEY : `tensor ${quote(name)}`;
  if (kind === 'nesting') {
    return new D2DMoEError(
      'SAFETENSORS_HEADER_INVALID',
      field === undefined
        ? `${file}: the header's entry for ${where} must be an object, not an array.`
        : `${file}: field ${quote(field)} of ${where} is nested deeper than a safetensors header goes.`,
    );
  }
  return new D2DMoEError(
    'SAFETENSORS_DUPLICATE_NAME',
    field === undefined
      ? `${file}: the header names ${where} twice; each name must appear once.`
      : `${file}: the header gives field ${quote(field)} of ${where} twice; each field must appear once.`,
  );
}

function checkMetadata(file: string, value: unknown): Record<string, string> {
  if (!isJsonObject(value)) {
    throw new D2DMoEError(
      'SAFETENSORS_HEADER_INVALID',
      `${file}: ${METADATA_KEY} in the header must be an object of strings.`,
    );
  }
  for (const [key, text] of Object.entries(value)) {
    if (typeof text !== 'string') {
      throw new D2DMoEError(
        'SAFETENSORS_HEADER_INVALID',
        `${file}: field ${quote(key)} of ${METADATA_KEY} in the header must be a string.`,
      );
    }
  }
  return value as Record<string, string>;
}

function parseEntry(file: string, name: string, value: unknown, dataBegin: number): TensorInfo {
  const tensor = `${file}: tensor ${quote(name)}`;
  if (!isJsonObject(value)) {
    throw new D2DMoEError(
      'SAFETENSORS_HEADER_INVALID',
      `${tensor}: its entry in the header must be an object with dtype, shape and data_offsets.`,
    );
  }
  const { dtype, shape, data_offsets: offsets } = value;
  if (typeof dtype !== 'string') {
    throw new D2DMoEError('SAFETENSORS_HEADER_INVALID', `${tensor}: dtype must be a string.`);
  }
  checkDtype(tensor, dtype);
  checkShape(tensor, shape);
  if (!Array.isArray(offsets) || offsets.length !== 2 || !offsets.every(isCount)) {
    throw new D2DMoEError(
      'SAFETENSORS_OFFSETS_INVALID',
      `${tensor}: data_offsets must be two integers of at least 0, begin and end, not ${excerpt(offsets)}.`,
    );
  }
  const [begin, end] = offsets as [number, number];
  if (begin > end) {
    throw new D2DMoEError(
      'SAFETENSORS_OFFSETS_OUT_OF_RANGE',
      `${tensor}: data_offsets [${begin}, ${end}] end before they begin.`,
    );
  }
  return { name, dtype, shape, begin: dataBegin + begin, end: dataBegin + end, file };
}

/** @throws D2DMoEError `SAFETENSORS_DTYPE_UNKNOWN`. `tensor` names file and tensor for the message. */
export function checkDtype(tensor: string, dtype: string): asserts dtype is Dtype {
  if (!isDtype(dtype)) {
    throw new D2DMoEError(
      'SAFETENSORS_DTYPE_UNKNOWN',
      `${tensor}: dtype ${quote(dtype)} is not among the known ones, ${Object.keys(DTYPE_BYTES).join(', ')}.`,
    );
  }
}

/** @throws D2DMoEError `SAFETENSORS_SHAPE_INVALID`. `tensor` names file and tensor for the message. */
export function checkShape(tensor: string, shape: unknown): asserts shape is number[] {
  if (!Array.isArray(shape) || !shape.every(isCount)) {
    throw new D2DMoEError(
      'SAFETENSORS_SHAPE_INVALID',
      `${tensor}: shape must be an array of integers of at least 0, not ${excerpt(shape)}.`,
    );
  }
  let elements = 1;
  for (const length of shape) {
    elements *= length;
    if (!Number.isSafeInteger(elements)) {
      throw new D2DMoEError(
        'SAFETENSORS_SHAPE_INVALID',
        `${tensor}: shape ${excerpt(shape)} has more elements than any file can hold.`,
      );
    }
  }
}

/** The bytes that a tensor of this dtype and (checked) shape takes. */
export function byteLength(dtype: Dtype, shape: readonly number[]): number {
  return shape.reduce((elements, length) => elements * length, 1) * DTYPE_BYTES[dtype];
}

function isCount(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) >= 0 && !Object.is(value, -0);
}

/** A JSON value as it appears in a message, no longer than a line. */
export function excerpt(value: unknown): string {
  const shown = Array.isArray(value) ? value.slice(0, 16) : value;
  const text = JSON.stringify(shown) ?? 'nothing';
  return text.length > 120 ? `${text.slice(0, 120)}…` : text;
}

/** `infos` in the order of their bytes; they must cover the file from `dataBegin` to its end, each byte once. */
function checkLayout(file: string, infos: TensorInfo[], dataBegin: number, fileSize: number): void {
  let covered = dataBegin;
  let previous: TensorInfo | undefined;
  for (const info of infos) {
    const { name, dtype, shape, begin, end } = info;
    const tensor = `${file}: tensor ${quote(name)}`;
    const offsets = `data_offsets [${begin - dataBegin}, ${end - dataBegin}]`;
    const bytes = byteLength(dtype, shape);
    const isSound = begin === covered && end - begin === bytes;
    if (end > fileSize && !isSound) {
      throw new D2DMoEError(
        'SAFETENSORS_OFFSETS_OUT_OF_RANGE',
        `${tensor}: ${offsets} lie beyond the ${fileSize - dataBegin} bytes of data in the file.`,
      );
    }
    if (begin < covered) {
      throw new D2DMoEError(
        'SAFETENSORS_OFFSETS_OVERLAP',
        `${tensor}: ${offsets} overlap those of tensor ${quote(previous?.name ?? '')}, which end at ${covered - dataBegin}.`,
      );
    }
    if (begin > covered) {
      throw new D2DMoEError(
        'SAFETENSORS_OFFSETS_GAP',
        `${tensor}: ${offsets} leave a gap; they should begin at ${covered - dataBegin}, where the bytes before them end.`,
      );
    }
    if (!isSound) {
      throw new D2DMoEError(
        'SAFETENSORS_SHAPE_MISMATCH',
        `${tensor}: shape ${excerpt(shape)} of ${dtype} takes ${bytes} bytes, but its ${offsets} hold ${end - begin}.`,
      );
    }
    covered = end;
    previous = info;
  }
  // A sound layout that goes past the end means that the header is right and the rest of the file is missing.
  if (covered > fileSize) {
    throw new D2DMoEError(
      'SAFETENSORS_TRUNCATED',
      `${file}: the file has ${fileSize} bytes, but its tensors go up to byte ${covered}; it is incomplete.`,
    );
  }
  if (covered < fileSize) {
    throw new D2DMoEError(
      'SAFETENSORS_OFFSETS_GAP',
      `${file}: the last ${fileSize - covered} bytes of the file belong to no tensor.`,
    );
  }
}
