import '@tensorflow/tfjs-backend-cpu';
// tfjs-core registers no gradients by itself; this package does so for all of them.
import '@tensorflow/tfjs-layers';
import { D2DMoEError } from '@d2dmoe/core';
import { useWasm } from '@d2dmoe/kernels/node';
import * as tf from '@tensorflow/tfjs-core';

/** The devices that can be asked for. `auto` is the fastest that is there. */
export const deviceNames = ['auto', 'wasm', 'cpu'] as const;
export type DeviceName = (typeof deviceNames)[number];

/** What a device turned out to be. */
export interface Device {
  name: 'wasm' | 'cpu';
  /** What it uses, for people. */
  description: string;
}

/**
 * Makes a tfjs backend the current one.
 *
 * @throws D2DMoEError `DEVICE_UNAVAILABLE` where the backend does not start
 */
export async function useDevice(name: DeviceName = 'auto'): Promise<Device> {
  if (name === 'cpu') {
    await tf.setBackend('cpu');
    return { name, description: 'plain JavaScript, for debugging' };
  }
  try {
    const { relaxedSimd } = await useWasm();
    return { name: 'wasm', description: relaxedSimd ? 'relaxed SIMD, 1 thread' : 'SIMD, 1 thread' };
  } catch (error) {
    throw new D2DMoEError(
      'DEVICE_UNAVAILABLE',
      `The wasm backend does not start (${(error as Error).message}); --device cpu runs everywhere, slowly.`,
      { cause: error },
    );
  }
}
