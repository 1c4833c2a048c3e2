import { availableParallelism } from 'node:os';
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
 * @param threads of the wasm backend, default all cores; results do not depend on it
 * @throws D2DMoEError `DEVICE_UNAVAILABLE` where the backend does not start
 */
export async function useDevice(
  name: DeviceName = 'auto',
  threads: number = availableParallelism(),
): Promise<Device> {
  if (name === 'cpu') {
    // Without it tfjs advertises another backend on standard error.
    tf.enableProdMode();
    await tf.setBackend('cpu');
    return { name, description: 'plain JavaScript, for debugging' };
  }
  try {
    const wasm = await useWasm({ threads });
    const flag = wasm.flagSet ? ' (V8 flag --experimental-wasm-relaxed-simd set)' : '';
    const simd = wasm.relaxedSimd ? `relaxed SIMD${flag}` : 'SIMD';
    return {
      name: 'wasm',
      description: `${simd}, ${wasm.threads} ${wasm.threads === 1 ? 'thread' : 'threads'}`,
    };
  } catch (error) {
    throw new D2DMoEError(
      'DEVICE_UNAVAILABLE',
      `The wasm backend does not start (${(error as Error).message}); --device cpu runs everywhere, slowly.`,
      { cause: error },
    );
  }
}
