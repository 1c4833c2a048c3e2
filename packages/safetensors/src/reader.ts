import { D2DMoEError } from '@d2dmoe/core';
import { readRange, type ByteSource } from './byte-source.js';
import { toFloat32, toInt32 } from './convert.js';
import { MAX_HEADER_BYTES, parseHeader, type Header, type TensorInfo } from './header.js';
import { quote } from './quote.js';

/** Named tensors that are read one by one: a safetensors file or a sharded checkpoint. */
export interface TensorReader {
  /** The file's own strings, its `__metadata__`. */
  readonly metadata: Readonly<Record<string, string>>;
  /** Every tensor by name; none has been read. */
  readonly tensors: ReadonlyMap<string, TensorInfo>;
  /**
   * The tensor's raw little-endian bytes, a copy that belongs to the caller.
   *
   * @throws D2DMoEError `SAFETENSORS_TENSOR_MISSING`, `SAFETENSORS_READ_FAILED`, `SAFETENSORS_TRUNCATED`.
   */
  read(name: string): Promise<Uint8Array>;
  /**
   * The tensor's values in float32, in row-major order: F16 and BF16 exactly, F64 rounded to nearest, integers by
   * value, BOOL as 0 and 1.
   *
   * @throws D2DMoEError as {@link TensorReader.read}, and `SAFETENSORS_VALUE_OUT_OF_RANGE` for an integer that float32
   *   cannot hold exactly.
   */
  readFloat32(name: string): Promise<Float32Array>;
  /**
   * The values of an integer or BOOL tensor in int32, in row-major order.
   *
   * @throws D2DMoEError as {@link TensorReader.read}, `SAFETENSORS_DTYPE_MISMATCH` for a floating-point tensor, and
   *   `SAFETENSORS_VALUE_OUT_OF_RANGE` for an I64 value that 32 bits cannot hold.
   */
  readInt32(name: string): Promise<Int32Array>;
  /** Closes the sources; nothing can be read afterwards. */
  close(): Promise<void>;
}

/** One safetensors file. */
export class SafetensorsFile implements TensorReader {
  /** The header's `__metadata__`; empty where there is none. */
  readonly metadata: Readonly<Record<string, string>>;
  /** By name; none has been read. */
  readonly tensors: ReadonlyMap<string, TensorInfo>;
  readonly #source: ByteSource;

  /** Use {@link openSafetensors}, which reads and checks the header. */
  constructor(source: ByteSource, header: Header) {
    this.#source = source;
    this.metadata = header.metadata;
    this.tensors = header.tensors;
  }

  /** The tensor's bytes, see {@link TensorReader.read}. */
  async read(name: string): Promise<Uint8Array> {
    const { begin, end } = this.#info(name);
    return readRange(this.#source, begin, end, `tensor ${quote(name)}`);
  }

  /** Its values in float32, see {@link TensorReader.readFloat32}. */
  async readFloat32(name: string): Promise<Float32Array> {
    return toFloat32(await this.read(name), this.#info(name).dtype, this.#describe(name));
  }

  /** Its values in int32, see {@link TensorReader.readInt32}. */
  async readInt32(name: string): Promise<Int32Array> {
    return toInt32(await this.read(name), this.#info(name).dtype, this.#describe(name));
  }

  /** Closes the source; nothing can be read afterwards. */
  async close(): Promise<void> {
    await this.#source.close?.();
  }

  #info(name: string): TensorInfo {
    const info = this.tensors.get(name);
    if (info === undefined) {
      throw new D2DMoEError(
        'SAFETENSORS_TENSOR_MISSING',
        `${this.#source.name}: there is no tensor named ${quote(name)}.`,
      );
    }
    return info;
  }

  #describe(name: string): string {
    return `${this.#source.name}: tensor ${quote(name)}`;
  }
}

/**
 * Opens a safetensors file. Only its header is read (two ranges, at most 100 MB), whatever the file's size.
 *
 * @param source Closed by this function when the file is rejected, else by the result's `close`.
 * @throws D2DMoEError when the file is not sound; the README lists the codes.
 */
export async function openSafetensors(source: ByteSource): Promise<SafetensorsFile> {
  try {
    return new SafetensorsFile(source, await readHeader(source));
  } catch (error) {
    await source.close?.();
    throw error;
  }
}

async function readHeader(source: ByteSource): Promise<Header> {
  const { name, size } = source;
  if (size < 8) {
    throw new D2DMoEError(
      'SAFETENSORS_TRUNCATED',
      `${name}: the file has ${size} bytes, fewer than the 8 that a safetensors file begins with.`,
    );
  }
  const prefix = await readRange(source, 0, 8, 'the header length');
  const declared = new DataView(prefix.buffer, prefix.byteOffset).getBigUint64(0, true);
  if (declared > BigInt(MAX_HEADER_BYTES)) {
    throw new D2DMoEError(
      'SAFETENSORS_HEADER_TOO_LARGE',
      `${name}: the file declares a header of ${declared} bytes, but at most ${MAX_HEADER_BYTES} are read, so that a file of another kind does not fill the memory; check that it is a safetensors file.`,
    );
  }
  const length = Number(declared);
  if (8 + length > size) {
    throw new D2DMoEError(
      'SAFETENSORS_TRUNCATED',
      `${name}: the file has ${size} bytes, but its header alone goes up to byte ${8 + length}; it is incomplete.`,
    );
  }
  return parseHeader(name, await readRange(source, 8, 8 + length, 'the header'), size);
}
