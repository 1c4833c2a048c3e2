import { stat } from 'node:fs/promises';
import { D2DMoEError } from '@d2dmoe/core';
import { parseRepo, type Repo } from './repo.js';
import type { Select } from './repo-files.js';
import { selectCheckpoint } from './select-checkpoint.js';
import { selectDataset } from './select-dataset.js';
import { type ResolveOptions, takeSnapshot } from './snapshot.js';

export type { ResolveOptions } from './snapshot.js';

/**
 * The folder of a checkpoint that is named by its folder or by its id on the Hugging Face hub.
 *
 * A folder that exists is returned as it is. Otherwise `owner/name`, or `owner/name@revision`, is downloaded into the
 * hub's own cache: config.json, model.safetensors or its shards, and the files for tokens, images and generation.
 * Files that are in the cache are not downloaded again, an interrupted download is continued, and every file's hash is
 * checked. Without network, a complete snapshot in the cache is enough. HF_HOME, HF_HUB_CACHE, HF_ENDPOINT, HF_TOKEN
 * and HF_HUB_OFFLINE hold as elsewhere.
 *
 * @throws D2DMoEError `CHECKPOINT_NOT_FOUND` for neither folder nor id; `HUB_NOT_FOUND`, `HUB_ACCESS_DENIED`,
 *   `HUB_RATE_LIMITED`, `HUB_UNREACHABLE`, `HUB_OFFLINE`, `HUB_FILES_MISSING`, `HUB_FILE_CORRUPT`, `HUB_FAILED`,
 *   `HUB_SETTING_INVALID`; `DISK_FULL`, `WRITE_FAILED`; the signal's reason
 */
export function resolveCheckpoint(
  idOrFolder: string,
  options: ResolveOptions = {},
): Promise<string> {
  return resolve('model', idOrFolder, selectCheckpoint, options);
}

/**
 * The folder of a data set that is named by its folder or by its id on the Hugging Face hub, in the same way as
 * {@link resolveCheckpoint} does it for checkpoints. Of a data set on the hub, the default configuration's files are
 * taken, or those that lie where a data folder has them.
 *
 * @throws D2DMoEError `DATA_NOT_FOUND` for neither folder nor id, `HUB_DATA_LAYOUT` where it is not clear which file
 *   belongs to what, and what {@link resolveCheckpoint} throws
 */
export function resolveDataset(idOrFolder: string, options: ResolveOptions = {}): Promise<string> {
  return resolve('dataset', idOrFolder, selectDataset, options);
}

async function resolve(
  type: Repo['type'],
  idOrFolder: string,
  select: (repo: Repo) => Select,
  options: ResolveOptions,
): Promise<string> {
  const found = await stat(idOrFolder).catch(() => undefined);
  if (found?.isDirectory()) return idOrFolder;
  const repo = found === undefined ? parseRepo(type, idOrFolder) : undefined;
  if (repo !== undefined) return takeSnapshot(repo, select(repo), options);
  const [code, example] =
    type === 'model'
      ? ['CHECKPOINT_NOT_FOUND', 'openai-community/gpt2']
      : ['DATA_NOT_FOUND', 'dair-ai/emotion'];
  throw new D2DMoEError(
    code,
    found === undefined
      ? `"${idOrFolder}" is neither a folder that exists nor an id on the hub, which is owner/name or owner/name@revision, e.g. ${example}.`
      : `"${idOrFolder}" is a file; it must be a folder or an id on the hub, e.g. ${example}.`,
  );
}
