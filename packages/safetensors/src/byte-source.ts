import { D2DMoEError } from '@d2dmoe/core';

/** Bytes that are read by range: a file, a URL, a buffer. */
export interface ByteSource {
  /** What messages call it: a path, a URL. */
  name: string;
  /** Its length in bytes. */
  size: number;
  /**
   * The bytes from `begin` up to, not including, `end`. The array belongs to the caller: the source keeps no view of
   * it.
   */
  read(begin: number, end: number): Promise<Uint8Array>;
  /** Releases what the source holds, such as a file descriptor. */
  close?(): Promise<void>;
}

/** A source over bytes in memory; reads are copies. `name` is what messages call it. */
export function bufferSource(bytes: Uint8Array, name = 'buffer'): ByteSource {
  return {
    name,
    size: bytes.length,
    read: (begin, end) => Promise.resolve(Uint8Array.prototype.slice.call(bytes, begin, end)),
  };
}

/**
 * Reads a range in full, whatever the source does.
 *
 * @param what What the bytes are, for messages: `the header`, `tensor "x"`.
 * @throws D2DMoEError `SAFETENSORS_TRUNCATED` when fewer bytes come back, `SAFETENSORS_READ_FAILED` when the source
 *   fails with an error of another kind.
 */
export async function readRange(
  source: ByteSource,
  begin: number,
  end: number,
  what: string,
): Promise<Uint8Array> {
  let bytes: Uint8Array;
  try {
    bytes = await source.read(begin, end);
  } catch (error) {
    if (D2DMoEError.isInstance(error)) {
      throw error;
    }
    const reason = error instanceof Error ? error.message : String(error);
    throw new D2DMoEError(
      'SAFETENSORS_READ_FAILED',
      `${source.name}: ${what} (bytes ${begin} to ${end}) cannot be read: ${reason}`,
      { cause: error },
    );
  }
  if (bytes.length !== end - begin) {
    throw new D2DMoEError(
      'SAFETENSORS_TRUNCATED',
      `${source.name}: ${what} takes bytes ${begin} to ${end}, but only ${bytes.length} of its ${end - begin} bytes could be read; the file is incomplete.`,
    );
  }
  return bytes;
}
