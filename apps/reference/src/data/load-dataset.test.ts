import { mkdir, mkdtemp, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { Random } from '@d2dmoe/core';
import { parquetWriteBuffer } from 'hyparquet-writer';
import sharp from 'sharp';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { loadDataset } from './index.js';
import type { LoadDatasetOptions, Task } from './index.js';

let folder: string;
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'd2dmoe-data-'));
});
afterEach(() => rm(folder, { recursive: true }));

async function put(files: Record<string, string | Uint8Array>) {
  for (const [name, content] of Object.entries(files)) {
    await mkdir(dirname(join(folder, name)), { recursive: true });
    await writeFile(join(folder, name), content);
  }
}

function load<T extends Task>(task: T, options: Partial<LoadDatasetOptions> = {}) {
  return loadDataset(folder, task, { random: new Random(0), ...options });
}

const failure = (code: string, ...parts: string[]) =>
  expect.objectContaining({
    code,
    message: expect.stringMatching(new RegExp(parts.map(escape).join('.*'), 's')) as string,
  }) as Error;
const escape = (text: string) => text.replace(/[.*+?^${}()|[\]\\]/g, '\\$&');

const jsonl = (rows: readonly object[]) => `${rows.map((row) => JSON.stringify(row)).join('\n')}\n`;
const texts = (prefix: string, n: number) =>
  Array.from({ length: n }, (_, i) => ({ text: `${prefix} ${i}`, label: i % 2 }));

const png = (shade: number) =>
  sharp({ create: { width: 2, height: 2, channels: 3, background: { r: shade, g: 0, b: 0 } } })
    .png()
    .toBuffer();

const classLabel = (column: string, names: string[]) => ({
  key: 'huggingface',
  value: JSON.stringify({ info: { features: { [column]: { names, _type: 'ClassLabel' } } } }),
});

function textParquet(rows: readonly { text: string; label: number }[], names?: string[]) {
  return new Uint8Array(
    parquetWriteBuffer({
      columnData: [
        { name: 'text', data: rows.map((row) => row.text), type: 'STRING' },
        { name: 'label', data: rows.map((row) => BigInt(row.label)), type: 'INT64' },
      ],
      ...(names ? { kvMetadata: [classLabel('label', names)] } : {}),
    }),
  );
}

function imageParquet(
  rows: readonly { bytes: Uint8Array | null; label: number }[],
  names: string[],
) {
  return new Uint8Array(
    parquetWriteBuffer({
      schema: [
        { name: 'root', num_children: 2 },
        { name: 'img', num_children: 2, repetition_type: 'OPTIONAL' },
        { name: 'bytes', type: 'BYTE_ARRAY', repetition_type: 'OPTIONAL' },
        { name: 'path', type: 'BYTE_ARRAY', converted_type: 'UTF8', repetition_type: 'OPTIONAL' },
        { name: 'label', type: 'INT64', repetition_type: 'OPTIONAL' },
      ],
      columnData: [
        { name: 'img', data: rows.map(({ bytes }) => ({ bytes, path: null })) },
        { name: 'label', data: rows.map((row) => BigInt(row.label)) },
      ],
      kvMetadata: [classLabel('label', names)],
    }),
  );
}

