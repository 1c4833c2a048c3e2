import { lstat, mkdir, readdir, readFile, readlink, rm, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { D2DMoEError, type ProgressEvent, Random } from '@d2dmoe/core';
import { scanCacheDir } from '@huggingface/hub';
import { beforeEach, describe, expect, test, vi } from 'vitest';
import {
  firstCommit,
  gitSha1,
  type HubRepo,
  LoopbackHub,
  type Misbehaviour,
  secondCommit,
  sha256,
} from '../../testing/loopback-hub.js';
import { loadDataset } from '../data/index.js';
import { temporaryFolder } from '../../testing/tiny.js';
import { resolveCheckpoint, resolveDataset } from './index.js';

const utf8 = (text: string) => new TextEncoder().encode(text);
const random = new Random(1).fork('hub');
const noise = (length: number) => Uint8Array.from({ length }, () => random.integer(256));

const weights = noise(300_000);
const config = utf8('{"model_type": "gpt2"}');
const checkpoint: Pick<HubRepo, 'name' | 'files' | 'lfs'> = {
  name: 'owner/model-1.0',
  files: {
    '.gitattributes': utf8('*.safetensors filter=lfs'),
    'README.md': utf8('# a model'),
    'config.json': config,
    'model.safetensors': weights,
    'pytorch_model.bin': noise(10),
    'tokenizer.json': utf8('{}'),
    'onnx/config.json': utf8('{}'),
  },
  lfs: ['model.safetensors', 'pytorch_model.bin'],
};

let hub: LoopbackHub;
let home: string;
let cache: string;
beforeEach(async () => {
  home = await temporaryFolder();
  cache = join(home, 'hub');
  hub = await LoopbackHub.start();
  for (const name of ['HF_HUB_CACHE', 'HUGGINGFACE_HUB_CACHE', 'HF_HUB_OFFLINE', 'HF_TOKEN']) {
    vi.stubEnv(name, undefined);
  }
  vi.stubEnv('HF_HOME', home);
  vi.stubEnv('HF_ENDPOINT', hub.endpoint);
  return () => vi.unstubAllEnvs();
});

const storage = () => join(cache, 'models--owner--model-1.0');
const snapshotOf = (commit: string) => join(storage(), 'snapshots', commit);
const blob = (etag: string) => join(storage(), 'blobs', etag);
const files = async (folder: string) =>
  (await readdir(folder, { recursive: true, withFileTypes: true }))
    .filter((entry) => !entry.isDirectory())
    .map((entry) => join(entry.parentPath, entry.name).slice(folder.length + 1))
    .sort();
/** Compares buffers, since a comparison of elements takes long. */
async function expectContent(folder: string, file: string, content: Uint8Array): Promise<void> {
  expect((await readFile(join(folder, file))).equals(content)).toBe(true);
}

/** The error that a promise is rejected with, which has to be one of ours. */
async function failureOf(promise: Promise<unknown>): Promise<D2DMoEError> {
  const error = await promise.then(
    () => undefined,
    (reason: unknown) => reason,
  );
  if (!D2DMoEError.isInstance(error)) throw new Error('expected a D2DMoEError', { cause: error });
  return error;
}

/** Breaks the connection `bytes` after the begin of a range of the weights, once they have reached the disk. */
function cut(bytes: number, range?: string): Misbehaviour {
  const end = Number(/\d+/.exec(range ?? '')?.[0] ?? 0) + bytes;
  const partial = `${blob(sha256(weights))}.incomplete`;
  // Another download of the same file may have finished and renamed it.
  const size = () =>
    stat(partial)
      .then((found) => found.size)
      .catch(() => Infinity);
  const written = () =>
    vi.waitUntil(async () => (await size()) >= end, { interval: 5, timeout: 30_000 });
  return { cutAfter: bytes, cutWhen: written };
}

/** Makes the hub break the connection of the first `times` answers with the weights after `bytes`. */
function cutWeights(times: number, bytes: number): void {
  let left = times;
  hub.misbehave = ({ url, range }) =>
    url.startsWith('/model/') && left-- > 0 ? cut(bytes, range) : undefined;
}

const weightRanges = () =>
  hub.requests
    .splice(0)
    .filter(({ url }) => url.startsWith('/model/'))
    .map(({ range }) => range);

describe('what is named', () => {
  test('a folder that exists wins over the hub, whose id it could be', async () => {
    hub.add(checkpoint);
    await mkdir(join(home, 'owner/model-1.0'), { recursive: true });
    const before = process.cwd();
    process.chdir(home);
    try {
      expect(await resolveCheckpoint('owner/model-1.0')).toBe('owner/model-1.0');
      expect(await resolveDataset('owner/model-1.0')).toBe('owner/model-1.0');
    } finally {
      process.chdir(before);
    }
    expect(hub.requests).toEqual([]);
  });

  test.each([
    'nowhere',
    './no/where',
    '/no/where',
    'a/b/c',
    'a/b@',
    'a/b@x/../y',
    '../no-such-folder',
    'a--b/c',
  ])('%s is neither folder nor id, and nobody is asked', async (name) => {
    const failure = await failureOf(resolveCheckpoint(name));
    expect(failure.code).toBe('CHECKPOINT_NOT_FOUND');
    expect(failure.message).toMatch(/neither a folder that exists nor an id on the hub/);
    expect(failure.message).toContain(`"${name}"`);
    expect((await failureOf(resolveDataset(name))).code).toBe('DATA_NOT_FOUND');
    expect(hub.requests).toEqual([]);
  });

  test('a file is refused', async () => {
    const file = join(home, 'model.bin');
    await writeFile(file, '');
    const failure = await failureOf(resolveCheckpoint(file));
    expect(failure.code).toBe('CHECKPOINT_NOT_FOUND');
    expect(failure.message).toContain('is a file');
  });
});

describe('a checkpoint', () => {
  test('arrives in the layout of the cache: blobs by hash, links by commit, the ref', async () => {
    hub.add(checkpoint);
    const folder = await resolveCheckpoint('owner/model-1.0');
    expect(folder).toBe(snapshotOf(firstCommit));
    expect(await files(storage())).toEqual(
      [
        `blobs/${gitSha1(config)}`,
        `blobs/${gitSha1(utf8('{}'))}`,
        `blobs/${sha256(weights)}`,
        'refs/main',
        ...['config.json', 'model.safetensors', 'tokenizer.json'].map(
          (file) => `snapshots/${firstCommit}/${file}`,
        ),
      ].sort(),
    );
    expect(await readlink(join(folder, 'model.safetensors'))).toBe(
      `../../blobs/${sha256(weights)}`,
    );
    expect(await readFile(join(storage(), 'refs/main'), 'utf8')).toBe(firstCommit);
    await expectContent(folder, 'model.safetensors', weights);
    await expectContent(folder, 'config.json', config);
  });

  test('is found in the cache by the hub’s own library, at a branch and at a commit', async () => {
    hub.add(checkpoint);
    await resolveCheckpoint(`owner/model-1.0@${firstCommit}`);
    expect((await scanCacheDir(cache)).warnings).toEqual([]);
    await resolveCheckpoint('owner/model-1.0');
    const { repos, warnings } = await scanCacheDir(cache);
    expect(warnings).toEqual([]);
    expect(repos).toMatchObject([
      {
        id: { name: 'owner/model-1.0', type: 'model' },
        filesCount: 3,
        revisions: [{ commitOid: firstCommit, refs: ['main'] }],
      },
    ]);
  });

  test('is not downloaded twice; a new commit brings only what is new', async () => {
    const repo = hub.add(checkpoint);
    await resolveCheckpoint('owner/model-1.0');
    hub.takeContentRequests();
    const events: ProgressEvent[] = [];
    await resolveCheckpoint('owner/model-1.0', { onProgress: (event) => events.push(event) });
    expect(hub.takeContentRequests()).toEqual([]);
    expect(events).toEqual([{ status: 'skip', name: 'owner/model-1.0' }]);

    repo.refs = { main: secondCommit };
    repo.files = { ...repo.files, 'config.json': utf8('{"model_type": "bert"}') };
    expect(await resolveCheckpoint('owner/model-1.0')).toBe(snapshotOf(secondCommit));
    expect(hub.takeContentRequests()).toEqual(['config.json whole']);
    await expectContent(snapshotOf(secondCommit), 'model.safetensors', weights);
    await expectContent(snapshotOf(firstCommit), 'config.json', config);
    expect(await readFile(join(storage(), 'refs/main'), 'utf8')).toBe(secondCommit);
  });

  test('at a revision: a branch with slashes, and a commit', async () => {
    hub.add({ ...checkpoint, refs: { 'refs/pr/1': firstCommit } });
    const folder = await resolveCheckpoint('owner/model-1.0@refs/pr/1');
    expect(folder).toBe(snapshotOf(firstCommit));
    expect(await readFile(join(storage(), 'refs/refs/pr/1'), 'utf8')).toBe(firstCommit);
    expect(await resolveCheckpoint(`owner/model-1.0@${firstCommit}`)).toBe(folder);
    expect(await files(join(storage(), 'refs'))).toEqual(['refs/pr/1']);
  });

  test('in shards: the index and those that it names', async () => {
    const index = utf8('{"weight_map": {"x": "a.safetensors", "y": "b.safetensors"}}');
    const shards = { 'a.safetensors': noise(5), 'b.safetensors': noise(6) };
    const other = { 'config.json': config, 'consolidated.safetensors': noise(7) };
    const repo = hub.add({
      name: 'owner/model-1.0',
      files: { ...other, ...shards, 'model.safetensors.index.json': index },
      lfs: Object.keys(shards),
    });
    expect(await files(await resolveCheckpoint('owner/model-1.0'))).toEqual([
      'a.safetensors',
      'b.safetensors',
      'config.json',
      'model.safetensors.index.json',
    ]);
    delete repo.files['b.safetensors'];
    repo.refs = { main: secondCommit };
    const failure = await failureOf(resolveCheckpoint('owner/model-1.0'));
    expect(failure.code).toBe('HUB_FILES_MISSING');
    expect(failure.message).toContain('b.safetensors');
  });

  test('without safetensors: what is missing is named', async () => {
    hub.add({ name: 'a/b', files: { 'config.json': config, 'pytorch_model.bin': noise(3) } });
    const failure = await failureOf(resolveCheckpoint('a/b'));
    expect(failure.code).toBe('HUB_FILES_MISSING');
    expect(failure.message).toContain('no model.safetensors');
  });

  test('progress goes from 0 to 100 % under its name', async () => {
    hub.add(checkpoint);
    const events: ProgressEvent[] = [];
    await resolveCheckpoint('owner/model-1.0', { onProgress: (event) => events.push(event) });
    expect(new Set(events.map(({ name }) => name))).toEqual(new Set(['owner/model-1.0']));
    expect(events[0]).toMatchObject({ status: 'initiate', progress: 0 });
    expect(events.at(-1)).toMatchObject({ status: 'done', progress: 100, metrics: { MB: 0.3 } });
    const shares = events.map(({ progress }) => progress as number);
    expect(shares).toEqual([...shares].sort((a, b) => a - b));
    expect(shares.length).toBeGreaterThan(4);
  });

  test('HF_HUB_CACHE wins over HF_HOME', async () => {
    hub.add(checkpoint);
    vi.stubEnv('HF_HUB_CACHE', join(home, 'elsewhere'));
    const folder = await resolveCheckpoint('owner/model-1.0');
    expect(folder.startsWith(join(home, 'elsewhere', 'models--owner--model-1.0'))).toBe(true);
  });

  test('HF_TOKEN goes to the hub and not to the origin that it redirects to', async () => {
    hub.add(checkpoint);
    vi.stubEnv('HF_TOKEN', 'hf_secret\n');
    await resolveCheckpoint('owner/model-1.0');
    const sent = hub.requests.map(({ url, authorization }) => [
      url.startsWith('/model/'),
      authorization,
    ]);
    expect(sent.filter(([elsewhere]) => elsewhere)).toEqual([[true, undefined]]);
    expect(new Set(sent.filter(([elsewhere]) => !elsewhere).map(([, token]) => token))).toEqual(
      new Set(['Bearer hf_secret']),
    );
  });

  test('an empty file needs no request', async () => {
    hub.add({ ...checkpoint, files: { ...checkpoint.files, 'tokenizer.json': new Uint8Array(0) } });
    const folder = await resolveCheckpoint('owner/model-1.0');
    expect((await stat(join(folder, 'tokenizer.json'))).size).toBe(0);
    expect(hub.takeContentRequests().join()).not.toContain('tokenizer.json');
  });
});

describe('an interrupted download', () => {
  test('a connection that breaks is taken up where it broke', async () => {
    hub.add(checkpoint);
    cutWeights(2, 100_000);
    const folder = await resolveCheckpoint('owner/model-1.0');
    expect(weightRanges()).toEqual([undefined, 'bytes=100000-', 'bytes=200000-']);
    await expectContent(folder, 'model.safetensors', weights);
  });

  test('one that breaks for good leaves its part, and the next call goes on from there', async () => {
    hub.add(checkpoint);
    let answers = 0;
    hub.misbehave = ({ url }) =>
      url.startsWith('/model/') ? cut(answers++ === 0 ? 120_000 : 0) : undefined;
    const failure = await failureOf(resolveCheckpoint('owner/model-1.0'));
    expect(failure.code).toBe('HUB_UNREACHABLE');
    expect(failure.message).toContain('model.safetensors of owner/model-1.0');
    expect(failure.message).toContain('120000 of 300000');
    expect((await stat(`${blob(sha256(weights))}.incomplete`)).size).toBe(120_000);
    // Nothing points to an incomplete checkpoint.
    expect((await files(storage())).filter((file) => !file.startsWith('blobs/'))).toEqual([]);

    hub.misbehave = () => undefined;
    hub.requests.length = 0;
    const folder = await resolveCheckpoint('owner/model-1.0');
    expect(weightRanges()).toEqual(['bytes=120000-']);
    await expectContent(folder, 'model.safetensors', weights);
    expect((await files(storage())).join()).not.toContain('incomplete');
  });

  test('a server without ranges sends it all once more', async () => {
    hub.add(checkpoint);
    let answers = 0;
    hub.misbehave = ({ url }) => {
      if (!url.startsWith('/model/')) return undefined;
      return answers++ === 0 ? cut(100_000) : { ignoreRange: true };
    };
    const folder = await resolveCheckpoint('owner/model-1.0');
    expect(weightRanges()).toEqual([undefined, 'bytes=100000-']);
    await expectContent(folder, 'model.safetensors', weights);
  });

  test('a server without ranges that breaks each time ends in an error', async () => {
    hub.add(checkpoint);
    hub.misbehave = ({ url }) =>
      url.startsWith('/model/') ? { ...cut(100_000), ignoreRange: true } : undefined;
    expect((await failureOf(resolveCheckpoint('owner/model-1.0'))).code).toBe('HUB_UNREACHABLE');
  });

  test('a server that sends another range than was asked for is an error', async () => {
    hub.add(checkpoint);
    hub.misbehave = ({ url, range }) => {
      if (!url.startsWith('/model/')) return undefined;
      if (range === undefined) return cut(100_000);
      return { headers: { 'content-range': 'bytes 5-299999/300000' } };
    };
    const failure = await failureOf(resolveCheckpoint('owner/model-1.0'));
    expect(failure.code).toBe('HUB_FAILED');
    expect(failure.message).toContain('the bytes from 100000 on');
  });

  test('the signal ends it with its reason, and the next call goes on', async () => {
    hub.add(checkpoint);
    const never = () => new Promise(() => {});
    hub.misbehave = ({ url }) =>
      url.startsWith('/model/') ? { cutAfter: 150_000, cutWhen: never } : undefined;
    const controller = new AbortController();
    const reason = new D2DMoEError('INTERRUPTED', 'stopped');
    const onProgress = ({ progress = 0 }: ProgressEvent) => {
      if (progress > 20) controller.abort(reason);
    };
    const { signal } = controller;
    await expect(resolveCheckpoint('owner/model-1.0', { onProgress, signal })).rejects.toBe(reason);
    const { size } = await stat(`${blob(sha256(weights))}.incomplete`);
    expect(size).toBeGreaterThan(50_000);
    hub.misbehave = () => undefined;
    hub.requests.length = 0;
    const folder = await resolveCheckpoint('owner/model-1.0');
    expect(weightRanges()).toEqual([`bytes=${size}-`]);
    await expectContent(folder, 'model.safetensors', weights);
  });

  test('what the cache had before stays usable', async () => {
    const repo = hub.add(checkpoint);
    await resolveCheckpoint('owner/model-1.0');
    repo.refs = { main: secondCommit };
    repo.files = { ...repo.files, 'model.safetensors': noise(400_000) };
    hub.misbehave = ({ url }) => (url.startsWith('/model/') ? { cutAfter: 0 } : undefined);
    expect((await failureOf(resolveCheckpoint('owner/model-1.0'))).code).toBe('HUB_UNREACHABLE');
    vi.stubEnv('HF_HUB_OFFLINE', '1');
    const folder = await resolveCheckpoint('owner/model-1.0');
    expect(folder).toBe(snapshotOf(firstCommit));
    await expectContent(folder, 'model.safetensors', weights);
  });

  test('two downloads at once do each other no harm', async () => {
    hub.add(checkpoint);
    cutWeights(2, 100_000);
    const folders = await Promise.all([1, 2].map(() => resolveCheckpoint('owner/model-1.0')));
    expect(folders).toEqual([snapshotOf(firstCommit), snapshotOf(firstCommit)]);
    await expectContent(snapshotOf(firstCommit), 'model.safetensors', weights);
  });
});

describe('a wrong hash', () => {
  const changed = (content: Uint8Array) => {
    const copy = content.slice();
    copy[7] = (copy[7] as number) ^ 1;
    return copy;
  };

  test.each([
    ['in LFS', '/model/', 'model.safetensors', weights],
    ['in git', '/resolve/', 'config.json', config],
  ])('%s: the file is thrown away and named', async (_where, route, file, content) => {
    hub.add(checkpoint);
    hub.misbehave = ({ url }) =>
      url.includes(route) && url.endsWith(file) ? { content: changed(content) } : undefined;
    const failure = await failureOf(resolveCheckpoint('owner/model-1.0'));
    expect(failure.code).toBe('HUB_FILE_CORRUPT');
    expect(failure.message).toContain(`${file} of owner/model-1.0`);
    const etag = file === 'config.json' ? gitSha1(content) : sha256(content);
    expect((await files(storage())).filter((path) => path.includes(etag))).toEqual([]);
    hub.misbehave = () => undefined;
    await expectContent(await resolveCheckpoint('owner/model-1.0'), file, content);
  });

  test('a part of another file is found out after it was continued', async () => {
    hub.add(checkpoint);
    await mkdir(join(storage(), 'blobs'), { recursive: true });
    await writeFile(`${blob(sha256(weights))}.incomplete`, noise(1000));
    expect((await failureOf(resolveCheckpoint('owner/model-1.0'))).code).toBe('HUB_FILE_CORRUPT');
    expect(weightRanges()).toEqual(['bytes=1000-']);
    await resolveCheckpoint('owner/model-1.0');
    expect(weightRanges()).toEqual([undefined]);
  });

  test('more bytes than the file has', async () => {
    hub.add(checkpoint);
    hub.misbehave = ({ url }) =>
      url.startsWith('/model/') ? { content: noise(300_001) } : undefined;
    const failure = await failureOf(resolveCheckpoint('owner/model-1.0'));
    expect(failure.code).toBe('HUB_FILE_CORRUPT');
    expect(failure.message).toContain('more than its 300000 bytes');
    hub.misbehave = () => undefined;
    const folder = await resolveCheckpoint('owner/model-1.0');
    await expectContent(folder, 'model.safetensors', weights);
  });

  test('a blob that lost its end is downloaded anew', async () => {
    hub.add(checkpoint);
    const folder = await resolveCheckpoint('owner/model-1.0');
    await writeFile(blob(sha256(weights)), weights.subarray(0, 10));
    await resolveCheckpoint('owner/model-1.0');
    await expectContent(folder, 'model.safetensors', weights);
    expect((await lstat(join(folder, 'model.safetensors'))).isSymbolicLink()).toBe(true);
  });
});

describe('refusals', () => {
  const refuse = (status: number, route = '/api/') => {
    hub.misbehave = ({ url }) => (url.includes(route) ? { status } : undefined);
  };

  test.each([401, 403])('%i without a token asks for HF_TOKEN', async (status) => {
    refuse(status);
    const failure = await failureOf(resolveCheckpoint('owner/private'));
    expect(failure.code).toBe('HUB_ACCESS_DENIED');
    expect(failure.message).toContain('set HF_TOKEN');
    expect(failure.message).toContain('There is no folder owner/private');
  });

  test('403 for a file with a token says that the token does not do', async () => {
    hub.add(checkpoint);
    refuse(403, '/resolve/');
    vi.stubEnv('HF_TOKEN', 'hf_x');
    const failure = await failureOf(resolveCheckpoint('owner/model-1.0'));
    expect(failure.code).toBe('HUB_ACCESS_DENIED');
    expect(failure.message).toMatch(/tokenizer.json of the model .* owner of HF_TOKEN/);
    expect(failure.message).not.toContain('hf_x');
  });

  test('404 names folder, repository and revision', async () => {
    hub.add(checkpoint);
    for (const [id, type] of [
      ['owner/none@v1', 'model'],
      ['owner/model-1.0@v1', 'model'],
      ['owner/model-1.0@v1', 'data set'],
    ] as const) {
      const resolve = type === 'model' ? resolveCheckpoint : resolveDataset;
      const failure = await failureOf(resolve(id));
      const name = id.slice(0, -3);
      expect(failure.code).toBe('HUB_NOT_FOUND');
      expect(failure.message).toContain(`There is no folder ${name} here`);
      expect(failure.message).toContain(`the ${type} ${name} at revision v1`);
    }
  });

  test('429 waits as long as it is told and goes on', async () => {
    hub.add(checkpoint);
    const after = ['1', '0', new Date(Date.now() - 1000).toUTCString()];
    hub.misbehave = () => {
      const wait = after.shift();
      return wait === undefined ? undefined : { status: 429, headers: { 'retry-after': wait } };
    };
    const events: ProgressEvent[] = [];
    const started = performance.now();
    await resolveCheckpoint('owner/model-1.0', { onProgress: (event) => events.push(event) });
    expect(performance.now() - started).toBeGreaterThan(990);
    const waits = events.filter(({ name }) => name.startsWith('waiting'));
    expect(waits.map(({ status }) => status)).toEqual([
      'initiate',
      'done',
      'initiate',
      'done',
      'initiate',
      'done',
    ]);
    expect(waits[0]?.name).toContain('waiting 1 s');
  });

  test('429 again and again, or for long, is an error', async () => {
    hub.add(checkpoint);
    hub.misbehave = () => ({ status: 429, headers: { 'retry-after': '0' } });
    expect((await failureOf(resolveCheckpoint('owner/model-1.0'))).code).toBe('HUB_RATE_LIMITED');
    expect(hub.requests.splice(0)).toHaveLength(5);
    hub.misbehave = () => ({ status: 429, headers: { 'retry-after': '7200' } });
    const failure = await failureOf(resolveCheckpoint('owner/model-1.0'));
    expect(failure.code).toBe('HUB_RATE_LIMITED');
    expect(failure.message).toContain('120 min');
    expect(hub.requests).toHaveLength(1);
  });

  test('a wait ends with the signal', async () => {
    hub.add(checkpoint);
    hub.misbehave = () => ({ status: 429, headers: { 'retry-after': '200' } });
    const controller = new AbortController();
    const { signal } = controller;
    const reason = new D2DMoEError('INTERRUPTED', 'stopped');
    const onProgress = () => void setTimeout(() => controller.abort(reason), 10);
    await expect(resolveCheckpoint('owner/model-1.0', { signal, onProgress })).rejects.toBe(reason);
  });

  test('any other status, and an answer that is not the hub’s', async () => {
    hub.add(checkpoint);
    refuse(500);
    const failure = await failureOf(resolveCheckpoint('owner/model-1.0'));
    expect(failure.code).toBe('HUB_FAILED');
    expect(failure.message).toContain('500');
    refuse(200);
    expect((await failureOf(resolveCheckpoint('owner/model-1.0'))).code).toBe('HUB_FAILED');
  });

  test('a path that leads out of the cache', async () => {
    const path = '../../../../../out.safetensors';
    hub.add({
      name: 'a/b',
      files: {
        'config.json': config,
        'model.safetensors.index.json': utf8(`{"weight_map": {"x": "${path}"}}`),
        [path]: weights,
      },
    });
    expect((await failureOf(resolveCheckpoint('a/b'))).code).toBe('HUB_FAILED');
    expect((await files(home)).join()).not.toContain('out.safetensors');
    expect(hub.takeContentRequests()).toEqual(['model.safetensors.index.json whole']);
  });

  test.each([
    ['HF_TOKEN', 'my token'],
    ['HF_TOKEN', 'secret'],
    ['HF_ENDPOINT', 'huggingface.co'],
  ])('%s="%s" is refused by name', async (name, value) => {
    vi.stubEnv(name, value);
    const failure = await failureOf(resolveCheckpoint('owner/model-1.0'));
    expect(failure.code).toBe('HUB_SETTING_INVALID');
    expect(failure.message).toContain(name);
    // The token is a secret.
    expect(failure.message.includes(value)).toBe(name !== 'HF_TOKEN');
  });

  test('a cache that cannot be written', async () => {
    hub.add(checkpoint);
    await writeFile(join(home, 'file'), '');
    vi.stubEnv('HF_HUB_CACHE', join(home, 'file'));
    const failure = await failureOf(resolveCheckpoint('owner/model-1.0'));
    expect(failure.code).toBe('WRITE_FAILED');
  });
});

describe('without network', () => {
  const down = async () => {
    await hub.close();
    hub.requests.length = 0;
  };

  test('a snapshot in the cache is enough, and that is said', async () => {
    hub.add({ ...checkpoint, refs: { main: firstCommit, v1: firstCommit } });
    const folder = await resolveCheckpoint('owner/model-1.0');
    await down();
    const events: ProgressEvent[] = [];
    const onProgress = (event: ProgressEvent) => events.push(event);
    expect(await resolveCheckpoint('owner/model-1.0', { onProgress })).toBe(folder);
    expect(events).toMatchObject([{ status: 'skip' }]);
    expect(events[0]?.name).toContain('from the cache');
    expect(await resolveCheckpoint(`owner/model-1.0@${firstCommit}`)).toBe(folder);
    expect((await failureOf(resolveCheckpoint('owner/model-1.0@v1'))).code).toBe('HUB_UNREACHABLE');
  });

  test('nothing in the cache: folder, model and address are named', async () => {
    await down();
    const failure = await failureOf(resolveCheckpoint('owner/model-1.0'));
    expect(failure.code).toBe('HUB_UNREACHABLE');
    expect(failure.message).toContain('There is no folder owner/model-1.0');
    expect(failure.message).toContain(`${new URL(hub.endpoint).host} cannot be reached`);
    expect(failure.message).toContain('ECONNREFUSED');
  });

  test('HF_HUB_OFFLINE asks nobody', async () => {
    hub.add(checkpoint);
    vi.stubEnv('HF_HUB_OFFLINE', 'yes');
    expect((await failureOf(resolveCheckpoint('owner/model-1.0'))).code).toBe('HUB_OFFLINE');
    vi.stubEnv('HF_HUB_OFFLINE', '0');
    const folder = await resolveCheckpoint('owner/model-1.0');
    hub.requests.length = 0;
    vi.stubEnv('HF_HUB_OFFLINE', 'TRUE');
    expect(await resolveCheckpoint('owner/model-1.0')).toBe(folder);
    expect(hub.requests).toEqual([]);
  });

  test('a snapshot without its weights is not taken', async () => {
    hub.add(checkpoint);
    await resolveCheckpoint('owner/model-1.0');
    await rm(blob(sha256(weights)));
    vi.stubEnv('HF_HUB_OFFLINE', '1');
    expect((await failureOf(resolveCheckpoint('owner/model-1.0'))).code).toBe('HUB_OFFLINE');
  });
});

describe('a data set', () => {
  const rows = (split: string) =>
    utf8(
      Array.from({ length: 20 }, (_, i) => `{"text": "${split} ${i}", "label": ${i % 2}}\n`).join(
        '',
      ),
    );

  test('arrives and is read: the default configuration of its card', async () => {
    const card = `---
license: other
configs:
- config_name: raw
  data_files:
  - split: train
    path: raw/train-*
- config_name: split
  data_files:
  - split: train
    path: split/train-*
  - split: test
    path:
    - split/test-*
  default: true
---
# Data`;
    hub.add({
      type: 'dataset',
      name: 'owner/emotion',
      files: {
        'README.md': utf8(card),
        'raw/train-0.jsonl': rows('raw'),
        'split/train-0.jsonl': rows('train'),
        'split/test-0 of 1#.jsonl': rows('test'),
        'split/notes.pdf': noise(10),
      },
      lfs: ['split/train-0.jsonl'],
    });
    const folder = await resolveDataset('owner/emotion');
    expect(folder).toBe(join(cache, 'datasets--owner--emotion', 'snapshots', firstCommit, 'split'));
    expect(await files(folder)).toEqual(['test-0 of 1#.jsonl', 'train-0.jsonl']);
    const dataset = await loadDataset(folder, 'text-classification', { random: new Random(0) });
    expect(dataset.test[3]).toEqual({ text: 'test 3', label: 1 });
    expect(dataset.train[0]?.text).toMatch(/^train/);

    vi.stubEnv('HF_HUB_OFFLINE', '1');
    expect(await resolveDataset('owner/emotion')).toBe(folder);
  });

  test('that is also a model’s name is another repository', async () => {
    hub.add(checkpoint);
    hub.add({ ...checkpoint, type: 'dataset', files: { 'train.jsonl': rows('train') }, lfs: [] });
    expect(await files(await resolveDataset('owner/model-1.0'))).toEqual(['train.jsonl']);
    await expectContent(await resolveCheckpoint('owner/model-1.0'), 'config.json', config);
  });
});
