import { Worker } from 'node:worker_threads';
import { afterEach, beforeAll, describe, expect, test } from 'vitest';
import { emulatorEnvironment, hasCompiler } from '../testing/emulated.js';
import { CudaBackend, cudaInfo, kernel, openDriver, useCuda } from './index.js';

const toBf16 = kernel('convert', 'convert_f32_to_bf16', 'p p l');
const failing = (code: string, message: RegExp) =>
  expect.objectContaining({ code, message: expect.stringMatching(message) });

const changed: string[] = [];
function setenv(name: string, value: string) {
  changed.push(name);
  process.env[name] = value;
}
afterEach(() => {
  for (const name of changed.splice(0)) delete process.env[name];
});

test('no driver: the error says so, and so does cudaInfo, which does not throw', async () => {
  setenv('D2DMOE_LIBCUDA', '/nowhere/libcuda.so.1');
  expect(() => openDriver()).toThrow(
    failing('CUDA_NO_DRIVER', /\/nowhere\/libcuda\.so\.1.*install/),
  );
  await expect(useCuda()).rejects.toThrow(failing('CUDA_NO_DRIVER', /could not be opened/));
  expect(cudaInfo()).toEqual({
    devices: [],
    libraries: expect.any(Object),
    problem: { code: 'CUDA_NO_DRIVER', message: expect.stringMatching(/could not be opened/) },
  });
});

test('a library that lacks the driver’s functions is named', () => {
  setenv('D2DMOE_LIBCUDA', 'libc.so.6');
  if (process.platform !== 'linux') return;
  expect(() => openDriver()).toThrow(
    failing('CUDA_DRIVER_TOO_OLD', /libc\.so\.6 has no function cu/),
  );
});

