import { readFile } from 'node:fs/promises';
import { D2DMoEError } from '@d2dmoe/core';

/**
 * A JSON file that holds an object.
 *
 * @throws D2DMoEError `FILE_MISSING`, `FILE_UNREADABLE`, `JSON_INVALID`
 */
export async function readJsonObject(path: string): Promise<Record<string, unknown>> {
  let text: string;
  try {
    text = await readFile(path, 'utf8');
  } catch (error) {
    if (isMissing(error)) {
      throw new D2DMoEError(
        'FILE_MISSING',
        `${path} does not exist; a checkpoint folder in the Hugging Face layout has it.`,
        { cause: error },
      );
    }
    throw new D2DMoEError('FILE_UNREADABLE', `${path} cannot be read: ${String(error)}.`, {
      cause: error,
    });
  }
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    throw new D2DMoEError('JSON_INVALID', `${path} is not JSON: ${(error as Error).message}.`, {
      cause: error,
    });
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    throw new D2DMoEError('JSON_INVALID', `${path} must hold a JSON object.`);
  }
  return value as Record<string, unknown>;
}

/** Whether a file system call failed because there is no such file. */
export function isMissing(error: unknown): boolean {
  const { code } = error as NodeJS.ErrnoException;
  return code === 'ENOENT' || code === 'ENOTDIR';
}
