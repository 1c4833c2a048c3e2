import { mkdir, open, readdir, rename, rm, type FileHandle } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { D2DMoEError } from '@d2dmoe/core';

/** The most bytes of one write call; the system's own limit is just under 2 GiB. */
const MAX_WRITE_BYTES = 2 ** 30;

/** Temporary files that this process is writing now. */
const inProgress = new Set<string>();
let count = 0;

/**
 * Writes a file so that no reader and no crash ever sees half of it: into a temporary file in the same folder, flushed
 * to the disk, then renamed over the old one. When anything fails the temporary file is removed and the old file
 * stays; one that a killed process left behind goes with the next write to the same path.
 *
 * @param write Produces the content by calls of `append`; errors of its own pass through unchanged.
 * @throws D2DMoEError `DISK_FULL` or `WRITE_FAILED`, naming the file.
 */
export async function writeAtomically(
  path: string,
  write: (append: (bytes: Uint8Array) => Promise<void>) => Promise<void>,
): Promise<void> {
  const temporary = join(dirname(path), `.${basename(path)}.${process.pid}.${count++}.tmp`);
  const attempt = <T>(action: () => Promise<T>) => attemptWrite(path, action);
  inProgress.add(temporary);
  let handle: FileHandle | undefined;
  try {
    await attempt(() => removeLeftovers(path));
    const file = await attempt(() => open(temporary, 'wx'));
    handle = file;
    await write((bytes) => attempt(() => writeFully(file, bytes)));
    await attempt(() => file.sync());
    // Set first: a close that fails must not be tried a second time.
    handle = undefined;
    await attempt(() => file.close());
    await attempt(() => rename(temporary, path));
  } catch (error) {
    // The first error is the one to report; a clean-up that fails too must not hide it.
    await handle?.close().catch(() => {});
    await rm(temporary, { force: true }).catch(() => {});
    throw error;
  } finally {
    inProgress.delete(temporary);
  }
}

/**
 * Replaces a whole small file, such as a JSON record, atomically: temporary file in the same folder, flush, rename.
 *
 * @param data Bytes, or text that is written in UTF-8.
 * @throws D2DMoEError `DISK_FULL` or `WRITE_FAILED`, naming the file; the old file is then still there.
 */
export async function writeFileAtomic(path: string, data: string | Uint8Array): Promise<void> {
  const bytes = typeof data === 'string' ? new TextEncoder().encode(data) : data;
  await writeAtomically(path, (append) => append(bytes));
}

/**
 * Makes a folder, and those above it, where there is none yet.
 *
 * @throws D2DMoEError `DISK_FULL` or `WRITE_FAILED`, naming the folder.
 */
export async function makeFolder(path: string): Promise<void> {
  await attemptWrite(path, () => mkdir(path, { recursive: true }));
}

/**
 * Does something that writes to `path`.
 *
 * @throws D2DMoEError `DISK_FULL` or `WRITE_FAILED`, naming the path, in place of the system's error.
 */
export function attemptWrite<T>(path: string, action: () => Promise<T>): Promise<T> {
  return action().catch((error: unknown) => {
    throw writeError(path, error);
  });
}

async function writeFully(file: FileHandle, bytes: Uint8Array): Promise<void> {
  let written = 0;
  while (written < bytes.length) {
    const length = Math.min(bytes.length - written, MAX_WRITE_BYTES);
    written += (await file.write(bytes, written, length)).bytesWritten;
  }
}

/** Removes temporary files of earlier writes to `path` whose process is gone. */
async function removeLeftovers(path: string): Promise<void> {
  const folder = dirname(path);
  for (const entry of await readdir(folder)) {
    const match = /^\.(.+)\.(\d+)\.\d+\.tmp$/.exec(entry);
    if (match?.[1] === basename(path)) {
      const leftover = join(folder, entry);
      const pid = Number(match[2]);
      if (pid === process.pid ? !inProgress.has(leftover) : !isRunning(pid)) {
        await rm(leftover, { force: true });
      }
    }
  }
}

function isRunning(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code !== 'ESRCH';
  }
}

function writeError(path: string, error: unknown): D2DMoEError {
  const { code, message } = error as NodeJS.ErrnoException;
  if (code === 'ENOSPC' || code === 'EDQUOT') {
    return new D2DMoEError(
      'DISK_FULL',
      `${path} cannot be written because the disk is full; free some space or choose another folder.`,
      { cause: error },
    );
  }
  return new D2DMoEError('WRITE_FAILED', `${path} cannot be written: ${message}.`, {
    cause: error,
  });
}
