import { execFile } from 'node:child_process';
import { readFile } from 'node:fs/promises';
import { promisify } from 'node:util';
import type { BackendWasm } from '@tensorflow/tfjs-backend-wasm';
import * as tf from '@tensorflow/tfjs-core';
import { D2DMoEError, Random } from '@d2dmoe/core';
import fc from 'fast-check';
import { afterEach, beforeAll, expect, test } from 'vitest';
import { useWasm } from '../node.js';
import { instantiate, type WasmContext } from './module.js';
import { nodeThreads } from './thread-node.js';
import type { Thread, ThreadSource } from './thread-pool.js';

const dist = new URL('../../dist/', import.meta.url);
let bytes: Buffer<ArrayBuffer>;
let open: WasmContext[] = [];

beforeAll(async () => {
  const { relaxedSimd } = await useWasm({ threads: 1 });
  bytes = await readFile(new URL(`wasm/kernels${relaxedSimd ? '-relaxed' : ''}.wasm`, dist));
});

afterEach(async () => {
  for (const context of open) await context.dispose();
  open = [];
});

async function context(threads: number, source: ThreadSource = nodeThreads): Promise<WasmContext> {
  const made = await instantiate(bytes, { threads }, source);
  open.push(made);
  return made;
}

/** Where threads come from, and those that came. */
function watched(): ThreadSource & { started: Thread[] } {
  const started: Thread[] = [];
  const start: ThreadSource['start'] = (task) => {
    const thread = nodeThreads.start(task);
    started.push(thread);
    return thread;
  };
  return { cores: () => 2, start, started };
}

function normals(shape: number[], seed: number): tf.Tensor {
  const random = new Random(seed);
  const size = tf.util.sizeFromShape(shape);
  return tf.tensor(
    Float32Array.from({ length: size }, () => random.normal()),
    shape,
  );
}

function bits(tensor: tf.Tensor): Uint32Array {
  return new Uint32Array(tensor.dataSync().buffer);
}

async function codeOf(promise: Promise<unknown>): Promise<string> {
  const error = await promise.then(
    () => undefined,
    (reason: unknown) => reason,
  );
  return error instanceof D2DMoEError ? error.code : `not refused: ${String(error)}`;
}

/** The arguments of one product of a's shape [m, k] and b's [k, n] into c. */
function productArguments({ pointer, scratch }: WasmContext, ...tensors: tf.Tensor[]): number[] {
  const [a, b, c] = tensors as [tf.Tensor, tf.Tensor, tf.Tensor];
  const [m, k] = a.shape as [number, number];
  const n = b.shape.at(-1) as number;
  return [pointer(a), pointer(b), pointer(c), 0, 1, 0, 0, m, n, k, 0, 0, 0, scratch];
}

test('a product has the same bits for any number of threads and parts', async () => {
  const { pool, pointer, scratch } = await context(3);
  const size = fc.oneof(fc.constant(1), fc.integer({ min: 1, max: 130 }));
  const depth = fc.integer({ min: 0, max: 300 });
  const flag = fc.integer({ min: 0, max: 1 });
  const shape = fc.record({ products: fc.integer({ min: 1, max: 4 }), m: size, n: size, k: depth });
  const options = fc.record({ tA: flag, tB: flag, relu: flag, withBias: flag });
  fc.assert(
    fc.property(
      shape,
      options,
      fc.integer({ min: 2, max: 12 }),
      fc.nat(),
      ({ products, m, n, k }, { tA, tB, relu, withBias }, parts, seed) => {
        const a = normals([products, m, k], seed);
        const b = normals([products, k, n], seed + 1);
        const bias = normals([n], seed + 2);
        const results = [1, parts].map((count) => {
          const c = normals([products, m, n], seed + 3);
          const shared = [products, m * k, k * n, m, n, k, tA, tB, relu, scratch];
          const biasPointer = withBias ? pointer(bias) : 0;
          pool.run('matMul', [pointer(a), pointer(b), pointer(c), biasPointer, ...shared], count);
          return c;
        }) as [tf.Tensor, tf.Tensor];
        expect(bits(results[1])).toEqual(bits(results[0]));
        tf.dispose([a, b, bias, results]);
      },
    ),
    { numRuns: 200 },
  );
});

test('useWasm takes a number of threads, and matMul gives the same bits with each', async () => {
  const a = normals([5, 197, 130], 1);
  const b = normals([5, 130, 301], 2);
  const row = normals([1, 700], 3) as tf.Tensor2D;
  const wide = normals([700, 5001], 4) as tf.Tensor2D;
  const results: Uint32Array[][] = [];
  for (const threads of [1, 2, 4]) {
    expect((await useWasm({ threads })).threads).toBe(threads);
    results.push([bits(tf.matMul(a, b)), bits(tf.matMul(row, wide))]);
  }
  expect(results[1]).toEqual(results[0]);
  expect(results[2]).toEqual(results[0]);
  expect((await useWasm({ threads: 1 })).threads).toBe(1);
});

