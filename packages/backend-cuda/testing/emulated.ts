import { spawnSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import * as tf from '@tensorflow/tfjs-core';
import { beforeAll, describe } from 'vitest';
import { buildEmulator } from '../../../tools/cuda-emulator/build.mjs';
import { CudaBackend, useCuda } from '../src/index.js';

/** The package's ignored folder that the emulator is built into. */
export const emulatorFolder = fileURLToPath(new URL('../.emulator', import.meta.url));

/** Whether the emulator can be built here. */
export const hasCompiler = spawnSync('g++', ['--version']).error === undefined;

/** The environment under which the package opens the emulator in place of the driver. */
export async function emulatorEnvironment(): Promise<Record<string, string>> {
  const { library, modules } = await buildEmulator(emulatorFolder);
  return { D2DMOE_LIBCUDA: library, D2DMOE_CUDA_MODULES: modules };
}

/**
 * A group of tests whose current tfjs backend is `cuda` on the emulator; skipped where g++ is absent.
 *
 * @param tests Gets a function that returns the backend, for use inside tests.
 */
export function emulated(name: string, tests: (cuda: () => CudaBackend) => void): void {
  describe.skipIf(!hasCompiler)(`${name} (CUDA emulator, needs g++)`, () => {
    beforeAll(async () => {
      Object.assign(process.env, await emulatorEnvironment());
      await useCuda();
    }, 600_000);
    tests(() => {
      const backend: unknown = tf.findBackend('cuda');
      if (!(backend instanceof CudaBackend)) throw new Error('The backend cuda is not registered.');
      return backend;
    });
  });
}
