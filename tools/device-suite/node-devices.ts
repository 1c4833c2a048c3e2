import { readFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import '@tensorflow/tfjs-backend-cpu';
import { useWebGPU } from '@d2dmoe/backend-webgpu/node';
import { useGpuJs } from '@d2dmoe/kernels/gpujs-node';
import { useWasm } from '@d2dmoe/kernels/node';
import * as tf from '@tensorflow/tfjs-core';
import type { DeviceUnderTest } from './devices.js';
import { type ConvertedModel, convertedLogits } from './suite/logits.js';
import { leftAfter } from './suite/leaks.js';
import { checkOp } from './suite/op.js';

const fixtures = new URL('../fixtures/', import.meta.url);

/** Devices of this process. gpu.js leaves its kernels on the cpu backend, so the composed op comes before it. */
export const nodeDevices: DeviceUnderTest[] = [
  node('node cpu', async () => {
    tf.enableProdMode();
    await tf.setBackend('cpu');
  }),
  node('node wasm', () => useWasm()),
  node('node gpu.js webasm', () => useGpuJs({ mode: 'webasm' })),
  node('node gpu.js cpu', () => useGpuJs({ mode: 'cpu' })),
  node('node webgpu', () => useWebGPU()),
];

function node(name: string, start: () => Promise<unknown>): DeviceUnderTest {
  return {
    name,
    start: async () => {
      await start();
    },
    checkOp,
    leftAfter,
    logits: (model: ConvertedModel) =>
      convertedLogits((file) => readFile(fileURLToPath(new URL(`${model}/${file}`, fixtures)))),
  };
}
