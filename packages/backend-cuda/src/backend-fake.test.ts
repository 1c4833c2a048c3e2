import * as tf from '@tensorflow/tfjs-core';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { fakeDriver } from '../testing/fake-driver.js';
import { CudaBackend } from './backend.js';
import { kernel } from './launch.js';

let folder = '';
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'd2dmoe-ptx-'));
  writeFileSync(join(folder, 'toy.ptx'), '//\n.version 9.0\n');
  process.env['D2DMOE_CUDA_MODULES'] = folder;
});
afterAll(() => {
  delete process.env['D2DMOE_CUDA_MODULES'];
  rmSync(folder, { recursive: true });
});

const toy = () => kernel('toy', 'toy_scale', 'p i f l');

test('a launch hands the driver packed arguments, grid, block and the stream', () => {
  const driver = fakeDriver();
  const backend = new CudaBackend(driver);
  const out = backend.output([3], 'float32');
  backend.launch(toy(), [4, 5, 6], 128, [out.pointer, 7, 0.5, -1], 1024);
  const [launch] = driver.launches;
  expect(launch).toMatchObject({ grid: [4, 5, 6], block: [128, 1, 1], sharedBytes: 1024 });
  expect(launch?.stream).toBe(backend.stream);
  expect(launch?.offsets).toEqual([0, 8, 12, 16]);
  expect(launch?.arguments.getBigUint64(0, true)).toBe(BigInt(out.pointer));
  expect(launch?.arguments.getInt32(8, true)).toBe(7);
  expect(launch?.arguments.getFloat32(12, true)).toBe(0.5);
  expect(launch?.arguments.getBigInt64(16, true)).toBe(-1n);
});

test('a grid of nothing is not launched', () => {
  const driver = fakeDriver();
  const backend = new CudaBackend(driver);
  backend.launch(toy(), 0, 128, [0, 0, 0, 0]);
  backend.launch(toy(), [1, 0, 1], 128, [0, 0, 0, 0]);
  expect(driver.launches).toHaveLength(0);
});

test('a kernel is loaded and looked up once, without those of its module, and each backend has its own', () => {
  const driver = fakeDriver();
  const count = (name: string) => driver.calls.filter((call) => call === name).length;
  const k = toy();
  const first = new CudaBackend(driver);
  for (let i = 0; i < 3; i++) first.launch(k, 1, 32, [0, 0, 0, 0]);
  expect([count('cuModuleLoadDataEx'), count('cuModuleGetFunction')]).toEqual([1, 1]);
  const second = new CudaBackend(driver);
  second.launch(k, 1, 32, [0, 0, 0, 0]);
  expect([count('cuModuleLoadDataEx'), count('cuModuleGetFunction')]).toEqual([2, 2]);
});

test('more shared memory than 48 KiB is asked for, once', () => {
  const asked: number[] = [];
  const driver = fakeDriver({
    cuFuncSetAttribute: (_func, attribute, value) => {
      asked.push(attribute, value);
      return 0;
    },
  });
  const backend = new CudaBackend(driver);
  const k = toy();
  for (const bytes of [48 * 1024, 100_000, 100_000, 60_000]) {
    backend.launch(k, 1, 32, [0, 0, 0, 0], bytes);
  }
  expect(asked).toEqual([8, 100_000]);
});

