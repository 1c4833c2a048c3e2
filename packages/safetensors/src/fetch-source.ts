import { D2DMoEError } from '@d2dmoe/core';
import type { ByteSource } from './byte-source.js';

/** Bytes of the first request: enough for the header of most files, so that opening takes one round trip. */
const FIRST_BYTES = 65_536;

/** Settings of {@link fetchSource}. */
export interface FetchSourceOptions {
  /** Called in place of the global `fetch`, e.g. to send credentials. */
  fetch?: typeof fetch;
}

/**
 * A source over HTTP range requests, for browsers and Node. It asks for the file's beginning at once, to learn the
 * size.
 *
 * @throws D2DMoEError `SAFETENSORS_FILE_MISSING` for status 404 or 410, `SAFETENSORS_RANGE_UNSUPPORTED` when the server
 *   sends the whole file or hides its size, `SAFETENSORS_READ_FAILED` for anything else that goes wrong; reads throw
 *   the same.
 */
export async function fetchSource(
  url: string | URL,
  options: FetchSourceOptions = {},
): Promise<ByteSource> {
  const name = String(url);
  const fetchRange = (begin: number, end: number) =>
    requestRange(name, options.fetch ?? fetch, begin, end);
  const { bytes: first, size } = await fetchRange(0, FIRST_BYTES);
  return {
    name,
    size,
    async read(begin, end) {
      if (begin === end) {
        return new Uint8Array(0);
      }
      if (end <= first.length) {
        return first.slice(begin, end);
      }
      const range = await fetchRange(begin, end);
      if (range.size !== size) {
        throw new D2DMoEError(
          'SAFETENSORS_READ_FAILED',
          `${name}: the file had ${size} bytes when it was opened and has ${range.size} now; open it again.`,
        );
      }
      return range.bytes;
    },
  };
}

async function requestRange(
  name: string,
  fetchImplementation: typeof fetch,
  begin: number,
  end: number,
): Promise<{ bytes: Uint8Array; size: number }> {
  try {
    const headers = { Range: `bytes=${begin}-${end - 1}` };
    const response = await fetchImplementation(name, { headers });
    // An empty file has no range to send.
    if (response.status === 416 && response.headers.get('Content-Range') === 'bytes */0') {
      return { bytes: new Uint8Array(0), size: 0 };
    }
    if (response.status !== 206) {
      await response.body?.cancel();
      throw statusError(name, response.status);
    }
    const size = sentSize(name, response.headers.get('Content-Range'), begin);
    const bytes = new Uint8Array(await response.arrayBuffer());
    const expected = Math.min(end, size) - begin;
    if (bytes.length !== expected) {
      throw new D2DMoEError(
        'SAFETENSORS_READ_FAILED',
        `${name}: the server sent ${bytes.length} bytes for the ${expected} from byte ${begin}.`,
      );
    }
    return { bytes, size };
  } catch (error) {
    if (D2DMoEError.isInstance(error)) {
      throw error;
    }
    // fetch says only "fetch failed"; what happened is in its cause.
    const { message, cause } = error as Error;
    const reason = cause instanceof Error ? `${message}, ${cause.message}` : message;
    throw new D2DMoEError(
      'SAFETENSORS_READ_FAILED',
      `${name}: the request for bytes ${begin} to ${end} failed: ${reason}.`,
      { cause: error },
    );
  }
}

function statusError(name: string, status: number): D2DMoEError {
  if (status === 200) {
    return new D2DMoEError(
      'SAFETENSORS_RANGE_UNSUPPORTED',
      `${name}: the server ignores range requests and would send the whole file; it must answer them with status 206.`,
    );
  }
  if (status === 404 || status === 410) {
    return new D2DMoEError(
      'SAFETENSORS_FILE_MISSING',
      `${name}: there is no such file (status ${status}).`,
    );
  }
  return new D2DMoEError(
    'SAFETENSORS_READ_FAILED',
    `${name}: the server answered a range request with status ${status} in place of 206.`,
  );
}

/** The file's size by a Content-Range header, which must be about the range that was asked for. */
function sentSize(name: string, contentRange: string | null, begin: number): number {
  const match = /^bytes (\d+)-\d+\/(\d+)$/.exec(contentRange ?? '');
  if (match === null) {
    throw new D2DMoEError(
      'SAFETENSORS_RANGE_UNSUPPORTED',
      `${name}: the server does not say the file's size in a Content-Range header; another site's server must list it in Access-Control-Expose-Headers.`,
    );
  }
  if (Number(match[1]) !== begin) {
    throw new D2DMoEError(
      'SAFETENSORS_READ_FAILED',
      `${name}: the server sent bytes from ${match[1]} for a request from ${begin}.`,
    );
  }
  return Number(match[2]);
}
