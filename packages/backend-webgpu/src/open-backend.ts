import type { WebGPUBackend } from '@tensorflow/tfjs-backend-webgpu';
import type { DataId, TensorInfo } from '@tensorflow/tfjs-core';

/** What tfjs's backend keeps of a tensor. */
interface TensorData {
  values: unknown;
  resource?: GPUBuffer;
}

/**
 * The parts of tfjs-backend-webgpu 4.22 that kernels of our own need, private ones included: several
 * dispatches over one scratch buffer are beyond its `runWebGPUProgram`. The peer dependency is on that version
 * alone.
 */
export interface OpenBackend
  extends Pick<
    WebGPUBackend,
    | 'bufferManager'
    | 'device'
    | 'endComputePassEncoder'
    | 'ensureCommandEncoderReady'
    | 'getQueryTime'
    | 'incRef'
    | 'makeTensorInfo'
    | 'queue'
    | 'submitQueue'
    | 'uploadToGPU'
  > {
  /** Of the commands that are not submitted yet; null where there are none. */
  commandEncoder: GPUCommandEncoder | null;
  computePassEncoder: GPUComputePassEncoder | null;
  dispatchCountInPass: number;
  /** Tensors that those commands use: their buffers are given back after the submission only. */
  commandQueueOwnedIds: WeakSet<DataId>;
  /** Buffers to give back after the submission. */
  uniformPendingDisposal: GPUBuffer[];
  tensorMap: { get(dataId: DataId): TensorData };
  /** Where tf.time() collects what dispatches took. */
  activeTimers: { name: string; query: Promise<number> }[] | null | undefined;
  supportTimestampQuery: boolean;
  querySet: GPUQuerySet | null;
  querySetCount: number;
}

/** The backend that tfjs hands to a kernel. */
export function openBackend(backend: unknown): OpenBackend {
  return backend as OpenBackend;
}

/** The tensor's buffer on the device, uploaded if need be. */
export function bufferOf(backend: OpenBackend, { dataId }: TensorInfo): GPUBuffer {
  backend.uploadToGPU(dataId);
  return backend.tensorMap.get(dataId).resource as GPUBuffer;
}
