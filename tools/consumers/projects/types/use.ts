// Every public entry, imported and used in its types, as strict TypeScript sees it from outside.
import '@tensorflow/tfjs-backend-cpu';
import { CudaBackend, cudaInfo, useCuda } from '@d2dmoe/backend-cuda';
import { useWebGPU, type WebGPUDevice } from '@d2dmoe/backend-webgpu';
import { useWebGPU as useWebGPUInNode } from '@d2dmoe/backend-webgpu/node';
import { balancedKMeans, type Split } from '@d2dmoe/clustering';
import { D2DMoEError, type ProgressEvent, Random } from '@d2dmoe/core';
import { cheapestWithin, sweep } from '@d2dmoe/evaluation';
import { renderReport } from '@d2dmoe/evaluation/report';
import {
  type DeviceReport,
  dynamicKExperts,
  listDevices,
  type PackedExperts,
  packExperts,
  selectExperts,
} from '@d2dmoe/kernels';
import { registerGpuJs } from '@d2dmoe/kernels/gpujs';
import { useGpuJs } from '@d2dmoe/kernels/gpujs-node';
import { useWasm } from '@d2dmoe/kernels/node';
import { registerWasmKernels } from '@d2dmoe/kernels/wasm';
import { dynamicSubstitute, type Model } from '@d2dmoe/models';
import { loadModel } from '@d2dmoe/models/node';
import { createRouter, RouterTrainer } from '@d2dmoe/routing';
import { openSafetensors, type TensorReader } from '@d2dmoe/safetensors';
import { openCheckpoint } from '@d2dmoe/safetensors/node';
import { regularizers } from '@d2dmoe/sparsity';
import * as tf from '@tensorflow/tfjs-core';
import { convert, useDevice } from 'd2dmoe';

const random = new Random(1);
const normal = (rows: number, columns: number): tf.Tensor2D =>
  tf.tensor2d(
    Float32Array.from({ length: rows * columns }, () => random.normal()),
    [rows, columns],
  );

export function runOp(): tf.Tensor2D {
  const experts: PackedExperts = packExperts(
    { up: normal(8, 4), down: normal(8, 4), activation: 'relu' },
    2,
  );
  const selection = selectExperts(tf.abs(normal(3, 4)), { rule: 'topK', value: 2 });
  return dynamicKExperts(normal(3, 4), selection, experts, { expectedDensity: 0.5 });
}

export async function everythingElse(directory: string): Promise<string[]> {
  const onProgress = (event: ProgressEvent): void => console.log(event.status);
  const split: Split = await balancedKMeans({
    rows: new Float32Array(16),
    count: 4,
    dimension: 4,
    expertSize: 2,
    random,
    onProgress,
  });
  const devices: DeviceReport[] = await listDevices();
  const reasons = devices.map((device) => (device.available ? device.name : device.reason));
  const router = createRouter({ dIn: 4, width: 8, experts: 4, random });
  const trainer = new RouterTrainer({ routers: new Map([['layers.0.ffn', router]]), steps: 10 });
  const model: Model = await loadModel(directory);
  const substitute = dynamicSubstitute(model, { rule: { rule: 'threshold', value: 0.5 } });
  const reader: TensorReader = await openCheckpoint(directory);
  const device: WebGPUDevice = await useWebGPU();
  const { threads } = await useWasm({ threads: 1 });
  const { executor } = await useGpuJs({ mode: 'webasm' });
  console.log(split.order, trainer, substitute, reader.tensors, device.vendor, threads, executor());
  console.log(CudaBackend, cudaInfo, useCuda, useWebGPUInNode, cheapestWithin, sweep, renderReport);
  console.log(
    registerGpuJs,
    registerWasmKernels,
    openSafetensors,
    regularizers,
    convert,
    useDevice,
  );
  return reasons;
}

export function mistake(error: unknown): string {
  // @ts-expect-error -- an activation that does not exist must not type-check
  packExperts({ up: normal(8, 4), down: normal(8, 4), activation: 'sine' }, 2);
  return D2DMoEError.isInstance(error) ? error.code : 'another';
}
