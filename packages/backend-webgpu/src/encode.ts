import { env, type TensorInfo } from '@tensorflow/tfjs-core';
import { bufferOf, type OpenBackend } from './open-backend.js';
import { type Pipeline, pipelineOf, remembered } from './pipelines.js';

/** Part of a buffer that a kernel sees; all of it where `size` is absent. */
export interface Slice {
  buffer: GPUBuffer;
  offset?: number;
  size?: number;
}

/** Workgroups in x, y and z. */
export type Workgroups = readonly [x: number, y?: number, z?: number];

/** What a kernel of several dispatches is written with. */
export interface Encoder {
  /** Runs a WGSL source on buffers, in the order of its bindings. */
  dispatch(source: string, buffers: readonly Bound[], workgroups: Workgroups): void;
  /** A buffer that this kernel alone sees, until it is encoded; its contents are whatever they are. */
  scratch(bytes: number): GPUBuffer;
  /** A uniform buffer with the contents that `make` gives, which `key` tells from others. */
  uniform(key: string, make: () => ArrayBuffer): GPUBuffer;
  /** A storage buffer that is 0 at first and keeps what kernels write, for all calls with this key. */
  kept(key: string, bytes: number): GPUBuffer;
}

/**
 * Encodes dispatches behind what tfjs has encoded, in its compute pass and under its rules: they are submitted with
 * tfjs's own, tensors that they use live until then, and tf.time() counts them.
 *
 * @param tensors All that the dispatches read and write.
 */
export function encode(
  backend: OpenBackend,
  name: string,
  tensors: readonly TensorInfo[],
  work: (encoder: Encoder) => void,
): void {
  // Uploads end the pass, so they come first.
  for (const tensor of tensors) bufferOf(backend, tensor);
  const { bufferManager, device } = backend;
  const isTimed = backend.activeTimers != null;
  const pass = openPass(backend, isTimed);
  for (const { dataId } of tensors) backend.commandQueueOwnedIds.add(dataId);
  const borrowed: GPUBuffer[] = [];
  work({
    dispatch(source, buffers, workgroups) {
      const compiled = pipelineOf(device, source);
      pass.setPipeline(compiled.pipeline);
      pass.setBindGroup(0, bindGroupOf(device, compiled, buffers));
      pass.dispatchWorkgroups(...workgroups);
      backend.dispatchCountInPass++;
    },
    scratch(bytes) {
      const buffer = bufferManager.acquireBuffer(sizeClass(bytes), GPUBufferUsage.STORAGE);
      borrowed.push(buffer);
      return buffer;
    },
    uniform(key, make) {
      return remembered(keptBuffers(uniforms, device), MOST_REMEMBERED, key, () => {
        const contents = make();
        const buffer = device.createBuffer({
          size: contents.byteLength,
          usage: GPUBufferUsage.UNIFORM,
          mappedAtCreation: true,
        });
        new Uint8Array(buffer.getMappedRange()).set(new Uint8Array(contents));
        buffer.unmap();
        return buffer;
      });
    },
    kept(key, bytes) {
      return remembered(keptBuffers(storage, device), MOST_REMEMBERED, key, () =>
        device.createBuffer({ size: bytes, usage: GPUBufferUsage.STORAGE }),
      );
    },
  });
  // Given back before the submission: nobody else asks for buffers of this usage, and commands keep their order.
  for (const buffer of borrowed) bufferManager.releaseBuffer(buffer);
  if (isTimed) {
    backend.endComputePassEncoder();
    backend.activeTimers?.push({ name, query: backend.getQueryTime() });
  } else if (backend.dispatchCountInPass >= env().getNumber('WEBGPU_DEFERRED_SUBMIT_BATCH_SIZE')) {
    backend.endComputePassEncoder();
    backend.submitQueue();
  }
}

/**
 * Bind groups of a pipeline, and uniforms and storage of a device, that are kept. Making them is most of a dispatch's
 * price on the host, and a model comes by with the same ones again: tfjs hands buffers out in the same order for the same
 * work.
 */
const MOST_REMEMBERED = 128;

type KeptBuffers = WeakMap<GPUDevice, Map<string, GPUBuffer>>;
const uniforms: KeptBuffers = new WeakMap();
const storage: KeptBuffers = new WeakMap();

function keptBuffers(kept: KeptBuffers, device: GPUDevice): Map<string, GPUBuffer> {
  let made = kept.get(device);
  if (made === undefined) {
    made = new Map();
    kept.set(device, made);
  }
  return made;
}

/** What a kernel is given for a binding. */
export type Bound = GPUBuffer | Slice;

/** The bind group of a pipeline for these buffers. The one that was asked for last is looked at first. */
function bindGroupOf(
  device: GPUDevice,
  { layout, bindGroups }: Pipeline,
  buffers: readonly Bound[],
): GPUBindGroup {
  const at = bindGroups.findIndex((known) => known.buffers.every((b, i) => isSame(b, buffers[i])));
  const [known = { buffers, group: bind(device, layout, buffers) }] =
    at < 0 ? [] : bindGroups.splice(at, 1);
  bindGroups.unshift(known);
  if (bindGroups.length > MOST_REMEMBERED) bindGroups.pop();
  return known.group;
}

function isSame(a: Bound, b: Bound | undefined): boolean {
  if (a === b) return true;
  if (b === undefined || !('buffer' in a) || !('buffer' in b)) return false;
  return a.buffer === b.buffer && a.offset === b.offset && a.size === b.size;
}

function bind(
  device: GPUDevice,
  layout: GPUBindGroupLayout,
  buffers: readonly Bound[],
): GPUBindGroup {
  const entries = buffers.map((bound, binding) => ({
    binding,
    resource: 'buffer' in bound ? bound : { buffer: bound },
  }));
  return device.createBindGroup({ layout, entries });
}

function openPass(backend: OpenBackend, isTimed: boolean): GPUComputePassEncoder {
  backend.ensureCommandEncoderReady();
  const encoder = backend.commandEncoder as GPUCommandEncoder;
  if (isTimed && backend.supportTimestampQuery) {
    backend.endComputePassEncoder();
    backend.querySet ??= backend.device.createQuerySet({
      type: 'timestamp',
      count: backend.querySetCount,
    });
    const timestampWrites = {
      querySet: backend.querySet,
      beginningOfPassWriteIndex: 0,
      endOfPassWriteIndex: 1,
    };
    backend.computePassEncoder = encoder.beginComputePass({ timestampWrites });
  }
  backend.computePassEncoder ??= encoder.beginComputePass();
  return backend.computePassEncoder;
}

/**
 * Scratch buffers come in a quarter of a power of two: tfjs keeps every buffer for the next one of its very size.
 *
 * @returns At least `bytes`, by at most a quarter more (256 at least).
 */
export function sizeClass(bytes: number): number {
  if (bytes <= 256) return 256;
  const step = 2 ** Math.max(8, Math.ceil(Math.log2(bytes)) - 3);
  return Math.ceil(bytes / step) * step;
}
