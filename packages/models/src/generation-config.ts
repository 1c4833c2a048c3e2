import { join } from 'node:path';
import { D2DMoEError } from '@d2dmoe/core';
import { readJsonObject } from './files.js';

/**
 * The ids that end a text: `eos_token_id`, a number or several, of a folder's generation_config.json, or where that
 * says nothing of its config.json; none where neither does.
 *
 * @throws D2DMoEError `FILE_UNREADABLE`, `JSON_INVALID`
 */
export async function readEosTokenIds(directory: string): Promise<number[]> {
  for (const file of ['generation_config.json', 'config.json']) {
    const config = await readJsonObject(join(directory, file)).catch((error: unknown) => {
      if (D2DMoEError.isInstance(error) && error.code === 'FILE_MISSING') return undefined;
      throw error;
    });
    const ids = [config?.['eos_token_id'] ?? []].flat();
    if (ids.length > 0 && ids.every((id) => typeof id === 'number')) return ids;
  }
  return [];
}
