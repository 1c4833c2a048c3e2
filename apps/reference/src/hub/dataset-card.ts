import { D2DMoEError } from '@d2dmoe/core';
import { parse } from 'yaml';
import { describeRepo, type Repo } from './repo.js';

/** A configuration of a data set, as its card lists them under `configs`. */
export interface Configuration {
  name: string;
  isDefault: boolean;
  /** The folder that it is in; empty for the repository itself. */
  directory: string;
  /** Patterns of its files with the split they belong to; undefined where the usual places hold. */
  files: { split: string; pattern: string }[] | undefined;
}

/**
 * The configurations in the YAML head of a data set's README.md; none where it lists none.
 *
 * @throws D2DMoEError `HUB_DATA_LAYOUT` for a head that is not YAML, or `configs` of another form than documented
 */
export function readConfigurations(readme: string, repo: Repo): Configuration[] {
  const [, head] = /^---\r?\n(.*?)\r?\n---/s.exec(readme) ?? [];
  if (head === undefined) return [];
  let list: unknown;
  try {
    // Aliases could blow a small text up into a huge object.
    list = (parse(head, { maxAliasCount: 0 }) as { configs?: unknown } | null)?.configs ?? [];
  } catch (error) {
    throw malformed(repo, 'is not YAML', error);
  }
  if (!Array.isArray(list)) throw malformed(repo, 'must have a list as its configs');
  return list.map((entry: unknown) => readConfiguration(entry, repo));
}

function readConfiguration(entry: unknown, repo: Repo): Configuration {
  const fields = (typeof entry === 'object' && entry !== null ? entry : {}) as Record<
    string,
    unknown
  >;
  const { config_name: name, data_dir: directory = '', data_files: files } = fields;
  if (typeof name !== 'string' || typeof directory !== 'string') {
    throw malformed(
      repo,
      'must have a config_name, and as data_dir a path, in each of its configs',
    );
  }
  return {
    name,
    isDefault: fields['default'] === true,
    directory: directory.replace(/^\.?\/+|\/+$/g, '').replace(/^\.$/, ''),
    files: files === undefined ? undefined : readPatterns(files, name, repo),
  };
}

/** A pattern, a list of patterns, or a list of splits with a pattern or a list of them each. */
function readPatterns(files: unknown, name: string, repo: Repo) {
  return [files].flat().flatMap((entry: unknown) => {
    if (typeof entry === 'string') return [{ split: 'train', pattern: entry }];
    const { split, path } = (entry ?? {}) as { split?: unknown; path?: unknown };
    const patterns = [path].flat();
    if (
      typeof split !== 'string' ||
      !patterns.every((pattern): pattern is string => typeof pattern === 'string')
    ) {
      throw malformed(repo, `must give a split and a path to each of the data_files of "${name}"`);
    }
    return patterns.map((pattern) => ({ split, pattern }));
  });
}

function malformed(repo: Repo, what: string, cause?: unknown): D2DMoEError {
  return new D2DMoEError(
    'HUB_DATA_LAYOUT',
    `The YAML head of README.md in ${describeRepo(repo)} ${what}.`,
    { cause },
  );
}