describe.skipIf(!hasCompiler)('bad cases (CUDA emulator, needs g++)', () => {
  let environment: Record<string, string> = {};
  beforeAll(async () => {
    environment = await emulatorEnvironment();
  }, 600_000);

  test('no kernel modules: nothing is chosen that could not run', async () => {
    for (const [name, value] of Object.entries(environment)) setenv(name, value);
    setenv('D2DMOE_CUDA_MODULES', '/nowhere/ptx');
    await expect(useCuda()).rejects.toThrow(
      failing('CUDA_KERNEL_MISSING', /\/nowhere\/ptx.*build-cuda/),
    );
  });

  const open = (settings: Record<string, string> = {}) => {
    for (const [name, value] of Object.entries({ ...environment, ...settings }))
      setenv(name, value);
    return new CudaBackend(openDriver());
  };

  test('a driver that is too old is told from its version', () => {
    const old = () => open({ EMULATED_CUDA_DRIVER: '11080' });
    expect(old).toThrow(failing('CUDA_DRIVER_TOO_OLD', /of CUDA 11\.8, but CUDA 12\.0.*update/));
    expect(cudaInfo()).toMatchObject({
      driver: { version: [11, 8] },
      devices: [],
      problem: { code: 'CUDA_DRIVER_TOO_OLD' },
    });
  });

  test('no device, and devices that are hidden', () => {
    expect(() => open({ EMULATED_CUDA_DEVICES: '0' })).toThrow(
      failing('CUDA_NO_DEVICE', /finds no device: nvidia-smi/),
    );
    expect(() => open({ EMULATED_CUDA_DEVICES: '1', CUDA_VISIBLE_DEVICES: '' })).toThrow(
      failing('CUDA_NO_DEVICE', /with CUDA_VISIBLE_DEVICES="": unset it/),
    );
  });

  test('a device that is not there is refused by number', () => {
    open();
    for (const device of [1, -1, 0.5]) {
      expect(() => new CudaBackend(openDriver(), device)).toThrow(
        failing('CUDA_NO_DEVICE', /no CUDA device .*sees 1, counted from 0/),
      );
    }
  });

  test('cudaInfo names driver and card', () => {
    open();
    expect(cudaInfo()).toEqual({
      driver: { library: environment['D2DMOE_LIBCUDA'], version: [13, 0] },
      devices: [
        expect.objectContaining({ ordinal: 0, computeCapability: [9, 0], isEmulated: true }),
      ],
      libraries: expect.any(Object),
    });
    setenv('D2DMOE_LIBCUBLASLT', '/nowhere/libcublasLt.so.13');
    expect(cudaInfo().libraries.cublasLt).toMatch(/\/nowhere\/libcublasLt\.so\.13/);
  });

  test('out of memory: the error says what was asked, held and free, and the process goes on', () => {
    const backend = open({ EMULATED_CUDA_MEMORY: String(64 << 20) });
    const tensors = Array.from({ length: 3 }, () => backend.output([4 << 20], 'float32'));
    const more = () => backend.output([8 << 20], 'float32');
    expect(more).toThrow(
      failing(
        'CUDA_OUT_OF_MEMORY',
        /32\.00 MiB were asked for.*hold 48\.00 MiB.*16\.00 MiB of 64\.00 MiB/,
      ),
    );
    // What was freed in another size is given back to make room.
    for (const { dataId } of tensors.splice(0, 2)) backend.disposeData(dataId);
    const big = more();
    backend.memset(big.pointer, 32 << 20);
    expect((backend.readSync(big.dataId) as Float32Array)[12_345]).toBe(0);
    for (const { dataId } of [...tensors, big]) backend.disposeData(dataId);
    backend.dispose();
  });

  test('two backends, in one thread, do not disturb each other', () => {
    const [a, b] = [open(), open()];
    const id = a.write(new Float32Array([1, 2, 3]), [3], 'float32');
    const other = b.write(new Float32Array([4, 5, 6]), [3], 'float32');
    a.mutablePointer({ dataId: id, shape: [3], dtype: 'float32' });
    b.mutablePointer({ dataId: other, shape: [3], dtype: 'float32' });
    expect([...(a.readSync(id) as Float32Array)]).toEqual([1, 2, 3]);
    a.disposeData(id);
    a.dispose();
    expect([...(b.readSync(other) as Float32Array)]).toEqual([4, 5, 6]);
    b.disposeData(other);
    b.dispose();
  });

  test('a worker thread can use the device', async () => {
    for (const [name, value] of Object.entries(environment)) setenv(name, value);
    const index = new URL('../dist/index.js', import.meta.url).href;
    const code = `
      const { parentPort } = require('node:worker_threads');
      import(${JSON.stringify(index)}).then(async ({ CudaBackend, openDriver }) => {
        const backend = new CudaBackend(openDriver());
        const dataId = backend.write(new Float32Array([0.5, 7]), [2], 'float32');
        backend.pointer16({ dataId, shape: [2], dtype: 'float32' });
        backend.mutablePointer({ dataId, shape: [2], dtype: 'float32' });
        parentPort.postMessage([...(await backend.read(dataId))]);
      });`;
    const worker = new Worker(code, { eval: true, execArgv: [] });
    const values = await new Promise((resolve, reject) => {
      worker.once('message', resolve);
      worker.once('error', reject);
    });
    expect(values).toEqual([0.5, 7]);
    await worker.terminate();
  });

  // The last one: the emulator, like a card, stays lost for the rest of the process.
  test('a sticky error is named once it happens and on every call after it', () => {
    const backend = open({ EMULATED_CUDA_STICKY: '1' });
    const t = backend.output([4], 'float32');
    const run = () => backend.launch(toBf16, 1, 32, [t.pointer, t.pointer, 0]);
    const lost = failing('CUDA_DEVICE_LOST', /CUDA_ERROR_ILLEGAL_ADDRESS.*start the process anew/);
    expect(run).toThrow(lost);
    expect(() => backend.synchronize()).toThrow(lost);
    expect(() => backend.readSync(t.dataId)).toThrow(lost);
    expect(() => backend.disposeData(t.dataId)).not.toThrow();
    expect(() => new CudaBackend(openDriver())).toThrow(lost);
  });
});
