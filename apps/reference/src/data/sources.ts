import { readFile } from 'node:fs/promises';
import { dirname, extname, join } from 'node:path';
import { D2DMoEError } from '@d2dmoe/core';
import type { Chunk } from './chunk.js';
import { openCsv } from './csv.js';
import { decodeUtf8, findFiles, list, readAll, relativeName, roots, splitOf } from './files.js';
import type { DataFile } from './files.js';
import { openJsonl } from './jsonl.js';
import { openParquet } from './parquet.js';
import { findColumn } from './table.js';
import type { Table } from './table.js';
import type { ColumnNames, DataFormat, SplitName, Task } from './types.js';

/** Reads all of a data folder that is in one format; nothing where the folder has no such files. */
type Source = (directory: string, task: Task, names: ColumnNames) => Promise<Chunk[]>;

/** The formats that a task's data may have, in the order in which they are looked for. */
export const sources: Record<Task, readonly (readonly [DataFormat, Source])[]> = {
  'image-classification': [
    ['parquet', tables('.parquet', openParquet)],
    ['jsonl', tables('.jsonl', openJsonl)],
    ['csv', tables('.csv', openCsv)],
    ['image-folder', readImageFolder],
  ],
  'text-classification': [
    ['parquet', tables('.parquet', openParquet)],
    ['jsonl', tables('.jsonl', openJsonl)],
    ['csv', tables('.csv', openCsv)],
  ],
  'text-generation': [
    ['parquet', tables('.parquet', openParquet)],
    ['jsonl', tables('.jsonl', openJsonl)],
    ['csv', tables('.csv', openCsv)],
    ['text', readTextFiles],
  ],
};

function tables(extension: string, open: (file: DataFile) => Promise<Table>): Source {
  return async (directory, task, names) => {
    const chunks: Chunk[] = [];
    for (const file of await findFiles(directory, extension)) {
      chunks.push(await readTable(await open(file), file.split as SplitName, task, names));
    }
    return chunks;
  };
}

async function readTable(
  table: Table,
  split: SplitName,
  task: Task,
  names: ColumnNames,
): Promise<Chunk> {
  const where = (row: number) => `${table.name} ${table.where(row)}`;
  const empty = { split, values: [], labels: [], paths: [table.path], where };
  if (table.rows === 0) return empty;
  const role = task === 'image-classification' ? 'image' : 'text';
  const content = findColumn(table, role, names);
  const label = task === 'text-generation' ? undefined : findColumn(table, 'label', names);
  const [contents = [], labels] = await table.read(
    label === undefined ? [content] : [content, label],
  );
  const paths = [table.path];
  const values =
    role === 'text'
      ? contents.map((value, row) => toText(value, content, where(row)))
      : await toImages(contents, content, table, where, paths);
  return {
    ...empty,
    values,
    paths,
    ...(label === undefined || labels === undefined
      ? {}
      : { labels, classNames: table.classNames?.(label) }),
  };
}

function toText(value: unknown, column: string, where: string): string {
  if (typeof value === 'string') return value;
  if (value instanceof Uint8Array) return decodeUtf8(value, `${where}, column "${column}",`);
  throw malformed(where, column, 'a text', value);
}

/** Images stored as bytes or as the hub's {bytes, path}, or named by a path that starts at the table's folder. */
async function toImages(
  values: readonly unknown[],
  column: string,
  table: Table,
  where: (row: number) => string,
  paths: string[],
): Promise<Uint8Array[]> {
  const images: Uint8Array[] = [];
  for (const [row, value] of values.entries()) {
    const bytes = isStruct(value) ? value.bytes : value;
    if (bytes instanceof Uint8Array) {
      images.push(bytes);
    } else if (typeof bytes === 'string') {
      const path = join(dirname(table.path), bytes);
      try {
        images.push(await readFile(path));
      } catch (cause) {
        const message = `${where(row)} names the image ${bytes}, which cannot be read beside it.`;
        throw new D2DMoEError('DATA_NOT_FOUND', message, { cause });
      }
      paths.push(path);
    } else {
      throw malformed(where(row), column, 'an image', bytes);
    }
  }
  return images;
}

function isStruct(value: unknown): value is { bytes?: unknown } {
  return typeof value === 'object' && value !== null && !(value instanceof Uint8Array);
}

function malformed(where: string, column: string, expected: string, value: unknown): D2DMoEError {
  const found = value === undefined || value === null ? 'nothing' : `a ${typeof value}`;
  return new D2DMoEError(
    'DATA_MALFORMED',
    `${where} must have ${expected} in column "${column}", but it has ${found}.`,
  );
}

const imageExtensions = new Set(['.png', '.jpg', '.jpeg', '.webp']);

/** `split/class/image.png`, or `class/image.png` without splits, in the folder itself or in its `data/`. */
async function readImageFolder(directory: string): Promise<Chunk[]> {
  for (const root of await roots(directory)) {
    const { folders } = await list(root);
    const splits = folders.filter((folder) => splitOf(folder) !== undefined);
    const chunks: Chunk[] = [];
    for (const folder of splits.length > 0 ? splits : ['.']) {
      const split = splits.length > 0 ? (splitOf(folder) as SplitName) : 'train';
      chunks.push(...(await readClasses(directory, join(root, folder), split)));
    }
    if (chunks.length > 0) return chunks;
  }
  return [];
}

async function readClasses(directory: string, folder: string, split: SplitName): Promise<Chunk[]> {
  const chunks: Chunk[] = [];
  for (const label of (await list(folder)).folders) {
    const { files } = await list(join(folder, label));
    const paths = files
      .filter((file) => imageExtensions.has(extname(file).toLowerCase()))
      .map((file) => join(folder, label, file));
    if (paths.length === 0) continue;
    chunks.push({
      split,
      values: await readAll(paths),
      labels: paths.map(() => label),
      paths,
      where: (row) => relativeName(directory, paths[row] as string),
    });
  }
  return chunks;
}

/** `train.txt`, or `train/` with text files in it; each file is one document. */
async function readTextFiles(directory: string): Promise<Chunk[]> {
  const chunks: Chunk[] = [];
  for (const { path, name, split } of await findFiles(directory, '.txt')) {
    const text = decodeUtf8(await readFile(path), name);
    chunks.push({
      split: split as SplitName,
      values: text === '' ? [] : [text],
      paths: [path],
      where: () => name,
    });
  }
  return chunks;
}
