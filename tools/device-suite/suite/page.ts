// What runs in the page: the suite, with the devices that a page can have. Its functions are called from outside.
import '@tensorflow/tfjs-backend-cpu';
import '@tensorflow/tfjs-backend-webgl';
import { setWasmPaths } from '@tensorflow/tfjs-backend-wasm';
import { useWebGPU } from '@d2dmoe/backend-webgpu';
import { registerGpuJs } from '@d2dmoe/kernels/gpujs';
import { registerWasmKernels } from '@d2dmoe/kernels/wasm';
import * as tf from '@tensorflow/tfjs-core';
import { leftAfter } from './leaks.js';
import { convertedLogits } from './logits.js';
import { checkOp } from './op.js';

const read = async (path: string) => new Uint8Array(await (await fetch(path)).arrayBuffer());

/** Makes a device the current one; throws where the page does not have it. */
const devices: Record<string, () => Promise<void>> = {
  cpu: () => select('cpu'),
  wasm: async () => {
    setWasmPaths('/wasm/');
    await select('wasm');
    await registerWasmKernels(await read('/wasm/kernels.wasm'), { threads: 1 });
  },
  gpujs: async () => {
    await select('webgl');
    registerGpuJs();
  },
  webgpu: async () => {
    await useWebGPU();
  },
};

async function select(backend: string): Promise<void> {
  tf.enableProdMode();
  if (!(await tf.setBackend(backend))) throw new Error(`tfjs's ${backend} backend does not start`);
  await tf.ready();
}

const suite = {
  use: (device: string) => (devices[device] as () => Promise<void>)(),
  checkOp,
  leftAfter,
  logits: (model: string) => convertedLogits((file) => read(`/fixtures/${model}/${file}`)),
};

export type PageSuite = typeof suite;
Object.assign(globalThis, { deviceSuite: suite });