describe('parquet', () => {
  test('shards by split, also in data/, in the order of their names', async () => {
    await put({
      'data/train-00001-of-00002.parquet': textParquet(texts('second', 2)),
      'data/train-00000-of-00002.parquet': textParquet(texts('first', 3)),
      'data/validation-00000-of-00001.parquet': textParquet(texts('v', 2)),
      'data/test-00000-of-00001.parquet': textParquet(texts('t', 1)),
      'README.md': '# A data set',
    });
    const data = await load('text-classification');
    expect(data.format).toBe('parquet');
    expect(data.train).toEqual([...texts('first', 3), ...texts('second', 2)]);
    expect(data.validation).toEqual(texts('v', 2));
    expect(data.test).toEqual(texts('t', 1));
    expect(data.labels).toBeUndefined();
    expect(data.source).toBe(folder);
  });

  test('images are {bytes, path}, and class names come from the metadata', async () => {
    const images = await Promise.all([png(10), png(20), png(30)]);
    const rows = images.map((bytes, i) => ({ bytes, label: i % 2 }));
    await put({
      'train.parquet': imageParquet(rows, ['cat', 'dog']),
      'dev.parquet': imageParquet(rows.slice(0, 1), ['cat', 'dog']),
      'test.parquet': imageParquet(rows.slice(1), ['cat', 'dog']),
    });
    const data = await load('image-classification');
    expect(data.labels).toEqual(['cat', 'dog']);
    expect(data.train.map(({ label }) => label)).toEqual([0, 1, 0]);
    expect(data.train.map(({ image }) => Buffer.from(image))).toEqual(images);
    const swapped = await load('image-classification', { labels: ['dog', 'cat'] });
    expect(swapped.train.map(({ label }) => label)).toEqual([1, 0, 1]);
    const otherNames = await load('image-classification', { labels: ['feline', 'dog'] });
    expect(otherNames.train.map(({ label }) => label)).toEqual([0, 1, 0]);
  });

  test('a test split without labels counts as not there', async () => {
    await put({
      'train.parquet': textParquet(texts('a', 30)),
      'validation.parquet': textParquet(texts('v', 8)),
      'test.parquet': textParquet(texts('t', 5).map((row) => ({ ...row, label: -1 }))),
    });
    const data = await load('text-classification');
    expect([data.train.length, data.validation.length, data.test.length]).toEqual([30, 4, 4]);
    expect(data.splitOff).toMatch(/test: 4 of validation's 8 examples.*no labels/);
  });

  test('links to files, as in the hub’s cache, are followed', async () => {
    await put({ 'blobs.d/abc': textParquet(texts('a', 20)) });
    await symlink(join(folder, 'blobs.d/abc'), join(folder, 'train-00000-of-00001.parquet'));
    expect((await load('text-classification')).format).toBe('parquet');
    await rm(join(folder, 'blobs.d'), { recursive: true });
    await expect(load('text-classification')).rejects.toThrow(
      failure('DATA_NOT_FOUND', 'train-00000-of-00001.parquet'),
    );
  });

  test('a damaged file is named', async () => {
    const whole = textParquet(texts('some text', 400));
    await put({ 'train.parquet': whole.subarray(0, whole.length - 20) });
    await expect(load('text-classification')).rejects.toThrow(
      failure('DATA_MALFORMED', 'train.parquet', 'parquet'),
    );
    await put({ 'train.parquet': new Uint8Array(0) });
    await expect(load('text-classification')).rejects.toThrow(failure('DATA_MALFORMED'));
    const damaged = whole.slice();
    damaged.fill(0xff, 4, 400);
    await put({ 'train.parquet': damaged });
    await expect(load('text-classification')).rejects.toThrow(
      failure('DATA_MALFORMED', 'train.parquet'),
    );
  });

  test('an image that is not stored is named by its row', async () => {
    const rows = [
      { bytes: await png(1), label: 0 },
      { bytes: null, label: 1 },
    ];
    await put({ 'train.parquet': imageParquet(rows, ['a', 'b']) });
    await expect(load('image-classification')).rejects.toThrow(
      failure('DATA_MALFORMED', 'train.parquet row 1', '"img"', 'nothing'),
    );
  });
});

describe('JSONL', () => {
  test('all names of a split are known', async () => {
    for (const name of ['validation', 'valid', 'val', 'dev']) {
      await put({
        'training.jsonl': jsonl(texts('a', 4)),
        [`my_${name}.jsonl`]: jsonl(texts(name, 2)),
        'eval/part.jsonl': jsonl(texts('t', 3)),
      });
      const data = await load('text-classification');
      expect(data.validation).toEqual(texts(name, 2));
      expect(data.test).toEqual(texts('t', 3));
      await rm(join(folder, `my_${name}.jsonl`));
    }
  });

  test('empty lines, a byte order mark and Unicode line separators are no trouble', async () => {
    const rows = [
      { text: 'one\u2028two', label: 1 },
      { text: 'Grüße', label: 0 },
    ];
    await put({
      'train.jsonl': `\uFEFF${JSON.stringify(rows[0])}\r\n\r\n${JSON.stringify(rows[1])}`,
      'dev.jsonl': jsonl(rows),
      'test.jsonl': jsonl(rows),
    });
    expect((await load('text-classification')).train).toEqual(rows);
  });

  test('a malformed line is named with its number', async () => {
    await put({ 'train.jsonl': '{"text": "a", "label": 0}\n\n{"text": "b"\n' });
    await expect(load('text-classification')).rejects.toThrow(
      failure('DATA_MALFORMED', 'train.jsonl line 3', 'JSON'),
    );
    await put({ 'train.jsonl': '{"text": "a", "label": 0}\n[1]\n' });
    await expect(load('text-classification')).rejects.toThrow(
      failure('DATA_MALFORMED', 'train.jsonl line 2', 'object'),
    );
    await put({ 'train.jsonl': '{"text": "a", "label": 0}\n{"text": 5, "label": 0}\n' });
    await expect(load('text-classification')).rejects.toThrow(
      failure('DATA_MALFORMED', 'train.jsonl line 2', '"text"', 'a number'),
    );
    await put({ 'train.jsonl': Uint8Array.of(0x7b, 0xff, 0x7d) });
    await expect(load('text-classification')).rejects.toThrow(
      failure('DATA_MALFORMED', 'train.jsonl line 1', 'UTF-8'),
    );
  });

  test('images are paths beside the file', async () => {
    const image = await png(9);
    const rows = texts('', 20).map(() => ({ file_name: 'a.png', label: 'x' }));
    await put({ 'train/a.png': image, 'train/metadata.jsonl': jsonl(rows) });
    const data = await load('image-classification');
    expect(Buffer.from(data.train[0]?.image as Uint8Array)).toEqual(image);
    expect(data.labels).toEqual(['x']);
    await put({ 'train/metadata.jsonl': jsonl([{ file_name: 'b.png', label: 'x' }]) });
    await expect(load('image-classification')).rejects.toThrow(
      failure('DATA_NOT_FOUND', 'train/metadata.jsonl line 1', 'b.png'),
    );
  });
});

describe('CSV', () => {
  test('quotes, commas and line breaks in fields', async () => {
    const csv = 'Id,Sentence,Label\r\n1,"a, ""b""\nc",joy\r\n2,plain,anger\r\n';
    await put({ 'train.csv': csv, 'dev.csv': csv, 'test.csv': csv });
    const data = await load('text-classification');
    expect(data.format).toBe('csv');
    expect(data.train).toEqual([
      { text: 'a, "b"\nc', label: 1 },
      { text: 'plain', label: 0 },
    ]);
    expect(data.labels).toEqual(['anger', 'joy']);
  });

  test('number labels stay numbers, unless the model has them as names', async () => {
    const csv = 'text,label\na,0\nb,2\n';
    await put({ 'train.csv': csv, 'dev.csv': csv, 'test.csv': csv });
    const labels = async (options: Partial<LoadDatasetOptions>) =>
      (await load('text-classification', options)).train.map(({ label }) => label);
    expect(await labels({})).toEqual([0, 2]);
    expect(await labels({ classes: 3 })).toEqual([0, 2]);
    expect(await labels({ labels: ['2', '1', '0'] })).toEqual([2, 0]);
  });

  test('a malformed record is named with its line', async () => {
    await put({ 'train.csv': 'text,label\n"a\nb",0\nc,1,2\n' });
    await expect(load('text-classification')).rejects.toThrow(
      failure('DATA_MALFORMED', 'train.csv line 4', 'fields'),
    );
    await put({ 'train.csv': 'text,label\n\n"a\nb",0\n"c\n\nd",7\ne,0\n' });
    await expect(load('text-classification', { classes: 2 })).rejects.toThrow(
      failure('LABEL_OUT_OF_RANGE', 'train.csv line 5 ', '"7"', '0 to 1'),
    );
    await put({ 'train.csv': 'text,label\n"a,0\n' });
    await expect(load('text-classification')).rejects.toThrow(
      failure('DATA_MALFORMED', 'train.csv line 2', 'quote'),
    );
  });
});

describe('image folder', () => {
  test('split/class/image, classes in sorted order over all splits', async () => {
    const image = await png(1);
    await put({
      'train/dog/1.png': image,
      'train/cat/1.JPG': image,
      'train/cat/2.png': image,
      'train/cat/notes.md': 'not an image',
      'val/dog/1.png': image,
      'test/ant/1.png': image,
    });
    const data = await load('image-classification');
    expect(data.format).toBe('image-folder');
    expect(data.labels).toEqual(['ant', 'cat', 'dog']);
    expect(data.train.map(({ label }) => label)).toEqual([1, 1, 2]);
    expect(data.validation.map(({ label }) => label)).toEqual([2]);
    expect(data.test.map(({ label }) => label)).toEqual([0]);
    await expect(load('image-classification', { labels: ['cat', 'dog'] })).rejects.toThrow(
      failure('LABEL_OUT_OF_RANGE', 'test/ant/1.png', '"ant"', '"cat", "dog"'),
    );
  });

  test('without splits, two are split off', async () => {
    for (let i = 0; i < 30; i++) await put({ [`${i % 2 ? 'b' : 'a'}/${i}.png`]: await png(i) });
    const data = await load('image-classification', { labels: ['LABEL_0', 'LABEL_1'] });
    expect([data.train.length, data.validation.length, data.test.length]).toEqual([24, 3, 3]);
    expect(data.labels).toEqual(['a', 'b']);
  });
});

describe('text', () => {
  test('each file is a document; files of no split are left out', async () => {
    await put({
      'train/1.txt': 'one',
      'train/2.txt': 'two',
      'validation.txt': 'three',
      'test.txt': 'four',
      'LICENSE.txt': 'public domain',
    });
    const data = await load('text-generation');
    expect(data.format).toBe('text');
    expect(data.train).toEqual([{ text: 'one' }, { text: 'two' }]);
    expect(data.validation).toEqual([{ text: 'three' }]);
    expect(data.test).toEqual([{ text: 'four' }]);
  });

  test('one document is cut at line ends to have validation and test', async () => {
    const lines = Array.from({ length: 400 }, (_, i) => `line ${i}\n`);
    await put({ 'input.txt': lines.join('') });
    const data = await load('text-generation');
    const parts = [...data.train, ...data.validation, ...data.test];
    expect(parts.every(({ text }) => text.endsWith('\n'))).toBe(true);
    expect(parts.flatMap(({ text }) => text.split(/(?<=\n)/)).sort()).toEqual(lines.sort());
    expect(data.validation.length).toBe(2);
    expect(data.test.length).toBe(2);
  });
});

test('the columns that are asked for are read', async () => {
  const rows = jsonl([{ text: 'wrong', review: 'right', stars: 1 }]);
  await put({ 'train.jsonl': rows, 'dev.jsonl': rows, 'test.jsonl': rows });
  const data = await load('text-classification', { columns: { text: 'review', label: 'stars' } });
  expect(data.train).toEqual([{ text: 'right', label: 1 }]);
});

test('the hash changes with a name or a content, and with nothing else', async () => {
  await put({ 'train.jsonl': jsonl(texts('a', 20)), 'notes.md': 'x' });
  const { hash } = await load('text-classification');
  expect(hash).toMatch(/^[0-9a-f]{64}$/);
  await put({ 'notes.md': 'y' });
  expect((await load('text-classification', { random: new Random(9) })).hash).toBe(hash);
  await put({ 'train.jsonl': jsonl(texts('b', 20)) });
  expect((await load('text-classification')).hash).not.toBe(hash);
  await rm(join(folder, 'train.jsonl'));
  await put({ 'training.jsonl': jsonl(texts('a', 20)) });
  expect((await load('text-classification')).hash).not.toBe(hash);
});

describe('bad input', () => {
  test('no such folder, or a file in its place', async () => {
    const options = { random: new Random(0) };
    await expect(
      loadDataset(join(folder, 'absent'), 'text-classification', options),
    ).rejects.toThrow(failure('DATA_NOT_FOUND', 'absent'));
    await put({ 'train.csv': 'text,label\n' });
    await expect(
      loadDataset(join(folder, 'train.csv'), 'text-classification', options),
    ).rejects.toThrow(failure('DATA_NOT_FOUND', 'train.csv'));
  });

  test('nothing in an accepted format: the formats are named', async () => {
    await put({ 'train.xlsx': 'x' });
    await expect(load('image-classification')).rejects.toThrow(
      failure('DATA_UNRECOGNIZED', 'parquet', 'jsonl', 'csv', 'images by class'),
    );
    await put({ 'train.txt': 'x' });
    await expect(load('text-classification')).rejects.toThrow(
      failure('DATA_UNRECOGNIZED', 'text-classification', 'parquet'),
    );
  });

  test('a missing column: those that are there are named', async () => {
    await put({ 'train.csv': 'title,label\na,0\n' });
    await expect(load('text-classification')).rejects.toThrow(
      failure('COLUMN_MISSING', 'train.csv', 'text', '"title", "label"'),
    );
    await expect(load('text-classification', { columns: { text: 'body' } })).rejects.toThrow(
      failure('COLUMN_MISSING', '"body"', '"title", "label"'),
    );
  });

  test('labels outside the classes: file, row, label and range are named', async () => {
    await put({ 'train.parquet': textParquet(texts('a', 6)) });
    await expect(load('text-classification', { classes: 1 })).rejects.toThrow(
      failure('LABEL_OUT_OF_RANGE', 'train.parquet row 1', 'label 1', '0 to 0'),
    );
    for (const label of [-1, 1.5, null, true]) {
      await put({ 'train.jsonl': jsonl([{ text: 'a', label }]) });
      await rm(join(folder, 'train.parquet'), { force: true });
      await expect(load('text-classification', { classes: 2 })).rejects.toThrow(
        failure('LABEL_OUT_OF_RANGE', 'train.jsonl line 1', `label ${label}`, '0 to 1'),
      );
    }
    await put({ 'train.jsonl': jsonl([{ text: 'a', label: 'sad' }]) });
    await expect(load('text-classification', { labels: ['joy', 'anger'] })).rejects.toThrow(
      failure('LABEL_OUT_OF_RANGE', 'line 1', '"sad"', '"joy", "anger"'),
    );
  });

  test('more class names than the model has classes', async () => {
    await put({ 'train.csv': 'text,label\na,x\nb,y\nc,z\n' });
    await expect(load('text-classification', { classes: 2 })).rejects.toThrow(
      failure('LABEL_OUT_OF_RANGE', 'train.csv line 4', '"z"'),
    );
  });

  test('an empty split, a missing training split, too few examples to split', async () => {
    for (const [name, content] of [
      ['train.jsonl', ''],
      ['train.csv', 'text,label\n'],
      ['train.parquet', textParquet([])],
    ] as const) {
      await put({ [name]: content });
      await expect(load('text-classification')).rejects.toThrow(
        failure('SPLIT_EMPTY', 'train', name),
      );
      await rm(join(folder, name));
    }
    await put({ 'train.jsonl': jsonl(texts('a', 20)), 'dev.jsonl': '\n' });
    await expect(load('text-classification')).rejects.toThrow(
      failure('SPLIT_EMPTY', 'validation', 'dev.jsonl'),
    );
    await put({ 'train.jsonl': jsonl(texts('a', 2)) });
    await rm(join(folder, 'dev.jsonl'));
    await expect(load('text-classification')).rejects.toThrow(failure('SPLIT_EMPTY', '2 examples'));
    await rm(join(folder, 'train.jsonl'));
    await put({ 'test.jsonl': jsonl(texts('a', 2)) });
    await expect(load('text-classification')).rejects.toThrow(
      failure('SPLIT_EMPTY', 'no training split', 'test'),
    );
  });
});
