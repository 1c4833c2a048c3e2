import { createHash } from 'node:crypto';
import { createServer } from 'node:http';
import type { IncomingMessage, RequestListener, Server, ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { onTestFinished } from 'vitest';

/** A repository on the {@link LoopbackHub}. */
export interface HubRepo {
  type: 'model' | 'dataset';
  name: string;
  /** Branches and tags with the commits that they are at; `main` at {@link firstCommit} if nothing else is said. */
  refs: Record<string, string>;
  /** Contents by path; those of `lfs` are stored in LFS. */
  files: Record<string, Uint8Array>;
  lfs: readonly string[];
}

/** A request as the hub saw it. */
export interface HubRequest {
  /** Path and query. */
  url: string;
  range: string | undefined;
  authorization: string | undefined;
}

/** What the hub does with a request in place of answering it as it should; undefined lets it. */
export type Misbehave = (request: HubRequest) => Misbehaviour | undefined;

/** A refusal with a status, or a content that is cut off, changed, or sent whole where a range was asked for. */
export interface Misbehaviour {
  status?: number;
  /** Added to those of the answer. */
  headers?: Record<string, string>;
  /** The connection breaks after so many bytes of what was asked for. */
  cutAfter?: number;
  /** It breaks when this resolves, since a client loses what it has not read by then; at once if nothing is said. */
  cutWhen?: () => Promise<unknown>;
  /** Sent in place of the content. */
  content?: Uint8Array;
  ignoreRange?: boolean;
}

export const firstCommit = '1'.repeat(40);
export const secondCommit = '2'.repeat(40);

export const sha256 = (content: Uint8Array) => createHash('sha256').update(content).digest('hex');
export const gitSha1 = (content: Uint8Array) =>
  createHash('sha1').update(`blob ${content.length}\0`).update(content).digest('hex');

/**
 * A server on 127.0.0.1 that speaks those endpoints of the Hugging Face hub that a download needs: a repository's
 * commit, its tree in pages of two, and its files with ranges, those in LFS by a redirect to another origin.
 */
export class LoopbackHub {
  readonly requests: HubRequest[] = [];
  misbehave: Misbehave = () => undefined;
  readonly #repos: HubRepo[] = [];
  readonly #servers: Server[] = [];
  /** Addresses of the hub itself and of the content network that files in LFS come from. */
  endpoint = '';
  #contentOrigin = '';

  /** Starts one that ends with the test. */
  static async start(): Promise<LoopbackHub> {
    const hub = new LoopbackHub();
    await hub.listen();
    onTestFinished(() => hub.close());
    return hub;
  }

  async listen(): Promise<void> {
    this.endpoint = await this.#serve((incoming, response) => this.#answer(incoming, response));
    this.#contentOrigin = await this.#serve((incoming, response) =>
      this.#answerContent(incoming, response),
    );
  }

  async #serve(answer: RequestListener): Promise<string> {
    const server = createServer(answer);
    this.#servers.push(server);
    await new Promise<void>((resolve) => {
      server.listen(0, '127.0.0.1', resolve);
    });
    return `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  }

  async close(): Promise<void> {
    await Promise.all(
      this.#servers.splice(0).map((server) => {
        server.closeAllConnections();
        return new Promise((resolve) => server.close(resolve));
      }),
    );
  }

  add(repo: Pick<HubRepo, 'name'> & Partial<HubRepo>): HubRepo {
    const defaults = { type: 'model' as const, refs: { main: firstCommit }, files: {}, lfs: [] };
    const added = { ...defaults, ...repo };
    this.#repos.push(added);
    return added;
  }

  /** Paths and queries of the requests for contents since the last call, with their ranges. */
  takeContentRequests(): string[] {
    return this.requests
      .splice(0)
      .filter(({ url }) => url.includes('/resolve/'))
      .map(({ url, range }) => `${url.split('/').slice(5).join('/')} ${range ?? 'whole'}`);
  }

  #note({ url = '', headers }: IncomingMessage): HubRequest {
    const { range, authorization } = headers;
    const request = { url, range, authorization };
    this.requests.push(request);
    return request;
  }

  #answer(incoming: IncomingMessage, response: ServerResponse): void {
    const request = this.#note(incoming);
    const misbehaviour = this.misbehave(request);
    if (misbehaviour?.status !== undefined) {
      json(response, misbehaviour.status, { error: 'refused' }, misbehaviour.headers);
      return;
    }
    const { pathname, searchParams } = new URL(request.url, this.endpoint);
    const [, api, kind = '', owner, short, action = '', revision = '', ...rest] =
      pathname.startsWith('/api/')
        ? pathname.split('/')
        : `/-/${pathname.startsWith('/datasets/') ? '' : 'models/'}${pathname.slice(1)}`.split('/');
    const repo = this.#repos.find(
      ({ type, name }) => `${type}s` === kind && name === `${owner}/${short}`,
    );
    const asked = decodeURIComponent(revision);
    const commit = repo?.refs[asked] ?? Object.values(repo?.refs ?? {}).find((id) => id === asked);
    if (repo === undefined || commit === undefined) {
      const code = repo === undefined ? 'RepoNotFound' : 'RevisionNotFound';
      json(response, 404, { error: 'not found' }, { 'x-error-code': code });
    } else if (api === 'api' && action === 'revision') {
      json(response, 200, { _id: '0', id: repo.name, sha: commit, lastModified: '2024-01-01' });
    } else if (api === 'api' && action === 'tree') {
      this.#answerTree(repo, pathname, Number(searchParams.get('cursor') ?? 0), response);
    } else {
      this.#answerFile(repo, commit, decodeURIComponent(rest.join('/')), request, response);
    }
  }

  #answerTree(repo: HubRepo, pathname: string, cursor: number, response: ServerResponse): void {
    const folders = new Set(
      Object.keys(repo.files).flatMap((path) => {
        const steps = path.split('/').slice(0, -1);
        return steps.map((_, depth) => steps.slice(0, depth + 1).join('/'));
      }),
    );
    const files = Object.entries(repo.files).map(([path, content]) => {
      const size = content.length;
      const lfs = { oid: sha256(content), size, pointerSize: 130 };
      // The entry's own oid is that of the pointer for a file in LFS.
      return repo.lfs.includes(path)
        ? { type: 'file', path, size, oid: gitSha1(Buffer.from(lfs.oid)), lfs }
        : { type: 'file', path, size, oid: gitSha1(content) };
    });
    const entries = [
      ...[...folders].map((path) => ({ type: 'directory', path, size: 0 })),
      ...files,
    ];
    const next = cursor + 2;
    const more = `<${this.endpoint}${pathname}?recursive=true&cursor=${next}>; rel="next"`;
    json(response, 200, entries.slice(cursor, next), next < entries.length ? { link: more } : {});
  }

  #answerFile(
    repo: HubRepo,
    commit: string,
    path: string,
    request: HubRequest,
    response: ServerResponse,
  ): void {
    const content = repo.files[path];
    if (content === undefined) {
      json(response, 404, { error: 'Entry not found' }, { 'x-error-code': 'EntryNotFound' });
    } else if (repo.lfs.includes(path)) {
      response.writeHead(302, {
        'x-repo-commit': commit,
        'x-linked-etag': `"${sha256(content)}"`,
        'x-linked-size': content.length,
        location: `${this.#contentOrigin}/${repo.type}/${repo.name}/${path}`,
      });
      response.end();
    } else {
      const headers = { 'x-repo-commit': commit, etag: `"${gitSha1(content)}"` };
      send(response, content, headers, request, this.misbehave(request));
    }
  }

  /** The other origin's answer; what the request itself would do wrong there, its redirect did not. */
  #answerContent(incoming: IncomingMessage, response: ServerResponse): void {
    const request = this.#note(incoming);
    const [, type, owner, short, ...rest] = request.url.split('/');
    const repo = this.#repos.find(
      (repo) => repo.type === type && repo.name === `${owner}/${short}`,
    );
    const content = repo?.files[decodeURIComponent(rest.join('/'))] as Uint8Array;
    send(response, content, { etag: '"unrelated"' }, request, this.misbehave(request));
  }
}

function json(
  response: ServerResponse,
  status: number,
  body: unknown,
  headers: Record<string, string> = {},
): void {
  response.writeHead(status, { ...headers, 'content-type': 'application/json' });
  response.end(JSON.stringify(body));
}

function send(
  response: ServerResponse,
  original: Uint8Array,
  headers: Record<string, string>,
  { range }: HubRequest,
  {
    content = original,
    cutAfter,
    cutWhen = async () => {},
    ignoreRange = false,
    headers: more,
  }: Misbehaviour = {},
): void {
  const offset = ignoreRange ? 0 : Number(/^bytes=(\d+)-$/.exec(range ?? '')?.[1] ?? 0);
  const rest = content.subarray(offset);
  const ranged = range !== undefined && !ignoreRange;
  response.writeHead(ranged ? 206 : 200, {
    ...headers,
    'content-length': rest.length,
    ...(ranged && {
      'content-range': `bytes ${offset}-${content.length - 1}/${content.length}`,
    }),
    ...more,
  });
  if (cutAfter === undefined) {
    response.end(rest);
  } else {
    response.write(rest.subarray(0, cutAfter), () => {
      void cutWhen().then(() => response.destroy());
    });
  }
}
