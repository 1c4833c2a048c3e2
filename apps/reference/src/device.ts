import { availableParallelism } from 'node:os';
import '@tensorflow/tfjs-backend-cpu';
// tfjs-core registers no gradients by itself; this package does so for all of them.
import '@tensorflow/tfjs-layers';
import { CudaBackend, type Precision, useCuda } from '@d2dmoe/backend-cuda';
import { D2DMoEError } from '@d2dmoe/core';
import {
  type ExpertStorage,
  type DeviceReport,
  listDevices as listRegisteredDevices,
  registerDevice,
  useDevice as startDevice,
} from '@d2dmoe/kernels';
import { useWasm } from '@d2dmoe/kernels/node';
import * as tf from '@tensorflow/tfjs-core';

/** The devices that can be asked for. `auto` is the fastest that is there, webgpu left out. */
export const deviceNames = ['auto', 'cuda', 'webgpu', 'wasm', 'cpu'] as const;
export type DeviceName = (typeof deviceNames)[number];

/** How matrix products are computed on the cuda device. */
export const precisions = [
  'float32',
  'tf32',
  'bf16',
  'fp16',
] as const satisfies readonly Precision[];

/** What a device turned out to be. */
export interface Device {
  name: Exclude<DeviceName, 'auto'>;
  /** What it uses, for people. */
  description: string;
}

/** How a device works. */
export interface UseDeviceOptions {
  /** Of the wasm device, default all cores; results do not depend on it. */
  threads?: number | undefined;
  /** Of the cuda device's matrix products, default float32. */
  precision?: Precision | undefined;
}

/**
 * Makes a tfjs backend the current one.
 *
 * @throws D2DMoEError `DEVICE_UNAVAILABLE` where the backend does not start; for `cuda` what `useCuda` throws, such as
 *   `CUDA_NO_DRIVER`
 */
export async function useDevice(
  name: DeviceName = 'auto',
  options: UseDeviceOptions = {},
): Promise<Device> {
  registerDevices(options);
  if (name === 'auto') registerDevice({ name: 'webgpu', start: passedOver });
  // Only those that deviceNames has are registered here.
  return (await startDevice(name)) as Device;
}

/** What there is to compute on, what not, and why, in the order in which `auto` tries them. */
export async function listDevices(): Promise<DeviceReport[]> {
  registerDevices({});
  return await listRegisteredDevices();
}

/** What of the current device decides the bits of a result, for the records of stages. */
export function deviceKey(): string {
  const backend = tf.backend();
  return backend instanceof CudaBackend ? `cuda ${backend.precision}` : tf.getBackend();
}

const storages: Record<Precision, ExpertStorage> = {
  float32: 'float32',
  tf32: 'float32',
  bf16: 'bfloat16',
  fp16: 'float16',
};

/** How experts are stored on the current device unless asked otherwise: as its products read them. */
export function deviceStorage(): ExpertStorage {
  const backend = tf.backend();
  return storages[backend instanceof CudaBackend ? backend.precision : 'float32'];
}

/** Makes the devices of this app known; the options are theirs from then on. */
function registerDevices(options: UseDeviceOptions): void {
  registerDevice({ name: 'cuda', start: () => cuda(options) });
  registerDevice({ name: 'webgpu', start: webgpu });
  registerDevice({ name: 'wasm', start: () => wasm(options) });
  registerDevice({ name: 'cpu', start: cpu });
}

async function cuda({ precision = 'float32' }: UseDeviceOptions): Promise<string> {
  const { name, computeCapability, totalMemory } = await useCuda({
    precision,
    deterministic: true,
  });
  const gibibytes = (totalMemory / 2 ** 30).toFixed(0);
  return `${name}, compute capability ${computeCapability.join('.')}, ${gibibytes} GiB, products in ${precision}`;
}

async function webgpu(): Promise<string> {
  // Loads tfjs's backend, and Dawn if it is installed, for those alone who ask for it.
  const { useWebGPU } = await import('@d2dmoe/backend-webgpu/node');
  const { description, vendor, isSoftware } = await useWebGPU();
  return `${description || vendor}${isSoftware ? ', a program on the CPU' : ''}`;
}

/** Training reads losses back at once, which WebGPU in Node cannot. */
function passedOver(): Promise<never> {
  return Promise.reject(
    new D2DMoEError('DEVICE_UNAVAILABLE', 'The webgpu device has to be asked for by its name.'),
  );
}

async function wasm({ threads = availableParallelism() }: UseDeviceOptions): Promise<string> {
  try {
    const backend = await useWasm({ threads });
    const flag = backend.flagSet ? ' (V8 flag --experimental-wasm-relaxed-simd set)' : '';
    const simd = backend.relaxedSimd ? `relaxed SIMD${flag}` : 'SIMD';
    return `${simd}, ${backend.threads} ${backend.threads === 1 ? 'thread' : 'threads'}`;
  } catch (error) {
    throw new D2DMoEError(
      'DEVICE_UNAVAILABLE',
      `The wasm backend does not start (${(error as Error).message}); --device cpu runs everywhere, slowly.`,
      { cause: error },
    );
  }
}

async function cpu(): Promise<string> {
  // Without it tfjs advertises another backend on standard error.
  tf.enableProdMode();
  await tf.setBackend('cpu');
  return 'plain JavaScript, for debugging';
}
