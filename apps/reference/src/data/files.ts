import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { readdir, readFile, stat } from 'node:fs/promises';
import { extname, join, relative, sep } from 'node:path';
import { D2DMoEError } from '@d2dmoe/core';
import type { SplitName } from './types.js';

/** A data file, and the split that its name or its folder's name says it belongs to. */
export interface DataFile {
  path: string;
  /** Its path inside the data folder, for messages. */
  name: string;
  split?: SplitName;
}

/** The hub's keywords; `eval` means the test split there. */
const keywords = new Map<string, SplitName>([
  ['train', 'train'],
  ['training', 'train'],
  ['validation', 'validation'],
  ['valid', 'validation'],
  ['val', 'validation'],
  ['dev', 'validation'],
  ['test', 'test'],
  ['testing', 'test'],
  ['eval', 'test'],
  ['evaluation', 'test'],
]);

/** The split that a name holds as a word of its own: `train-00000-of-00002.parquet`, `my_dev.csv`, `test/`. */
export function splitOf(name: string): SplitName | undefined {
  for (const word of name.toLowerCase().split(/[^a-z]+/)) {
    const split = keywords.get(word);
    if (split !== undefined) return split;
  }
  return undefined;
}

/** The visible files and folders in `directory`, each sorted by name; links count as what they lead to. */
export async function list(directory: string): Promise<{ files: string[]; folders: string[] }> {
  const files: string[] = [];
  const folders: string[] = [];
  for (const entry of await readdir(directory, { withFileTypes: true })) {
    if (entry.name.startsWith('.')) continue;
    const kind = entry.isSymbolicLink() ? await follow(join(directory, entry.name)) : entry;
    if (kind.isDirectory()) folders.push(entry.name);
    else if (kind.isFile()) files.push(entry.name);
  }
  return { files: files.sort(), folders: folders.sort() };
}

async function follow(link: string) {
  try {
    return await stat(link);
  } catch (cause) {
    throw new D2DMoEError('DATA_NOT_FOUND', `The link ${link} leads to nothing.`, { cause });
  }
}

/** The folder itself and its `data/`, where the hub's data sets often have their files. */
export async function roots(directory: string): Promise<string[]> {
  const { folders } = await list(directory);
  return folders.includes('data') ? [directory, join(directory, 'data')] : [directory];
}

/**
 * The files that end in `extension`, in `directory` and in its folders that are named like a split; in the same
 * places of its `data/` where there are none. Where no name says a split, all are for training; where some do, the
 * others (a README.txt beside train.txt) are left out.
 */
export async function findFiles(directory: string, extension: string): Promise<DataFile[]> {
  for (const root of await roots(directory)) {
    const found: DataFile[] = [];
    const add = async (folder: string, names: string[], split?: SplitName) => {
      for (const file of names) {
        if (extname(file).toLowerCase() !== extension) continue;
        const path = join(folder, file);
        const its = split ?? splitOf(file);
        found.push({
          path,
          name: relativeName(directory, path),
          ...(its === undefined ? {} : { split: its }),
        });
      }
    };
    const { files, folders } = await list(root);
    await add(root, files);
    for (const folder of folders) {
      const split = splitOf(folder);
      if (split === undefined) continue;
      await add(join(root, folder), (await list(join(root, folder))).files, split);
    }
    if (found.length === 0) continue;
    const named = found.filter((file) => file.split !== undefined);
    return named.length > 0 ? named : found.map((file) => ({ ...file, split: 'train' as const }));
  }
  return [];
}

/** `path` inside `directory`, with forward slashes on every platform. */
export function relativeName(directory: string, path: string): string {
  return relative(directory, path).split(sep).join('/');
}

/** SHA-256 (hex) over the names inside `directory` and the contents of `paths`, in the order of the names. */
export async function hashFiles(directory: string, paths: Iterable<string>): Promise<string> {
  const hash = createHash('sha256');
  const files = [...new Set(paths)].map((path) => ({ path, name: relativeName(directory, path) }));
  files.sort((a, b) => (a.name < b.name ? -1 : 1));
  for (const { path, name } of files) {
    // Lengths before names and contents, so that no two sets of files give the same bytes.
    hash.update(`${Buffer.byteLength(name)}:${name}:${(await stat(path)).size}:`);
    for await (const chunk of createReadStream(path)) hash.update(chunk as Uint8Array);
  }
  return hash.digest('hex');
}

/** `bytes` as text; throws DATA_MALFORMED where they are not UTF-8. `where` begins the message. */
export function decodeUtf8(bytes: Uint8Array, where: string): string {
  try {
    return new TextDecoder('utf-8', { fatal: true }).decode(bytes);
  } catch {
    throw new D2DMoEError('DATA_MALFORMED', `${where} is not valid UTF-8 text.`);
  }
}

/** The contents of all `paths`, a few files at a time. */
export async function readAll(paths: readonly string[]): Promise<Uint8Array[]> {
  const contents: Uint8Array[] = [];
  for (let start = 0; start < paths.length; start += 64) {
    const batch = paths.slice(start, start + 64);
    contents.push(...(await Promise.all(batch.map((path) => readFile(path)))));
  }
  return contents;
}
