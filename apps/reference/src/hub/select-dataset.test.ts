import { D2DMoEError } from '@d2dmoe/core';
import { describe, expect, test } from 'vitest';
import type { Selection } from './repo-files.js';
import { selectDataset } from './select-dataset.js';

/** What is chosen among `paths`, where a README.md with `head` as its YAML is one of them. */
async function select(paths: readonly string[], head?: string): Promise<Selection> {
  const selection = await selectDataset({ type: 'dataset', name: 'a/b', revision: 'main' })({
    paths: head === undefined ? paths : [...paths, 'README.md'],
    read: async () => `---\n${head}\n---\n# Data\n`,
  });
  return { ...selection, paths: selection.paths.filter((path) => path !== 'README.md') };
}

async function failure(paths: readonly string[], head?: string): Promise<string> {
  const error: unknown = await select(paths, head).catch((error: unknown) => error);
  if (!D2DMoEError.isInstance(error)) throw new Error('expected a D2DMoEError', { cause: error });
  return `${error.code}: ${error.message}`;
}

const configuration = (name: string, ...lines: string[]) =>
  [`- config_name: ${name}`, ...lines.map((line) => `  ${line}`)].join('\n');
const splits = (patterns: Record<string, string>) => [
  'data_files:',
  ...Object.entries(patterns).map(([split, path]) => `- {split: ${split}, path: "${path}"}`),
];

describe('without configurations', () => {
  test.each([
    ['files at the top', ['train.csv', 'test.csv']],
    ['files in data/', ['data/train-0.parquet', 'data/test-0.parquet']],
    ['folders by split', ['train/0.jsonl', 'data/test/0.jsonl']],
    ['images by class', ['train/cat/1.png', 'train/dog/2.JPG', 'test/cat/3.webp']],
    ['texts', ['train.txt', 'valid.txt']],
  ])('%s', async (_what, paths) => {
    const others = ['.gitattributes', 'load.py', 'raw.zip', 'other/train.csv', 'a/train/b.parquet'];
    expect(await select([...others, ...paths])).toEqual({ paths, folder: '' });
    expect(await select([...others, ...paths], 'license: mit')).toEqual({ paths, folder: '' });
    expect(await select([...others, ...paths], '')).toEqual({ paths, folder: '' });
  });

  test('parquet alone where there is parquet', async () => {
    const { paths } = await select(['train.csv', 'train.parquet', 'train/cat/1.png']);
    expect(paths).toEqual(['train.parquet']);
  });

  test('nothing that can be read', async () => {
    expect(await failure(['train.arrow', 'deep/down/train.csv'])).toMatch(/^HUB_FILES_MISSING/);
  });
});

describe('with configurations', () => {
  const paths = ['en/train-0.parquet', 'en/test-0.parquet', 'de/train-0.parquet'];
  const english = configuration('en', ...splits({ train: 'en/train-*', test: 'en/test-*' }));
  const german = configuration('de', ...splits({ train: 'de/train-*' }));

  test('the only one, the one named default, the one marked as default', async () => {
    const en = { paths: paths.slice(0, 2), folder: 'en' };
    expect(await select(paths, `configs:\n${english}`)).toEqual(en);
    const named = english.replace('config_name: en', 'config_name: default');
    expect(await select(paths, `configs:\n${german}\n${named}`)).toEqual(en);
    expect(await select(paths, `configs:\n${german}\n${english}\n  default: true`)).toEqual(en);
  });

  test('none is the default: their names are listed', async () => {
    const message = await failure(paths, `configs:\n${german}\n${english}`);
    expect(message).toMatch(/^HUB_DATA_LAYOUT: .*\(de, en\)/);
  });

  test('splits for no use are left out', async () => {
    const patterns = { train: 'x/train*', unsupervised: 'x/unsupervised*' };
    const head = `configs:\n${configuration('x', ...splits(patterns))}`;
    expect(await select(['x/train.csv', 'x/unsupervised.csv'], head)).toEqual({
      paths: ['x/train.csv'],
      folder: 'x',
    });
  });

  test('data_files as one pattern and as a list, and data_dir', async () => {
    const files = ['x/a.csv', 'x/y/b.csv', 'z/train.csv'];
    const pick = (...lines: string[]) => select(files, `configs:\n${configuration('c', ...lines)}`);
    expect(await pick('data_files: x/*.csv')).toEqual({ paths: ['x/a.csv'], folder: 'x' });
    expect(await pick('data_files: ["x/y/*"]')).toEqual({ paths: ['x/y/b.csv'], folder: 'x/y' });
    expect(await pick('data_dir: ./z/')).toEqual({ paths: ['z/train.csv'], folder: 'z' });
    expect(await pick('data_dir: z', 'data_files: "**/*.csv"')).toEqual({
      paths: ['z/train.csv'],
      folder: 'z',
    });
  });

  test('images by class', async () => {
    const images = ['imgs/train/cat/1.png', 'imgs/test/dog/2.png'];
    const lines = ['data_dir: imgs', ...splits({ train: 'train/**', test: 'test/**' })];
    expect(await select(images, `configs:\n${configuration('c', ...lines)}`)).toEqual({
      paths: images,
      folder: 'imgs',
    });
  });

  test.each([
    ['another split in the name', ['x/test.csv'], { train: 'x/test.csv' }],
    [
      'no split in one name of two',
      ['x/a.csv', 'x/test.csv'],
      { train: 'x/a.csv', test: 'x/test.csv' },
    ],
    ['folders that say no split', ['x/train.csv', 'y/test.csv'], { train: 'x/*', test: 'y/*' }],
    ['folders in folders', ['train/x/1.csv', 'test/2.csv'], { train: 'train/x/*', test: 'test/*' }],
    ['training data without its name', ['x/a.csv'], { validation: 'x/*' }],
  ])('names that the folder’s reader would take otherwise: %s', async (_what, paths, patterns) => {
    const head = `configs:\n${configuration('c', ...splits(patterns))}`;
    expect(await failure(paths, head)).toMatch(/^HUB_DATA_LAYOUT: .*split "/);
  });

  test.each([
    ['no YAML', 'configs: ['],
    ['no list', 'configs: all'],
    ['no name', 'configs: [{}]'],
    ['an entry that is null', 'configs: [null]'],
    ['no path', 'configs: [{config_name: x, data_files: [{split: train}]}]'],
    ['aliases', 'a: &a [x]\nconfigs: [*a]'],
  ])('a card with %s', async (_what, head) => {
    expect(await failure(['train.csv'], head)).toMatch(/^HUB_DATA_LAYOUT: .*README.md/);
  });
});
