import { spawnSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { dynamicKExperts, packExperts } from '@d2dmoe/kernels';
import * as tf from '@tensorflow/tfjs-core';
import { beforeAll, expect, test } from 'vitest';
import { onAdapter, start } from '../testing/adapter.js';
import { openBackend } from './open-backend.js';
import { useWebGPU, webgpuInfo } from './node.js';

const coded = (code: string) => expect.objectContaining({ code }) as unknown;

/** The op on weights of ones: every output is 4 neurons · 2, for each of two experts. */
async function forward(): Promise<number[]> {
  const weights = { up: tf.ones<tf.Rank.R2>([8, 2]), down: tf.ones<tf.Rank.R2>([8, 3]) };
  const packed = packExperts({ ...weights, activation: 'relu' }, 4);
  const out = tf.tidy(() => dynamicKExperts(tf.ones([1, 2]), tf.ones([1, 2], 'bool'), packed));
  try {
    return Array.from(await out.data());
  } finally {
    packed.dispose();
    tf.dispose([out, weights.up, weights.down]);
  }
}

onAdapter('the WebGPU backend', () => {
  beforeAll(start);

  test('says what it runs on, and starts once', async () => {
    const device = await useWebGPU();
    expect(device.maxBindingBytes).toBeGreaterThanOrEqual(2 ** 27);
    expect(await webgpuInfo()).toMatchObject({ available: true, vendor: device.vendor });
    const backend = tf.backend();
    await useWebGPU();
    expect(tf.backend()).toBe(backend);
  });

  test('a lost device is named in every error and replaced by a new one', async () => {
    const device = await useWebGPU();
    expect(await forward()).toEqual([16, 16, 16]);
    // Small ones would be added on the CPU.
    const old = tf.ones([2000]);
    const onDevice = tf.add(old, 1);
    openBackend(tf.backend()).device.destroy();
    const lost = await device.lost;
    expect(lost).toEqual(coded('WEBGPU_DEVICE_LOST'));
    expect(lost.message).toContain('useWebGPU()');
    await expect(onDevice.data()).rejects.toEqual(coded('WEBGPU_DEVICE_LOST'));
    expect(() => tf.add(old, 1)).toThrow(coded('WEBGPU_DEVICE_LOST'));
    await expect(forward()).rejects.toEqual(coded('WEBGPU_DEVICE_LOST'));
    tf.dispose([old, onDevice]);

    const [replaced, same] = await Promise.all([useWebGPU(), useWebGPU()]);
    expect(replaced).not.toBe(device);
    expect(same).toBe(replaced);
    expect(await forward()).toEqual([16, 16, 16]);
  });

  test('what the device refuses is not read back as a result', async () => {
    const { device } = openBackend(tf.backend());
    device.createBuffer({ size: 16, usage: 0x8000 });
    const sum = tf.tidy(() => tf.add(tf.ones([2000]), 1));
    await expect(sum.data()).rejects.toEqual(coded('WEBGPU_FAILED'));
    expect((await sum.data())[0]).toBe(2);
    sum.dispose();
  });

  test('reading synchronously is refused in Node', () => {
    const sum = tf.tidy(() => tf.add(tf.ones([2000]), 1));
    expect(() => sum.dataSync()).toThrow(coded('WEBGPU_SYNC_READ'));
    sum.dispose();
  });

  test('a backend that somebody else has started is left alone', () => {
    const script = `
      import { useWebGPU, webgpuInfo } from '@d2dmoe/backend-webgpu/node';
      import { WebGPUBackend } from '@tensorflow/tfjs-backend-webgpu';
      import * as tf from '@tensorflow/tfjs-core';
      await webgpuInfo();
      const adapter = await navigator.gpu.requestAdapter();
      const device = await adapter.requestDevice();
      tf.registerBackend('webgpu', () => new WebGPUBackend(device, adapter.info));
      await tf.setBackend('webgpu');
      await useWebGPU().catch((error) => console.log(error.code));
      device.destroy();`;
    expect(run(script).stdout).toBe('WEBGPU_IN_USE\n');
  });

  test('the process ends when its work is done', () => {
    const script = `
      import { useWebGPU } from '@d2dmoe/backend-webgpu/node';
      import * as tf from '@tensorflow/tfjs-core';
      await useWebGPU();
      console.log(String(await tf.add(tf.ones([3]), 1).data()));`;
    const { status, stdout, signal } = run(script);
    expect({ status, signal, stdout }).toEqual({ status: 0, signal: null, stdout: '2,2,2\n' });
  });
});

test('without a driver the error says what is missing', () => {
  const script = `
    import { useWebGPU, webgpuInfo } from '@d2dmoe/backend-webgpu/node';
    const { code, reason } = await webgpuInfo();
    console.log(code, reason.length > 20);
    await useWebGPU().catch((error) => console.log(error.code));`;
  const none = { VK_ICD_FILENAMES: '/nonexistent.json', VK_DRIVER_FILES: '/nonexistent.json' };
  expect(run(script, none).stdout).toBe('WEBGPU_NO_ADAPTER true\nWEBGPU_NO_ADAPTER\n');
});

test('an adapter that is too small is named, with the limit that it lacks', () => {
  const script = `
    import { useWebGPU, webgpuInfo } from '@d2dmoe/backend-webgpu/node';
    await webgpuInfo();
    const limits = { maxStorageBuffersPerShaderStage: 4 };
    const requestAdapter = async () => ({ limits, features: new Set(), info: {} });
    Object.defineProperty(navigator, 'gpu', { value: { requestAdapter } });
    const { code, reason } = await webgpuInfo();
    console.log(code, reason);
    await useWebGPU().catch((error) => console.log(error.code));`;
  const { stdout } = run(script);
  expect(stdout).toMatch(
    /^WEBGPU_TOO_SMALL .*maxStorageBuffersPerShaderStage is 4.*\nWEBGPU_TOO_SMALL\n$/,
  );
});

/** Runs a module that imports this package, built, in a process of its own. */
function run(script: string, environment: Record<string, string> = {}) {
  return spawnSync(process.execPath, ['--input-type=module', '--eval', script], {
    cwd: fileURLToPath(new URL('..', import.meta.url)),
    encoding: 'utf8',
    env: { ...process.env, ...environment },
    timeout: 50_000,
  });
}
