/** A repository of the hub at a revision. */
export interface Repo {
  type: 'model' | 'dataset';
  /** `owner/name`. */
  name: string;
  /** Branch, tag or commit. */
  revision: string;
}

/** One part of an id, by the hub's rules: no `--` and no `..`, nothing but letters and digits at the ends. */
const part = String.raw`(?!\S*(?:--|\.\.))[A-Za-z0-9_](?:[\w.-]{0,94}[A-Za-z0-9_])?`;
const namePattern = new RegExp(`^${part}/${part}$`);
/** It becomes a path in the cache, so nothing may lead out of there. */
const revisionPattern = /^(?!.*(?:\.\.|\/\/|\/$|\/\.))[A-Za-z0-9_][\w./+-]*$/;

/** The repository that `owner/name` or `owner/name@revision` means; undefined for what is no hub id. */
export function parseRepo(type: Repo['type'], id: string): Repo | undefined {
  const [name = '', revision = 'main', ...rest] = id.split('@');
  if (rest.length > 0 || !namePattern.test(name) || !revisionPattern.test(revision)) {
    return undefined;
  }
  return { type, name, revision };
}

/** `the model openai-community/gpt2 at revision main`, for messages. */
export function describeRepo({ type, name, revision }: Repo): string {
  return `the ${type === 'model' ? 'model' : 'data set'} ${name} at revision ${revision}`;
}
