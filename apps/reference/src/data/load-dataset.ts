import { stat } from 'node:fs/promises';
import { D2DMoEError } from '@d2dmoe/core';
import type { Random } from '@d2dmoe/core';
import type { Chunk } from './chunk.js';
import { hashFiles } from './files.js';
import { hasNoLabels, resolveLabels } from './labels.js';
import { sources } from './sources.js';
import { completeSplits, divideDocuments } from './split-off.js';
import type {
  ColumnNames,
  DataFormat,
  Dataset,
  Document,
  SplitName,
  Task,
  TaskExamples,
} from './types.js';

const tabular = 'train.parquet, train.jsonl or train.csv (or more files whose names say the split)';

const accepted: Record<Task, string> = {
  'image-classification': `${tabular} or folders of images by class (train/cat/1.png)`,
  'text-classification': tabular,
  'text-generation': `${tabular} or text files (train.txt)`,
};

/** What {@link loadDataset} is told. */
export interface LoadDatasetOptions {
  /** The columns to read from parquet, JSONL and CSV, where they are not named as usual. */
  columns?: ColumnNames;
  /** Draws the splits that are not there; not advanced. */
  random: Random;
  /** The model's class names in the order of their indices: label names are looked up in them. */
  labels?: readonly string[];
  /** The number of the model's classes; without it, that of `labels` or of the names in the data. */
  classes?: number;
}

/**
 * Reads a data folder into memory: the first of the formats that the task can have and that the folder holds.
 *
 * - parquet, JSONL or CSV: `train-00000-of-00002.parquet`, `validation.jsonl`, `test.csv` and the like, in as many
 *   files as there are, also in `data/` or in folders named by split. Columns by usual names or `options.columns`.
 *   An image is {bytes, path} or bytes in parquet, and elsewhere a path that starts at the file's own folder.
 * - images by class: `train/cat/1.png`, or `cat/1.png` without splits.
 * - text: `train.txt`, or `train/1.txt`, `train/2.txt`: each file is a document.
 *
 * A file or folder belongs to the split that its name says (train, training; validation, valid, val, dev; test,
 * testing, eval, evaluation); to train where no name says one. Splits that are not there are made by seed: validation
 * from a tenth of train, at most 2,000; test from half of validation where that one is there, else also from train.
 * A test split whose labels are all −1, as the hub's private ones are, counts as not there. Class names map through
 * `options.labels`, else through their sorted order.
 *
 * Throws DATA_NOT_FOUND, DATA_UNRECOGNIZED (no accepted format), DATA_MALFORMED (with file and line), COLUMN_MISSING,
 * LABEL_OUT_OF_RANGE and SPLIT_EMPTY.
 */
export async function loadDataset<T extends Task>(
  directory: string,
  task: T,
  options: LoadDatasetOptions,
): Promise<Dataset<TaskExamples[T]>> {
  await requireDirectory(directory);
  const { format, chunks } = await readFirstFormat(directory, task, options.columns ?? {});
  const paths = chunks.flatMap((chunk) => chunk.paths);
  const source = { format, source: directory, hash: await hashFiles(directory, paths) };
  const used = withoutPrivateTest(chunks);

  if (task === 'text-generation') {
    const given = group(used, directory, (text): Document => ({ text: text as string }));
    const splits = completeSplits(given, options.random, divideDocuments);
    return { ...source, ...splits } as unknown as Dataset<TaskExamples[T]>;
  }
  const { indices, names } = resolveLabels(used, options);
  const field = task === 'image-classification' ? 'image' : 'text';
  const given = group(used, directory, (value, chunk, row) => ({
    [field]: value,
    label: indices[chunk]?.[row],
  }));
  const splits = completeSplits(given, options.random);
  if (used.length < chunks.length) splits.splitOff += '; the given test split has no labels';
  const labels = names === undefined ? {} : { labels: names };
  return { ...source, ...splits, ...labels } as unknown as Dataset<TaskExamples[T]>;
}

/** All chunks, but those of a test split in which nothing is labelled. */
function withoutPrivateTest(chunks: Chunk[]): Chunk[] {
  const others = chunks.filter(({ split }) => split !== 'test');
  const isPrivate = chunks.every((chunk) => chunk.split !== 'test' || hasNoLabels(chunk));
  return isPrivate ? others : chunks;
}

async function requireDirectory(directory: string): Promise<void> {
  const found = await stat(directory).catch(() => undefined);
  if (found?.isDirectory()) return;
  throw new D2DMoEError(
    'DATA_NOT_FOUND',
    found === undefined
      ? `The data folder ${directory} does not exist.`
      : `${directory} must be a folder with data in it, but it is a file.`,
  );
}

async function readFirstFormat(
  directory: string,
  task: Task,
  columns: ColumnNames,
): Promise<{ format: DataFormat; chunks: Chunk[] }> {
  for (const [format, read] of sources[task]) {
    const chunks = await read(directory, task, columns);
    if (chunks.length > 0) return { format, chunks };
  }
  throw new D2DMoEError(
    'DATA_UNRECOGNIZED',
    `${directory} holds no data for ${task}: it must have ${accepted[task]}, in the folder itself or in its data/.`,
  );
}

/** Examples by split; throws SPLIT_EMPTY where there are no training examples or a split's files hold none. */
function group<E>(
  chunks: readonly Chunk[],
  directory: string,
  toExample: (value: string | Uint8Array, chunk: number, row: number) => E,
): Partial<Record<SplitName, E[]>> & { train: E[] } {
  const given: Partial<Record<SplitName, E[]>> = {};
  chunks.forEach((chunk, index) => {
    const examples = (given[chunk.split] ??= []);
    chunk.values.forEach((value, row) => examples.push(toExample(value, index, row)));
  });
  const { train, ...others } = given;
  if (train === undefined) {
    const message = `${directory} has no training split, only ${Object.keys(others).join(' and ')}.`;
    throw new D2DMoEError('SPLIT_EMPTY', message);
  }
  for (const [split, examples] of Object.entries(given)) {
    if (examples.length > 0) continue;
    const files = chunks.filter((chunk) => chunk.split === split).map((chunk) => chunk.paths[0]);
    const message = `The ${split} split is empty: there is no example in ${files.join(', ')}.`;
    throw new D2DMoEError('SPLIT_EMPTY', message);
  }
  return { ...others, train };
}
