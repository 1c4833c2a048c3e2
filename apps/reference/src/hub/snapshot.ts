import { constants } from 'node:fs';
import { copyFile, readdir, readFile, rm, stat, symlink } from 'node:fs/promises';
import { dirname, join, relative, sep } from 'node:path';
import { D2DMoEError, type ProgressCallback } from '@d2dmoe/core';
import { attemptWrite, makeFolder, writeFileAtomic } from '@d2dmoe/safetensors/node';
import {
  datasetInfo,
  getRepoFolderName,
  listFiles,
  modelInfo,
  REGEX_COMMIT_HASH,
} from '@huggingface/hub';
import { downloadBlob, type Blob } from './download-blob.js';
import { hubError, statusError } from './errors.js';
import { hubFetch } from './hub-fetch.js';
import { describeRepo, type Repo } from './repo.js';
import type { RepoFiles, Select, Selection } from './repo-files.js';
import { hubSettings, type HubSettings } from './settings.js';

/** What {@link resolveCheckpoint} and {@link resolveDataset} may be told. */
export interface ResolveOptions {
  /** Receives the download's progress under the repository's name; `metrics.MB` are the megabytes that are there. */
  onProgress?: ProgressCallback | undefined;
  /** Aborting ends the download at once, with the signal's reason as the error; a later call goes on from there. */
  signal?: AbortSignal | undefined;
}

/** A repository at one commit, as the hub lists it. */
interface Listing {
  commit: string;
  files: Map<string, { size: number; etag: string }>;
}

/**
 * The folder in the hub's cache with the selected files of a repository; what is not there yet is downloaded.
 *
 * The layout is the one of all software for the hub: content in `blobs` by its hash, links to it in
 * `snapshots/<commit>`, and the commit of a branch or tag in `refs`. A snapshot's links are made when all of its files
 * have arrived, and the ref after them, so an interrupted download leaves what was there before as it was.
 *
 * Where the hub cannot be reached, or HF_HUB_OFFLINE is set, the cache's own snapshot of the revision is taken.
 */
export async function takeSnapshot(
  repo: Repo,
  select: Select,
  { onProgress, signal }: ResolveOptions,
): Promise<string> {
  const settings = hubSettings();
  const storage = join(settings.cache, getRepoFolderName(repo));
  let reason = 'HF_HUB_OFFLINE is set';
  if (!settings.offline) {
    const request = hubFetch(signal, onProgress);
    const listing = await askHub(repo, settings, request).catch((error: unknown) => {
      signal?.throwIfAborted();
      const failure = hubError(error, repo, settings);
      if (failure.code !== 'HUB_UNREACHABLE') throw failure;
      reason = failure.message;
    });
    if (listing !== undefined) {
      return download(repo, select, listing, storage, settings, request, { onProgress, signal });
    }
  }
  const folder = await findCached(repo, select, storage);
  if (folder === undefined) {
    throw new D2DMoEError(
      settings.offline ? 'HUB_OFFLINE' : 'HUB_UNREACHABLE',
      `There is no folder ${repo.name} here, and ${describeRepo(repo)} is not, or not completely, in the cache ${settings.cache} and cannot be downloaded: ${reason}`,
    );
  }
  onProgress?.({ status: 'skip', name: `${repo.name}, from the cache without asking the hub` });
  return folder;
}

/** What the hub has of a repository. */
async function askHub(repo: Repo, settings: HubSettings, request: typeof fetch): Promise<Listing> {
  const { type, name, revision } = repo;
  const access = {
    hubUrl: settings.endpoint,
    fetch: request,
    ...(settings.token !== undefined && { accessToken: settings.token }),
  };
  const asked = { ...access, name, revision, additionalFields: ['sha' as const] };
  const { sha: commit } = await (type === 'model' ? modelInfo(asked) : datasetInfo(asked));
  if (!REGEX_COMMIT_HASH.test(commit)) throw new Error(`"${commit}" is no commit`);
  const files: Listing['files'] = new Map();
  const entries = listFiles({ ...access, repo: { type, name }, revision: commit, recursive: true });
  for await (const { type, path, size, oid, lfs } of entries) {
    if (type !== 'file') continue;
    files.set(path, { size: lfs?.size ?? size, etag: lfs?.oid ?? oid ?? '' });
  }
  return { commit, files };
}