test('a failed call is named with the driver’s own name for the error', () => {
  const backend = new CudaBackend(fakeDriver({ cuLaunchKernel: () => 1 }));
  expect(() => backend.launch(toy(), 2, 2048, [0, 0, 0, 0])).toThrow(
    expect.objectContaining({
      code: 'CUDA_FAILED',
      message: expect.stringMatching(
        /cuLaunchKernel of toy_scale \(grid \[2,1,1\], block \[2048,1,1\].*CUDA_ERROR_1 \(description of 1\)/,
      ),
    }),
  );
});

test('errors that a context does not survive say so', () => {
  const backend = new CudaBackend(fakeDriver({ cuMemsetD32Async: () => 700 }));
  expect(() => backend.memset(4096, 4)).toThrow(
    expect.objectContaining({
      code: 'CUDA_DEVICE_LOST',
      message: expect.stringMatching(/CUDA_ERROR_700.*start the process anew/),
    }),
  );
});

test('freed memory is given out again without a call of the driver', () => {
  const driver = fakeDriver();
  const backend = new CudaBackend(driver);
  const first = backend.output([1000], 'float32');
  backend.disposeData(first.dataId);
  const calls = driver.calls.length;
  const second = backend.output([990], 'float32');
  expect(second.pointer).toBe(first.pointer);
  expect(driver.calls).toHaveLength(calls);
});

test('out of memory: the cache is released and the request repeated; then the error says what is held', () => {
  let room = 3;
  const freed: number[] = [];
  const driver = fakeDriver({
    cuMemAllocAsync: (out) => {
      if (room === 0) return 2;
      room--;
      out[0] = BigInt(4096 * (room + 1));
      return 0;
    },
    cuMemFreeAsync: (pointer) => {
      freed.push(pointer);
      room++;
      return 0;
    },
    cuMemGetInfo_v2: (free, total) => {
      free[0] = 1n << 20n;
      total[0] = 1n << 30n;
      return 0;
    },
  });
  const backend = new CudaBackend(driver);
  const tensors = [256, 512, 768].map((n) => backend.output([n], 'float32'));
  backend.disposeData(tensors[1]?.dataId ?? {});
  const fourth = backend.output([1024], 'float32');
  expect(freed).toHaveLength(1);
  expect(() => backend.output([1 << 20], 'float32')).toThrow(
    expect.objectContaining({
      code: 'CUDA_OUT_OF_MEMORY',
      message: expect.stringMatching(
        /4\.00 MiB were asked for.*hold 8\.00 KiB.*1\.00 MiB of 1\.00 GiB are free/,
      ),
    }),
  );
  backend.disposeData(fourth.dataId);
  expect(backend.output([1024], 'float32').pointer).toBe(fourth.pointer);
});

test('a kernel module that is not there is named, and one that is too new for the driver', () => {
  const backend = new CudaBackend(fakeDriver());
  expect(() => backend.launch(kernel('absent', 'x', ''), 1, 1, [])).toThrow(
    expect.objectContaining({
      code: 'CUDA_KERNEL_MISSING',
      message: expect.stringMatching(/absent\.ptx/),
    }),
  );
  const old = fakeDriver({
    cuModuleLoadDataEx: () => 222,
    cuDriverGetVersion: (version) => {
      version[0] = 12_020;
      return 0;
    },
  });
  expect(() => new CudaBackend(old).launch(toy(), 1, 1, [0, 0, 0, 0])).toThrow(
    expect.objectContaining({
      code: 'CUDA_DRIVER_TOO_OLD',
      message: expect.stringMatching(/of CUDA 12\.2 .* is PTX 9\.0 and needs CUDA 13\.0/),
    }),
  );
});

test('a toolkit stub in place of the driver is named', () => {
  expect(() => new CudaBackend(fakeDriver({ cuInit: () => 34 }))).toThrow(
    expect.objectContaining({ code: 'CUDA_NO_DRIVER', message: expect.stringMatching(/stub/) }),
  );
});

test('memory of a graph is not given to others before the graph is disposed', () => {
  const driver = fakeDriver();
  const backend = new CudaBackend(driver);
  const input = backend.output([64], 'float32');
  let inside = 0;
  let kept = { dataId: {}, pointer: 0 };
  const graph = backend.capture(() => {
    const between = backend.output([64], 'float32');
    inside = between.pointer;
    backend.disposeData(between.dataId);
    const again = backend.output([64], 'float32');
    expect(again.pointer).toBe(inside); // within the graph it is reused
    kept = again;
    backend.disposeData(input.dataId);
  });
  const others = [0, 1].map(() => backend.output([64], 'float32'));
  for (const other of others) expect([inside, input.pointer]).not.toContain(other.pointer);
  graph.launch();
  graph.dispose();
  expect(backend.output([64], 'float32').pointer).toBe(input.pointer);
  backend.disposeData(kept.dataId);
  expect(backend.output([64], 'float32').pointer).toBe(inside);
});

test('uploads while a graph is recorded go over the other stream, and are not part of the graph', () => {
  const streams: number[] = [];
  const driver = fakeDriver({
    cuMemcpyHtoDAsync_v2: (_to, _from, _bytes, stream) => {
      streams.push(stream);
      return 0;
    },
  });
  const backend = new CudaBackend(driver);
  const upload = (size: number) => {
    const t = backend.makeTensorInfo([size], 'float32', new Float32Array(size));
    return { pointer: backend.pointer(t), dispose: () => backend.disposeData(t.dataId) };
  };
  upload(100);
  const other = backend.capture(() => {
    const first = upload(3 << 20); // three parts of the ring
    const { pointer } = first;
    first.dispose();
    // The graph reads it at every launch: nothing that the graph makes may take its place.
    expect(backend.output([3 << 20], 'float32').pointer).not.toBe(pointer);
  });
  upload(100);
  expect(streams.map((stream) => stream === backend.stream)).toEqual([
    true,
    false,
    false,
    false,
    true,
  ]);
  const from = driver.calls.indexOf('cuStreamBeginCapture_v2');
  const captured = driver.calls.slice(from, driver.calls.indexOf('cuStreamEndCapture'));
  expect(captured).not.toContain('cuEventRecord');
  other.dispose();
});

test('dispose() gives all memory back, that of live tensors too', () => {
  const driver = fakeDriver();
  const backend = new CudaBackend(driver);
  const tensors = [10, 2000, 2000].map((n) => backend.output([n], 'float32'));
  backend.disposeData(tensors[1]?.dataId ?? {});
  backend.dispose();
  const count = (name: string) => driver.calls.filter((call) => call === name).length;
  expect([count('cuMemAllocAsync'), count('cuMemFreeAsync')]).toEqual([3, 3]);
  expect(driver.calls.at(-1)).toBe('cuDevicePrimaryCtxRelease_v2');
});

test('dispose() ends the reads that are under way, and nothing asks the driver afterwards', async () => {
  const notReady = 600;
  const driver = fakeDriver({ cuEventQuery: () => notReady });
  const backend = new CudaBackend(driver);
  const [small, large] = [100, 3_000_000].map((n) => backend.output([n], 'float32'));
  const reads = [small, large].map((t) => backend.read(t?.dataId ?? {}));
  const time = backend.time(() => {});
  await new Promise((resolve) => setTimeout(resolve, 1));
  backend.dispose();
  const [first, second] = await Promise.all(reads);
  expect([first?.length, second?.length]).toEqual([100, 3_000_000]);
  // As tfjs says that there is no time; nobody could catch a rejection where its profiler waits.
  expect(await time).toMatchObject({ kernelMs: { error: expect.stringContaining('disposed') } });
  expect(driver.calls.filter((name) => name === 'cuMemcpyDtoHAsync_v2')).toHaveLength(1 + 3);
  expect(driver.calls.at(-1)).toBe('cuDevicePrimaryCtxRelease_v2');
});

test('a capture that throws is ended, and the next one works', () => {
  const driver = fakeDriver();
  const backend = new CudaBackend(driver);
  const failing = () => {
    throw new Error('mistake');
  };
  expect(() => backend.capture(failing)).toThrow('mistake');
  expect(driver.calls.filter((name) => name === 'cuStreamEndCapture')).toHaveLength(1);
  expect(driver.calls).not.toContain('cuGraphInstantiateWithFlags');
  const t = backend.output([4], 'float32');
  expect(() => backend.capture(() => void backend.readSync(t.dataId))).toThrow(/graph is recorded/);
  backend.capture(() => backend.memset(t.pointer, 16)).launch();
  expect(driver.calls.at(-1)).toBe('cuGraphLaunch');
});

test('the backend is a tfjs backend', () => {
  const backend = new CudaBackend(fakeDriver());
  expect(backend).toBeInstanceOf(tf.KernelBackend);
  expect([backend.floatPrecision(), backend.epsilon()]).toEqual([32, 1e-7]);
});
