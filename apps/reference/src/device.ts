import { availableParallelism } from 'node:os';
import '@tensorflow/tfjs-backend-cpu';
// tfjs-core registers no gradients by itself; this package does so for all of them.
import '@tensorflow/tfjs-layers';
import { CudaBackend, type Precision, useCuda } from '@d2dmoe/backend-cuda';
import { D2DMoEError } from '@d2dmoe/core';
import { useWasm } from '@d2dmoe/kernels/node';
import * as tf from '@tensorflow/tfjs-core';

/** The devices that can be asked for. `auto` is the fastest that is there. */
export const deviceNames = ['auto', 'cuda', 'wasm', 'cpu'] as const;
export type DeviceName = (typeof deviceNames)[number];

/** How matrix products are computed on the cuda device. */
export const precisions = ['float32', 'tf32', 'bf16'] as const satisfies readonly Precision[];

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
 * @throws D2DMoEError `DEVICE_UNAVAILABLE` where the wasm backend does not start; for `cuda` what `useCuda` throws, such
 *   as `CUDA_NO_DRIVER`
 */
export async function useDevice(
  name: DeviceName = 'auto',
  options: UseDeviceOptions = {},
): Promise<Device> {
  switch (name) {
    case 'auto':
      return await useFirst(options);
    case 'cuda':
      return await cuda(options);
    case 'wasm':
      return await wasm(options);
    default:
      // Without it tfjs advertises another backend on standard error.
      tf.enableProdMode();
      await tf.setBackend('cpu');
      return { name, description: 'plain JavaScript, for debugging' };
  }
}

/** What of the current device decides the bits of a result, for the records of stages. */
export function deviceKey(): string {
  const backend = tf.backend();
  return backend instanceof CudaBackend ? `cuda ${backend.precision}` : tf.getBackend();
}

async function useFirst(options: UseDeviceOptions): Promise<Device> {
  try {
    return await cuda(options);
  } catch (error) {
    // d2dmoe doctor says why there is no cuda device.
    if (!D2DMoEError.isInstance(error)) throw error;
    return wasm(options);
  }
}

async function cuda({ precision = 'float32' }: UseDeviceOptions): Promise<Device> {
  const { name, computeCapability, totalMemory } = await useCuda({ precision });
  const gibibytes = (totalMemory / 2 ** 30).toFixed(0);
  return {
    name: 'cuda',
    description: `${name}, compute capability ${computeCapability.join('.')}, ${gibibytes} GiB, products in ${precision}`,
  };
}

async function wasm({ threads = availableParallelism() }: UseDeviceOptions): Promise<Device> {
  try {
    const backend = await useWasm({ threads });
    const flag = backend.flagSet ? ' (V8 flag --experimental-wasm-relaxed-simd set)' : '';
    const simd = backend.relaxedSimd ? `relaxed SIMD${flag}` : 'SIMD';
    return {
      name: 'wasm',
      description: `${simd}, ${backend.threads} ${backend.threads === 1 ? 'thread' : 'threads'}`,
    };
  } catch (error) {
    throw new D2DMoEError(
      'DEVICE_UNAVAILABLE',
      `The wasm backend does not start (${(error as Error).message}); --device cpu runs everywhere, slowly.`,
      { cause: error },
    );
  }
}
