import { D2DMoEError } from '@d2dmoe/core';
import * as tf from '@tensorflow/tfjs-core';
import { GuardedBackend } from './guarded-backend.js';
import { checkAlive, isLost } from './lost.js';
import { registerExpertKernels } from './register.js';

/** An adapter, as WebGPU describes it; browsers may leave texts empty. */
export interface AdapterDescription {
  /** Who made the GPU, as in `nvidia`, `intel`. */
  vendor: string;
  /** Its generation, as in `ampere`, `gen-12lp`. */
  architecture: string;
  /** Its name, as in `NVIDIA H100 80GB HBM3`; browsers rarely give it. */
  description: string;
  /** Whether it is a program on the CPU. */
  isSoftware: boolean;
  /** The most bytes that a kernel sees of one buffer: larger weights are split. */
  maxBindingBytes: number;
}

/** What {@link useWebGPU} has started. */
export interface WebGPUDevice extends AdapterDescription {
  /** Resolves with the error that every further op throws, if the device is lost (not where it is disposed of). */
  lost: Promise<D2DMoEError>;
}

/**
 * Makes tfjs's `webgpu` backend the current one, on a device with all that its adapter has, and registers the expert op's
 * kernels. Called again it does nothing, but where the device has been lost it starts the backend anew on another one:
 * tensors of the old one are gone, so load the model again.
 *
 * In Node import it from `@d2dmoe/backend-webgpu/node`.
 *
 * @throws D2DMoEError `WEBGPU_MISSING` where there is no WebGPU, `WEBGPU_NO_ADAPTER` where it finds no GPU,
 *   `WEBGPU_TOO_SMALL` where the GPU lacks what the kernels need, `WEBGPU_IN_USE` where somebody else has started the
 *   backend.
 */
export async function useWebGPU(): Promise<WebGPUDevice> {
  // Two calls at once share what the first one starts.
  starting ??= startUnlessRunning().finally(() => {
    starting = undefined;
  });
  const { device } = await starting;
  await tf.setBackend('webgpu');
  return device;
}

interface Running {
  backend: GuardedBackend;
  device: WebGPUDevice;
}

let current: Running | undefined;
let starting: Promise<Running> | undefined;

async function startUnlessRunning(): Promise<Running> {
  if (current === undefined || current.backend.isDisposed || isLost(current.backend.device)) {
    current = await start();
  }
  return current;
}

async function start(): Promise<Running> {
  const adapter = await findAdapter();
  const running = 'webgpu' in tf.engine().registry;
  if (running && !(tf.engine().registry['webgpu'] instanceof GuardedBackend)) {
    throw new D2DMoEError(
      'WEBGPU_IN_USE',
      "tfjs's webgpu backend has already been started: call useWebGPU() before, or tf.removeBackend('webgpu'), which frees its tensors.",
    );
  }
  const device = await adapter.requestDevice({
    requiredFeatures: wantedFeatures.filter((feature) => adapter.features.has(feature)),
    requiredLimits: Object.fromEntries(
      Object.keys(neededLimits).map((name) => [name, limitOf(adapter, name)]),
    ),
  });
  const backend = new GuardedBackend(device, adapter.info);
  if (tf.findBackendFactory('webgpu') !== null) tf.removeBackend('webgpu');
  tf.registerBackend('webgpu', () => backend, 3);
  registerExpertKernels();
  const lost = device.lost.then(async () => {
    if (backend.isDisposed) return new Promise<never>(() => {});
    try {
      checkAlive(device);
    } catch (error) {
      return error as D2DMoEError;
    }
    throw new Error('a lost device is known to be lost');
  });
  return { backend, device: { ...describe(adapter), lost } };
}

/** Those that tfjs asks for, and what our kernels use, where an adapter has them. */
const wantedFeatures: GPUFeatureName[] = ['timestamp-query', 'bgra8unorm-storage', 'subgroups'];

/** Limits that the device gets as high as the adapter has them, and what the kernels need of them. */
const neededLimits: Record<string, number> = {
  maxBufferSize: 0,
  maxStorageBufferBindingSize: 0,
  maxStorageBuffersPerShaderStage: 8,
  maxComputeInvocationsPerWorkgroup: 256,
  maxComputeWorkgroupSizeX: 256,
  maxComputeWorkgroupStorageSize: 16384,
  maxComputeWorkgroupsPerDimension: 65535,
};

const limitOf = ({ limits }: GPUAdapter, name: string): number =>
  (limits as unknown as Record<string, number>)[name] ?? 0;

async function findAdapter(): Promise<GPUAdapter> {
  const gpu = (globalThis.navigator as Navigator | undefined)?.gpu;
  if (gpu === undefined) {
    throw new D2DMoEError(
      'WEBGPU_MISSING',
      'There is no WebGPU here: it takes a recent browser and a page served over https or from localhost; in Node, import @d2dmoe/backend-webgpu/node.',
    );
  }
  const adapter = await gpu.requestAdapter({ powerPreference: 'high-performance' });
  if (adapter === null) {
    throw new D2DMoEError(
      'WEBGPU_NO_ADAPTER',
      'WebGPU finds no GPU that it can use: check the graphics driver (in Node on Linux, a Vulkan driver and libvulkan.so.1), or use another backend.',
    );
  }
  for (const [name, needed] of Object.entries(neededLimits)) {
    const has = limitOf(adapter, name);
    if (has < needed) {
      throw new D2DMoEError(
        'WEBGPU_TOO_SMALL',
        `The GPU's ${name} is ${has}, but the kernels need ${needed}: use another adapter or another backend.`,
      );
    }
  }
  return adapter;
}

function describe({ info, limits }: GPUAdapter): AdapterDescription {
  return {
    vendor: info.vendor,
    architecture: info.architecture,
    description: info.description,
    isSoftware: info.isFallbackAdapter,
    maxBindingBytes: limits.maxStorageBufferBindingSize,
  };
}

/** What {@link webgpuInfo} finds. */
export type WebGPUInfo =
  | ({ available: true } & AdapterDescription)
  | { available: false; code: string; reason: string };

/**
 * Whether {@link useWebGPU} would work, and on what, or why not. Starts no device and never throws.
 */
export async function webgpuInfo(): Promise<WebGPUInfo> {
  try {
    return { available: true, ...describe(await findAdapter()) };
  } catch (error) {
    const code = error instanceof D2DMoEError ? error.code : 'WEBGPU_FAILED';
    return { available: false, code, reason: (error as Error).message };
  }
}
