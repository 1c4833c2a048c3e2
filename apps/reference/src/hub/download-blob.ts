import { createHash, type Hash } from 'node:crypto';
import { constants } from 'node:fs';
import { open, rename, rm, stat, type FileHandle } from 'node:fs/promises';
import { D2DMoEError } from '@d2dmoe/core';
import { attemptWrite } from '@d2dmoe/safetensors/node';
import { reasonOf } from './errors.js';

/** A file of the hub and its place in the cache. */
export interface Blob {
  /** Where it goes. */
  path: string;
  /** How messages call it. */
  name: string;
  size: number;
  /** Its hash in hex: SHA-256 of a file in LFS (64 digits), else git's SHA-1 (40 digits). */
  etag: string;
}

/**
 * Downloads one file into the cache's blobs. What has arrived lies in `<path>.incomplete`, as other software for this
 * cache has it, and a later call goes on from there; under its own name the file appears only once its hash is right.
 * A connection that breaks is taken up again. Two processes may download the same file at once, since both write the
 * same bytes to the same places.
 *
 * @param request Asks for the file from an offset on; it answers with status 206, or 200 for the whole file.
 * @param onPosition Receives the bytes that are there.
 * @throws D2DMoEError `HUB_FILE_CORRUPT` for a wrong hash, the file is then thrown away; `HUB_UNREACHABLE` for a
 *   connection that breaks before it brings anything; `HUB_FAILED` for another range than was asked for; `DISK_FULL`,
 *   `WRITE_FAILED`; what `request` throws; the signal's reason
 */
export async function downloadBlob(
  blob: Blob,
  request: (offset: number) => Promise<Response>,
  onPosition: (bytes: number) => void,
  signal: AbortSignal | undefined,
): Promise<void> {
  const partial = `${blob.path}.incomplete`;
  const handle = await attemptWrite(partial, () =>
    open(partial, constants.O_RDWR | constants.O_CREAT),
  );
  try {
    const digest = await fill(handle, partial, blob, request, onPosition, signal);
    if (digest !== blob.etag) throw corrupt(blob, `hash ${digest} in place of ${blob.etag}`);
    await attemptWrite(partial, () => handle.sync());
  } catch (error) {
    if (D2DMoEError.isInstance(error) && error.code === 'HUB_FILE_CORRUPT') {
      await rm(partial, { force: true });
    }
    throw error;
  } finally {
    await handle.close();
  }
  await attemptWrite(blob.path, () => rename(partial, blob.path)).catch(async (error: unknown) => {
    // Another process that was downloading the same file has finished it first.
    if ((await stat(blob.path).catch(() => undefined))?.size !== blob.size) throw error;
  });
}

/** Brings the partial file to its full size and gives its hash. */
async function fill(
  handle: FileHandle,
  partial: string,
  blob: Blob,
  request: (offset: number) => Promise<Response>,
  onPosition: (bytes: number) => void,
  signal: AbortSignal | undefined,
): Promise<string> {
  let hash = newHash(blob);
  let position = 0;
  if ((await handle.stat()).size > blob.size) {
    await attemptWrite(partial, () => handle.truncate(0));
  }
  const there = handle.createReadStream({ start: 0, autoClose: false });
  for await (const chunk of there as AsyncIterable<Uint8Array>) {
    signal?.throwIfAborted();
    hash.update(chunk);
    position += chunk.length;
  }
  onPosition(position);

  while (position < blob.size) {
    const before = position;
    const response = await request(position);
    if (response.status !== 206) {
      // The server sends the whole file in place of its rest.
      hash = newHash(blob);
      position = 0;
    } else if (!response.headers.get('content-range')?.startsWith(`bytes ${position}-`)) {
      await response.body?.cancel();
      throw new D2DMoEError(
        'HUB_FAILED',
        `${blob.name}: the server was asked for the bytes from ${position} on and sent the range "${response.headers.get('content-range')}".`,
      );
    }
    let reason = 'the connection was closed';
    try {
      for await (const chunk of (response.body ?? []) as AsyncIterable<Uint8Array>) {
        signal?.throwIfAborted();
        if (position + chunk.length > blob.size) {
          throw corrupt(blob, `more than its ${blob.size} bytes`);
        }
        await attemptWrite(partial, () => writeAt(handle, chunk, position));
        hash.update(chunk);
        position += chunk.length;
        onPosition(position);
      }
    } catch (error) {
      signal?.throwIfAborted();
      if (D2DMoEError.isInstance(error)) throw error;
      reason = reasonOf(error);
    }
    // Each connection has to bring the download forward, so that this ends.
    if (position <= before && position < blob.size) {
      throw new D2DMoEError(
        'HUB_UNREACHABLE',
        `The download of ${blob.name} broke off at ${position} of ${blob.size} bytes: ${reason}; run the same command again to go on from there.`,
      );
    }
  }
  return hash.digest('hex');
}

/** Git hashes a file's length before its content. */
function newHash({ etag, size }: Blob): Hash {
  return etag.length === 64 ? createHash('sha256') : createHash('sha1').update(`blob ${size}\0`);
}

async function writeAt(handle: FileHandle, bytes: Uint8Array, position: number): Promise<void> {
  for (let done = 0; done < bytes.length; ) {
    const { bytesWritten } = await handle.write(bytes, done, bytes.length - done, position + done);
    done += bytesWritten;
  }
}

function corrupt({ name }: Blob, what: string): D2DMoEError {
  return new D2DMoEError(
    'HUB_FILE_CORRUPT',
    `${name} arrived with ${what} and was thrown away; run the same command again to download it anew.`,
  );
}