test('one thread starts none', async () => {
  const source = watched();
  const one = await context(1, source);
  const [a, b, c] = [normals([9, 9], 1), normals([9, 9], 2), tf.zeros([9, 9])];
  one.pool.run('matMul', productArguments(one, a, b, c), 4);
  expect(source.started).toEqual([]);
  expect(bits(c)).toEqual(bits(tf.matMul(a, b)));
});

test('threads follow tfjs’s memory as it grows', async () => {
  const two = await context(2);
  const { wasm } = tf.backend() as unknown as { wasm: { HEAPU8: Uint8Array } };
  const memory = () => wasm.HEAPU8.byteLength;
  const before = memory();
  const filler: tf.Tensor[] = [];
  while (memory() === before) filler.push(tf.zeros([1024, 1024]));
  const [a, b, c] = [normals([64, 64], 1), normals([64, 640], 2), tf.zeros([64, 640])];
  for (let repeat = 0; repeat < 50; repeat++) {
    two.pool.run('matMul', productArguments(two, a, b, c), 8);
  }
  expect(bits(c)).toEqual(bits(tf.matMul(a, b)));
  tf.dispose(filler);
});

test('a kernel that stops in a thread is one clear error, and the next job runs', async () => {
  const two = await context(2);
  const [a, b, c] = [normals([64, 64], 1), normals([64, 64], 2), tf.zeros([64, 64])];
  const good = productArguments(two, a, b, c);
  const outside = [...good];
  outside[1] = 2 ** 32 - 65_536;
  for (let repeat = 0; repeat < 10; repeat++) {
    expect(() => two.pool.run('matMul', outside, 4)).toThrow(
      /^The wasm kernel matMul was not finished by its threads: .*out of bounds/,
    );
    two.pool.run('matMul', good, 4);
    expect(bits(c)).toEqual(bits(tf.matMul(a, b)));
  }
});

test('a thread that has ended is one clear error', async () => {
  const source = watched();
  const three = await context(3, source);
  await source.started[1]?.terminate();
  const tensors = [normals([64, 64], 1), normals([64, 64], 2), tf.zeros([64, 64])];
  expect(() => three.pool.run('matMul', productArguments(three, ...tensors), 4)).toThrow(
    /its threads: thread 2 ended with exit code 1\.$/,
  );
});

test('a thread that does not start is refused, and those that did are ended', async () => {
  const source = watched();
  const start: ThreadSource['start'] = (task) => ({
    ...source.start(task),
    ...(task.thread === 2 ? { ready: Promise.reject(new Error('no more threads')) } : {}),
  });
  expect(await codeOf(instantiate(bytes, { threads: 3 }, { cores: () => 3, start }))).toBe(
    'THREADS_UNAVAILABLE',
  );
  expect(source.started.map((thread) => thread.ended())).toEqual([
    expect.stringMatching(/^thread 1 ended/),
    expect.stringMatching(/^thread 2 ended/),
  ]);
});

test('a number of threads that is none is refused', async () => {
  for (const threads of [0, -1, 1.5, Number.NaN, 65]) {
    expect(await codeOf(useWasm({ threads }))).toBe('THREADS_INVALID');
  }
});

test('pools come and go without leaving threads or memory behind', async () => {
  const backend = tf.backend() as BackendWasm;
  const source = watched();
  const tensors = [normals([32, 32], 1), normals([32, 64], 2), tf.zeros([32, 64])];
  const before = backend.numDataIds();
  for (let cycle = 0; cycle < 25; cycle++) {
    const made = await instantiate(bytes, { threads: 3 }, source);
    made.pool.run('matMul', productArguments(made, ...tensors), 6);
    await made.dispose();
    expect(backend.numDataIds()).toBe(before);
  }
  expect(source.started.filter((thread) => thread.ended() === undefined)).toEqual([]);
});

test('a process with sleeping threads ends by itself', async () => {
  const script = `
    const { useWasm } = await import(${JSON.stringify(new URL('node.js', dist).href)});
    const tf = await import('@tensorflow/tfjs-core');
    const { threads } = await useWasm({ threads: 3 });
    tf.matMul(tf.ones([256, 256]), tf.ones([256, 256])).dataSync();
    console.log(threads);`;
  const { stdout } = await promisify(execFile)(
    process.execPath,
    ['--input-type=module', '--eval', script],
    { cwd: new URL('..', dist), timeout: 30_000 },
  );
  expect(stdout).toContain('3');
});
