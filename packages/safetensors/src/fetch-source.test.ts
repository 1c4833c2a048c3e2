import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { afterEach, expect, test } from 'vitest';
import { encodeSafetensors, fetchSource, openSafetensors } from './index.js';

const big = Float32Array.from({ length: 50_000 }, (_, i) => i);
const bytes = encodeSafetensors([
  { name: 'big', dtype: 'F32', shape: [50_000], data: big },
  { name: 'empty', dtype: 'F32', shape: [0], data: new Float32Array(0) },
  { name: 'small', dtype: 'I16', shape: [2], data: Int16Array.of(-1, 7) },
]);

type Handler = (request: IncomingMessage, response: ServerResponse) => void;
let stop: (() => void) | undefined;

/** Serves one file on this machine; answers the URL. */
async function serve(handler: Handler): Promise<string> {
  const server = createServer(handler);
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  stop = () => {
    server.closeAllConnections();
    server.close();
  };
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}/model.safetensors`;
}

afterEach(() => {
  stop?.();
  stop = undefined;
});

function rangeOf(request: IncomingMessage): [begin: number, end: number] {
  const match = /^bytes=(\d+)-(\d+)$/.exec(request.headers.range ?? '');
  return [Number(match?.[1]), Number(match?.[2]) + 1];
}

const answerRanges =
  (file: Uint8Array): Handler =>
  (request, response) => {
    const [begin, end] = rangeOf(request);
    const part = file.subarray(begin, end);
    if (part.length === 0) {
      response.writeHead(416, { 'Content-Range': `bytes */${file.length}` }).end();
      return;
    }
    const range = `bytes ${begin}-${begin + part.length - 1}/${file.length}`;
    response.writeHead(206, { 'Content-Range': range }).end(part);
  };

test('a file is opened with one request, each tensor read with another', async () => {
  const requested: [number, number][] = [];
  const url = await serve((request, response) => {
    requested.push(rangeOf(request));
    answerRanges(bytes)(request, response);
  });
  const file = await openSafetensors(await fetchSource(url));
  expect(requested).toEqual([[0, 65_536]]);
  expect(await file.readFloat32('big')).toEqual(big);
  expect(await file.readInt32('small')).toEqual(Int32Array.of(-1, 7));
  expect(await file.readFloat32('empty')).toEqual(new Float32Array(0));
  const { begin, end } = file.tensors.get('big') ?? { begin: 0, end: 0 };
  expect(requested).toEqual([
    [0, 65_536],
    [begin, end],
    [end, end + 4],
  ]);
  await file.close();
});

test('a header longer than the first request is fetched whole', async () => {
  const many = Array.from({ length: 2000 }, (_, i) => ({
    name: `tensor.${i}`,
    dtype: 'I8' as const,
    shape: [1],
    data: Int8Array.of(i % 100),
  }));
  const url = await serve(answerRanges(encodeSafetensors(many)));
  const file = await openSafetensors(await fetchSource(new URL(url)));
  expect(file.tensors.size).toBe(2000);
  expect(await file.readInt32('tensor.1999')).toEqual(Int32Array.of(99));
});

test('requests go through the fetch that was passed in', async () => {
  const url = await serve(answerRanges(bytes));
  let calls = 0;
  const source = await fetchSource(url, {
    fetch: (input, init) => {
      calls++;
      return fetch(input, init);
    },
  });
  await source.read(70_000, 70_004);
  expect(calls).toBe(2);
});

test('an empty file is truncated', async () => {
  const url = await serve(answerRanges(new Uint8Array(0)));
  const source = await fetchSource(url);
  await expect(openSafetensors(source)).rejects.toMatchObject({ code: 'SAFETENSORS_TRUNCATED' });
});

const failures: [what: string, code: string, handler: Handler][] = [
  [
    'a server that ignores ranges',
    'SAFETENSORS_RANGE_UNSUPPORTED',
    (_, response) => response.writeHead(200).end(bytes),
  ],
  [
    'a server that hides the size',
    'SAFETENSORS_RANGE_UNSUPPORTED',
    (_, response) => response.writeHead(206).end(bytes),
  ],
  ['a missing file', 'SAFETENSORS_FILE_MISSING', (_, response) => response.writeHead(404).end()],
  ['a refusal', 'SAFETENSORS_READ_FAILED', (_, response) => response.writeHead(403).end()],
  [
    'the wrong range',
    'SAFETENSORS_READ_FAILED',
    (_, response) =>
      response.writeHead(206, { 'Content-Range': 'bytes 5-8/9' }).end(bytes.subarray(5, 9)),
  ],
  [
    'fewer bytes than announced by the range',
    'SAFETENSORS_READ_FAILED',
    (_, response) => response.writeHead(206, { 'Content-Range': 'bytes 0-8/9' }).end('abc'),
  ],
  ['a broken connection', 'SAFETENSORS_READ_FAILED', (request) => request.socket.destroy()],
];

test.each(failures)('%s: %s, naming the URL', async (_what, code, handler) => {
  const url = await serve(handler);
  await expect(fetchSource(url)).rejects.toMatchObject({
    code,
    message: expect.stringContaining(url),
  });
});

test('a file that changes its size under the reader is noticed', async () => {
  let file = bytes;
  const url = await serve((request, response) => answerRanges(file)(request, response));
  const opened = await openSafetensors(await fetchSource(url));
  file = bytes.slice(0, -2);
  await expect(opened.read('big')).rejects.toMatchObject({ code: 'SAFETENSORS_READ_FAILED' });
});