async function download(
  repo: Repo,
  select: Select,
  { commit, files }: Listing,
  storage: string,
  settings: HubSettings,
  request: typeof fetch,
  { onProgress, signal }: ResolveOptions,
): Promise<string> {
  const snapshot = join(storage, 'snapshots', commit);
  const blobOf = (path: string): Blob => {
    const { size, etag } = files.get(path) as { size: number; etag: string };
    const name = `${path} of ${repo.name}`;
    // Both become paths in the cache and must not lead out of it.
    const inside = path.split('/').every((step) => !/^\.{0,2}$|[\\:]/.test(step));
    if (!inside || !/^(?:[0-9a-f]{40}|[0-9a-f]{64})$/.test(etag)) {
      throw new D2DMoEError('HUB_FAILED', `The hub lists ${name} with no usable path and hash.`);
    }
    return { path: join(storage, 'blobs', etag), name, size, etag };
  };
  const fetchBlob = async (path: string, onPosition: (bytes: number) => void) => {
    const blob = blobOf(path);
    if ((await sizeOf(blob.path)) === blob.size) return;
    await makeFolder(dirname(blob.path));
    const ask = async (offset: number) => {
      const response = await request(addressOf(path, commit, repo, settings), {
        headers: {
          // Ranges count bytes of the file itself, so it must not come compressed.
          'accept-encoding': 'identity',
          ...(offset > 0 && { range: `bytes=${offset}-` }),
          ...(settings.token !== undefined && { authorization: `Bearer ${settings.token}` }),
        },
      });
      if (response.ok) return response;
      await response.body?.cancel();
      throw statusError(response.status, repo, settings, path);
    };
    await downloadBlob(blob, ask, onPosition, signal);
  };
  const selection = await select({
    paths: [...files.keys()],
    async read(path) {
      await fetchBlob(path, () => {});
      return readFile(blobOf(path).path, 'utf8');
    },
  });

  const missing: string[] = [];
  for (const path of selection.paths) {
    if ((await sizeOf(join(snapshot, path))) !== blobOf(path).size) missing.push(path);
  }
  if (missing.length === 0) {
    onProgress?.({ status: 'skip', name: repo.name });
  } else {
    const total = missing.reduce((sum, path) => sum + blobOf(path).size, 0);
    let done = 0;
    const report = (status: 'initiate' | 'progress' | 'done', bytes: number) =>
      onProgress?.({
        status,
        name: repo.name,
        progress: total === 0 ? 100 : (100 * bytes) / total,
        metrics: { MB: Math.round(bytes / 1e5) / 10 },
      });
    report('initiate', 0);
    for (const path of missing) {
      await fetchBlob(path, (bytes) => report('progress', done + bytes));
      done += blobOf(path).size;
      report('progress', done);
    }
    for (const path of missing) await link(blobOf(path).path, join(snapshot, path));
    report('done', total);
  }
  await writeRef(repo, commit, storage);
  return join(snapshot, selection.folder);
}

/** Where a file's content is; a file in LFS is redirected from there. */
function addressOf(path: string, commit: string, repo: Repo, settings: HubSettings): string {
  const folder = repo.type === 'model' ? '' : 'datasets/';
  const file = path.split('/').map(encodeURIComponent).join('/');
  return `${settings.endpoint}/${folder}${repo.name}/resolve/${commit}/${file}`;
}

async function sizeOf(path: string): Promise<number | undefined> {
  return (await stat(path).catch(() => undefined))?.size;
}

/** Makes `path` lead to `blob`: by a relative link, or on systems that allow none as a copy. */
async function link(blob: string, path: string): Promise<void> {
  await makeFolder(dirname(path));
  await attemptWrite(path, async () => {
    await rm(path, { force: true });
    try {
      await symlink(relative(dirname(path), blob), path);
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException;
      // Another process may have made the same link in between.
      if (code === 'EEXIST') return;
      if (code !== 'EPERM') throw error;
      await copyFile(blob, path, constants.COPYFILE_FICLONE);
    }
  });
}

/** Notes the commit that a branch or tag is at. */
async function writeRef({ revision }: Repo, commit: string, storage: string): Promise<void> {
  // Software that lists the cache expects the folder even where no branch or tag was asked for.
  await makeFolder(join(storage, 'refs'));
  if (revision === commit) return;
  const path = join(storage, 'refs', revision);
  if ((await readFile(path, 'utf8').catch(() => undefined)) === commit) return;
  await makeFolder(dirname(path));
  await writeFileAtomic(path, commit);
}

/** The snapshot that the cache has of a repository; undefined where it has none with all that is needed. */
async function findCached(
  repo: Repo,
  select: Select,
  storage: string,
): Promise<string | undefined> {
  const { revision } = repo;
  const commit = REGEX_COMMIT_HASH.test(revision)
    ? revision
    : await readFile(join(storage, 'refs', revision), 'utf8').catch(() => undefined);
  if (commit === undefined) return undefined;
  const snapshot = join(storage, 'snapshots', commit.trim());
  let selection: Selection;
  try {
    selection = await select(await filesOf(snapshot));
  } catch (error) {
    if (D2DMoEError.isInstance(error)) return undefined;
    throw error;
  }
  return join(snapshot, selection.folder);
}

/** The files of a snapshot, links to blobs that are gone left out. */
async function filesOf(snapshot: string): Promise<RepoFiles> {
  const entries = await readdir(snapshot, { recursive: true, withFileTypes: true }).catch(() => []);
  const paths: string[] = [];
  for (const entry of entries) {
    const path = join(entry.parentPath, entry.name);
    if (entry.isDirectory() || (await sizeOf(path)) === undefined) continue;
    paths.push(relative(snapshot, path).split(sep).join('/'));
  }
  return { paths, read: (path) => readFile(join(snapshot, path), 'utf8') };
}
