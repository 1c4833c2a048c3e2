// What a page does with the packages: chooses a device, runs the op on several, loads a model, and works in a worker.
import '@tensorflow/tfjs-backend-cpu';
import '@tensorflow/tfjs-backend-webgl';
import '@tensorflow/tfjs-backend-wasm';
import { useWebGPU } from '@d2dmoe/backend-webgpu';
import { balancedKMeans } from '@d2dmoe/clustering';
import { Random } from '@d2dmoe/core';
import { listDevices, registerDevice, useDevice } from '@d2dmoe/kernels';
import { initModel } from '@d2dmoe/models';
import { bufferSource, encodeSafetensors, openSafetensors } from '@d2dmoe/safetensors';
import { squareHoyer } from '@d2dmoe/sparsity';
import { setWasmPaths } from '@tensorflow/tfjs-backend-wasm';
import wasmBinary from '@tensorflow/tfjs-backend-wasm/dist/tfjs-backend-wasm-simd.wasm?url';
import * as tf from '@tensorflow/tfjs-core';
import { example } from './op.js';

setWasmPaths({
  'tfjs-backend-wasm.wasm': wasmBinary,
  'tfjs-backend-wasm-simd.wasm': wasmBinary,
  'tfjs-backend-wasm-threaded-simd.wasm': wasmBinary,
});
registerDevice({
  name: 'webgl',
  start: async () => {
    await tf.setBackend('webgl');
    // gpu.js is large: it comes when it is asked for.
    const { registerGpuJs } = await import('@d2dmoe/kernels/gpujs');
    registerGpuJs();
    return 'gpu.js';
  },
});
registerDevice({ name: 'webgpu', start: async () => (await useWebGPU()).description });

async function everything() {
  tf.enableProdMode();
  const devices = await listDevices();
  const ran = [];
  for (const { name, available } of devices) {
    if (!available) continue;
    await useDevice(name);
    ran.push(await example());
  }
  await useDevice('cpu');
  const random = new Random(1);
  const rows = Float32Array.from({ length: 64 }, () => random.normal());
  const split = await balancedKMeans({ rows, count: 16, dimension: 4, expertSize: 4, random });
  const config = {
    model_type: 'gpt2',
    architectures: ['GPT2LMHeadModel'],
    vocab_size: 11,
    n_positions: 8,
    n_embd: 8,
    n_layer: 1,
    n_head: 2,
    activation_function: 'gelu_new',
    layer_norm_epsilon: 1e-5,
  };
  const model = initModel(config, random);
  const { logits } = model.forward({ inputIds: tf.tensor2d([[1, 2, 3]], [1, 3], 'int32') });
  const file = encodeSafetensors([
    { name: 'w', dtype: 'F32', shape: [2], data: Float32Array.of(1, 2) },
  ]);
  const reader = await openSafetensors(bufferSource(file));
  const hoyer = (await squareHoyer(tf.ones([2, 4])).data())[0];
  const worker = new Worker(new URL('./worker.ts', import.meta.url), { type: 'module' });
  const inWorker = await new Promise((resolve, reject) => {
    worker.addEventListener('message', ({ data }) => resolve(data));
    worker.addEventListener('error', (event) => reject(new Error(event.message)));
  });
  return {
    devices,
    ran,
    experts: split.experts,
    logits: logits.shape,
    tensors: [...reader.tensors.keys()],
    hoyer,
    inWorker,
  };
}

Object.assign(globalThis, { result: everything() });
