import '@tensorflow/tfjs-backend-cpu';
import { useWebGPU } from '@d2dmoe/backend-webgpu';
import { useDevice } from '@d2dmoe/kernels';
import { example } from './op.js';

async function everything() {
  await useDevice('cpu');
  const onCpu = await example();
  await useWebGPU();
  return [onCpu, await example()];
}

Object.assign(globalThis, { result: everything() });
