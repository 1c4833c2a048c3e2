import { D2DMoEError } from '@d2dmoe/core';
import * as tf from '@tensorflow/tfjs-core';
import type * as webgpu from 'webgpu';
import {
  useWebGPU as useWebGPUHere,
  type WebGPUDevice,
  type WebGPUInfo,
  webgpuInfo as webgpuInfoHere,
} from './use-webgpu.js';

export * from './index.js';

/** Which adapter Node takes. */
export interface NodeOptions {
  /** Part of its name, as `D2DMOE_WEBGPU_ADAPTER` may say too; without, Dawn's choice of the fastest. */
  adapter?: string;
}

/**
 * The package's `useWebGPU` in Node, through the npm package `webgpu` (Dawn): puts WebGPU's globals where the backend
 * looks for them, chooses the adapter, and frees the device when the process ends, which it does not delay.
 *
 * @throws D2DMoEError as in a page, and `WEBGPU_MISSING` where the package `webgpu` cannot be loaded.
 */
export async function useWebGPU(options: NodeOptions = {}): Promise<WebGPUDevice> {
  await provideWebGPU(options);
  const device = await useWebGPUHere();
  process.off('exit', freeDevice);
  process.once('exit', freeDevice);
  return device;
}

/** The package's `webgpuInfo` in Node. */
export async function webgpuInfo(options: NodeOptions = {}): Promise<WebGPUInfo> {
  try {
    await provideWebGPU(options);
  } catch (error) {
    const { code, message } = error as D2DMoEError;
    return { available: false, code, reason: message };
  }
  return webgpuInfoHere();
}

// Dawn crashes some drivers where a device outlives the process's static data.
function freeDevice(): void {
  if (tf.findBackendFactory('webgpu') !== null) tf.removeBackend('webgpu');
}

let provided: Promise<void> | undefined;

async function provideWebGPU({
  adapter = process.env['D2DMOE_WEBGPU_ADAPTER'],
}: NodeOptions): Promise<void> {
  if (provided === undefined) {
    provided = provide(adapter);
    // A failure may be mended and tried again.
    provided.catch(() => {
      provided = undefined;
    });
  }
  await provided;
}

async function provide(adapter: string | undefined): Promise<void> {
  const { create, globals } = await loadDawn();
  Object.assign(globalThis, globals);
  const gpu = create(adapter === undefined ? [] : [`adapter=${adapter}`]);
  const navigator = (globalThis.navigator as Navigator | undefined) ?? { userAgent: 'node' };
  Object.defineProperty(navigator, 'gpu', { value: gpu, configurable: true });
  Object.defineProperty(globalThis, 'navigator', { value: navigator, configurable: true });
}

async function loadDawn(): Promise<typeof webgpu> {
  try {
    return await import('webgpu');
  } catch (error) {
    throw new D2DMoEError(
      'WEBGPU_MISSING',
      `WebGPU in Node needs the package webgpu, which could not be loaded (${(error as Error).message.split('\n')[0]}): npm install webgpu@0.6.2.`,
    );
  }
}
