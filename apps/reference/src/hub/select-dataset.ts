import { extname, posix } from 'node:path';
import { D2DMoEError } from '@d2dmoe/core';
import { globMatch } from '@huggingface/hub';
import { splitOf } from '../data/files.js';
import { readConfigurations, type Configuration } from './dataset-card.js';
import { describeRepo, type Repo } from './repo.js';
import type { Select, Selection } from './repo-files.js';

const tableExtensions = ['.parquet', '.jsonl', '.csv'];
const otherExtensions = ['.txt', '.png', '.jpg', '.jpeg', '.webp'];
const card = 'README.md';

/**
 * Chooses the files of a data set: those of the default configuration in the card's `configs`, else those in the
 * places where a data folder has them. Where there are parquet files, no others are chosen.
 *
 * @returns a function that throws D2DMoEError `HUB_FILES_MISSING`, `HUB_DATA_LAYOUT`
 */
export function selectDataset(repo: Repo): Select {
  return async ({ paths, read }) => {
    const withCard = paths.includes(card);
    const configurations = withCard ? readConfigurations(await read(card), repo) : [];
    const configuration = choose(configurations, repo);
    const selection = configuration?.files
      ? configured(paths, configuration, configuration.files, repo)
      : usual(paths, configuration?.directory ?? '');
    if (selection.paths.length === 0) {
      throw new D2DMoEError(
        'HUB_FILES_MISSING',
        `There are no parquet, JSONL, CSV, text or image files in ${describeRepo(repo)} where they are looked for: in the repository itself, its data/ and folders named by split, or as its card's configs say.`,
      );
    }
    return { ...selection, paths: [...selection.paths, ...(withCard ? [card] : [])] };
  };
}

function choose(configurations: Configuration[], repo: Repo): Configuration | undefined {
  const chosen =
    configurations.find((configuration) => configuration.isDefault) ??
    configurations.find(({ name }) => name === 'default');
  if (chosen !== undefined || configurations.length <= 1) return chosen ?? configurations[0];
  const names = configurations.map(({ name }) => name).join(', ');
  throw new D2DMoEError(
    'HUB_DATA_LAYOUT',
    `Of the configurations of ${describeRepo(repo)} (${names}) none is the default; download the files of one of them into a folder and give that.`,
  );
}

/** The files that a configuration lists, in the folder that holds them all. */
function configured(
  paths: readonly string[],
  { name, directory }: Configuration,
  groups: readonly { split: string; pattern: string }[],
  repo: Repo,
): Selection {
  // Other splits, such as texts without labels, are of no use here.
  const matched = groups.flatMap(({ split, pattern }) =>
    paths
      .filter((path) => matches(posix.join(directory, pattern), path) && splitOf(split))
      .map((path) => ({ path, split })),
  );
  const files = preferred(matched, ({ path }) => path);
  const areTables = files.every(({ path }) => tableExtensions.includes(extensionOf(path)));
  const folder = areTables ? commonFolder(files.map(({ path }) => path)) : directory;
  // The folder's reader goes by names, so they have to say what the card says.
  const readAs = files.map(({ path }) => {
    const steps = posix.relative(folder, path).split('/');
    if (!areTables && steps[0] === 'data') steps.shift();
    if (areTables && steps.length > 2) return 'nothing';
    return splitOf(steps[0] as string) ?? (steps.length > 1 && areTables ? 'nothing' : undefined);
  });
  const unnamed = readAs.every((split) => split === undefined) ? 'train' : 'nothing';
  files.forEach(({ path, split }, index) => {
    if ((readAs[index] ?? unnamed) === splitOf(split)) return;
    throw new D2DMoEError(
      'HUB_DATA_LAYOUT',
      `The card of ${describeRepo(repo)} gives ${path} to the split "${split}" of "${name}", but its name does not say so; download the files and name them by train, validation and test.`,
    );
  });
  return { paths: [...new Set(files.map(({ path }) => path))], folder };
}

/** The files in the places of a data folder: in itself, in folders named by split, and in its `data/`. */
function usual(paths: readonly string[], directory: string): Selection {
  const inside = paths.filter((path) => directory === '' || path.startsWith(`${directory}/`));
  const found = inside.filter((path) => {
    if (!tableExtensions.includes(extensionOf(path))) return true;
    const folders = posix.relative(directory, path).split('/').slice(0, -1);
    if (folders[0] === 'data') folders.shift();
    return folders.length === 0 || (folders.length === 1 && splitOf(folders[0] as string));
  });
  return { paths: preferred(found, (path) => path), folder: directory };
}

/** Parquet files where there are any, else all files of known formats. */
function preferred<T>(files: readonly T[], pathOf: (file: T) => string): T[] {
  const parquet = files.filter((file) => extensionOf(pathOf(file)) === '.parquet');
  if (parquet.length > 0) return parquet;
  const known = [...tableExtensions, ...otherExtensions];
  return files.filter((file) => known.includes(extensionOf(pathOf(file))));
}

const extensionOf = (path: string) => extname(path).toLowerCase();

/** Whether a pattern of a card means a path: `*` stays within a folder, `**` does not. */
function matches(pattern: string, path: string): boolean {
  if (pattern.includes('**')) {
    return globMatch(pattern, path) || globMatch(pattern.replaceAll('**/', ''), path);
  }
  const depth = (name: string) => name.split('/').length;
  return depth(pattern) === depth(path) && globMatch(pattern, path);
}

/** The deepest folder that holds all `paths`. */
function commonFolder(paths: readonly string[]): string {
  const [first = [], ...others] = paths.map((path) => path.split('/').slice(0, -1));
  const same = first.findIndex((name, depth) => others.some((other) => other[depth] !== name));
  return (same === -1 ? first : first.slice(0, same)).join('/');
}
