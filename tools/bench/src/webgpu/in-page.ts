// What runs in the page of `--page`: the same cases, beside onnxruntime-web. Its functions are called from outside.
import { useWebGPU } from '@d2dmoe/backend-webgpu';
import type { WebGPUBackend } from '@tensorflow/tfjs-backend-webgpu';
import * as tf from '@tensorflow/tfjs-core';
import { feedForwardGraph } from '../feed-forward-graph.js';
import { encodeOnnxModel } from '../onnx-model.js';
import type { BenchDevice } from './bench-device.js';
import { feedForwardRows, type PreparePeer } from './feed-forward.js';
import { measurePeaks } from './peaks.js';

/** The part of onnxruntime-web's API that is used here. */
interface Onnxruntime {
  env: { wasm: { wasmPaths?: string }; webgpu: { device: Promise<GPUDevice> } };
  Tensor: { fromGpuBuffer: (buffer: GPUBuffer, options: object) => OnnxTensor };
  InferenceSession: { create: (model: Uint8Array, options: object) => Promise<Session> };
}

interface OnnxTensor {
  getData: () => Promise<Float32Array>;
  dispose: () => void;
}

interface Session {
  run: (feeds: Record<string, OnnxTensor>) => Promise<Record<string, OnnxTensor>>;
  release: () => Promise<void>;
}

/** Where the page gets it from. */
const folder = '/onnxruntime-web/';

/** Input and output stay on the device, as do ours. */
const preparePeer: PreparePeer = async (shape, values) => {
  const script = `${folder}ort.webgpu.bundle.min.mjs`;
  const ort = (await import(script)) as Onnxruntime;
  ort.env.wasm.wasmPaths = folder;
  const session = await ort.InferenceSession.create(
    encodeOnnxModel(feedForwardGraph(shape, values)),
    {
      executionProviders: ['webgpu'],
      graphOptimizationLevel: 'all',
      preferredOutputLocation: 'gpu-buffer',
    },
  );
  const device = await ort.env.webgpu.device;
  const buffer = device.createBuffer({
    size: values.x.byteLength,
    usage: GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_SRC | GPUBufferUsage.COPY_DST,
  });
  device.queue.writeBuffer(buffer, 0, values.x as BufferSource);
  const dims = [shape.rows, shape.dModel];
  const feeds = { x: ort.Tensor.fromGpuBuffer(buffer, { dataType: 'float32', dims }) };
  const run = async () => (await session.run(feeds))['y'] as OnnxTensor;
  return {
    work: {
      run: async () => (await run()).dispose(),
      finish: () => device.queue.onSubmittedWorkDone().then(() => {}),
    },
    result: async () => {
      const out = await run();
      const data = await out.getData();
      out.dispose();
      return data;
    },
    dispose: async () => {
      await session.release();
      buffer.destroy();
    },
  };
};

async function start(): Promise<string> {
  const { description, architecture, vendor } = await useWebGPU();
  return description || architecture || vendor;
}

const backend = () => tf.backend() as WebGPUBackend;

const bench = {
  start,
  peaks: (share: number) => measurePeaks(backend().device, share),
  /** @param hasPeer Whether onnxruntime-web is served. */
  rows: (
    ...[layerCase, peaks, turns, filter, hasPeer]: [
      ...Parameters<BenchDevice['rows']>,
      hasPeer: boolean,
    ]
  ) =>
    feedForwardRows(
      backend(),
      layerCase,
      peaks,
      turns,
      (name) => name.includes(filter),
      hasPeer ? preparePeer : undefined,
    ),
};

export type PageBench = typeof bench;
Object.assign(globalThis, { webgpuBench: bench });
