import { open } from 'node:fs/promises';
import { D2DMoEError } from '@d2dmoe/core';
import type { ByteSource } from './byte-source.js';

/** The most bytes of one read call; the system's own limit is just under 2 GiB. */
const MAX_READ_BYTES = 2 ** 30;

/**
 * A source over a file, which stays open until `close`.
 *
 * @throws D2DMoEError `SAFETENSORS_FILE_MISSING` when there is no file of that name, `SAFETENSORS_READ_FAILED` when it
 *   cannot be opened.
 */
export async function fileSource(path: string): Promise<ByteSource> {
  const handle = await open(path, 'r').catch((error: unknown) => {
    throw openError(path, error as NodeJS.ErrnoException);
  });
  const stats = await handle.stat();
  if (!stats.isFile()) {
    await handle.close();
    throw new D2DMoEError('SAFETENSORS_FILE_MISSING', `${path} is not a file.`);
  }
  return {
    name: path,
    size: stats.size,
    async read(begin, end) {
      const bytes = new Uint8Array(end - begin);
      let done = 0;
      while (done < bytes.length) {
        const length = Math.min(bytes.length - done, MAX_READ_BYTES);
        const { bytesRead } = await handle.read(bytes, done, length, begin + done);
        if (bytesRead === 0) {
          // The file shrank since it was opened; the reader reports what is missing.
          return bytes.subarray(0, done);
        }
        done += bytesRead;
      }
      return bytes;
    },
    close: () => handle.close(),
  };
}

function openError(path: string, error: NodeJS.ErrnoException): D2DMoEError {
  if (error.code === 'ENOENT' || error.code === 'ENOTDIR') {
    return new D2DMoEError('SAFETENSORS_FILE_MISSING', `${path}: there is no such file.`, {
      cause: error,
    });
  }
  return new D2DMoEError('SAFETENSORS_READ_FAILED', `${path} cannot be opened: ${error.message}.`, {
    cause: error,
  });
}
