import { join } from 'node:path';
import { D2DMoEError } from '@d2dmoe/core';
import { readRange } from './byte-source.js';
import { fileSource } from './file-source.js';
import { quote } from './quote.js';
import { openSafetensors, type TensorReader } from './reader.js';
import { openSharded } from './sharded.js';
import { findJsonFault } from './strict-json.js';

/**
 * Opens the weights of a Hugging Face folder: `model.safetensors`, else the shards of `model.safetensors.index.json`.
 * Only headers are read.
 *
 * @throws D2DMoEError `SAFETENSORS_CHECKPOINT_MISSING` when the folder holds neither, and whatever
 *   {@link openSafetensors} and {@link openSharded} throw.
 */
export async function openCheckpoint(directory: string): Promise<TensorReader> {
  const file = await unlessMissing(fileSource(join(directory, 'model.safetensors')));
  if (file !== undefined) {
    return openSafetensors(file);
  }
  const indexPath = join(directory, 'model.safetensors.index.json');
  const index = await unlessMissing(readIndex(indexPath));
  if (index !== undefined) {
    return openSharded(index.value, (shard) => fileSource(join(directory, shard)), indexPath);
  }
  throw new D2DMoEError(
    'SAFETENSORS_CHECKPOINT_MISSING',
    `${directory} holds neither model.safetensors nor model.safetensors.index.json; it must be a folder with one of them.`,
  );
}

async function unlessMissing<T>(opening: Promise<T>): Promise<T | undefined> {
  try {
    return await opening;
  } catch (error) {
    if (D2DMoEError.isInstance(error) && error.code === 'SAFETENSORS_FILE_MISSING') {
      return undefined;
    }
    throw error;
  }
}

async function readIndex(path: string): Promise<{ value: unknown }> {
  const source = await fileSource(path);
  let text: string;
  try {
    text = new TextDecoder().decode(await readRange(source, 0, source.size, 'the index'));
  } finally {
    await source.close?.();
  }
  const fault = findJsonFault(text);
  if (fault !== undefined) {
    throw new D2DMoEError(
      'SAFETENSORS_DUPLICATE_NAME',
      `${path}: ${fault.path.map(quote).join(' > ')} is given twice; each name must appear once.`,
    );
  }
  try {
    return { value: JSON.parse(text) };
  } catch (error) {
    throw new D2DMoEError('SAFETENSORS_INDEX_INVALID', `${path}: the index is not JSON.`, {
      cause: error,
    });
  }
}
