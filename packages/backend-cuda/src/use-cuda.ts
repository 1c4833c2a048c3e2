import { D2DMoEError } from '@d2dmoe/core';
import * as tf from '@tensorflow/tfjs-core';
import { CudaBackend, type Precision } from './backend.js';
import type { DeviceProperties } from './driver/device.js';
import { requireModules } from './driver/modules.js';
import { openDriver } from './driver/open-driver.js';
import { registerCudaKernels } from './register.js';

/** Above tfjs's own: cpu 1, wasm and webgl 2, webgpu 3. */
const PRIORITY = 4;

/** Settings of {@link useCuda}. */
export interface UseCudaOptions {
  /** Of float32 matrix products; default 'float32', or as it was. */
  precision?: Precision;
  /** Whether equal calls give equal bits, at some cost in speed for the expert op; default false, or as it was. */
  deterministic?: boolean;
  /** Number of the device, from 0; CUDA_VISIBLE_DEVICES renumbers. Default 0, or the one in use. */
  device?: number;
}

/**
 * Makes an NVIDIA GPU the device of every tfjs program: registers the backend `cuda` and its kernels, and makes it
 * current. May be called again, to come back to it from another backend or to change the precision.
 *
 * @returns What the card is.
 * @throws D2DMoEError CUDA_NO_DRIVER, CUDA_DRIVER_TOO_OLD, CUDA_NO_DEVICE, CUDA_KERNEL_MISSING (nothing was built), CUDA_DEVICE_IN_USE (another device was
 *   chosen before), CUDA_OUT_OF_MEMORY, CUDA_DEVICE_LOST, CUDA_FAILED; the backend that was current stays so.
 */
export async function useCuda(options: UseCudaOptions = {}): Promise<DeviceProperties> {
  const backend = existing(options.device) ?? create(options.device ?? 0);
  if (options.precision !== undefined) backend.precision = options.precision;
  if (options.deterministic !== undefined) backend.deterministic = options.deterministic;
  await tf.setBackend('cuda');
  return backend.device;
}

function existing(device: number | undefined): CudaBackend | undefined {
  const backend: unknown = tf.findBackend('cuda');
  if (!(backend instanceof CudaBackend)) return undefined;
  if (device !== undefined && device !== backend.device.ordinal) {
    throw new D2DMoEError(
      'CUDA_DEVICE_IN_USE',
      `The backend cuda is on device ${backend.device.ordinal} already: device ${device} can be used after tf.removeBackend('cuda'), which disposes all tensors there.`,
    );
  }
  return backend;
}

function create(device: number): CudaBackend {
  // tfjs only prints what a factory throws, so the backend is made before it is registered.
  const driver = openDriver();
  requireModules();
  const backend = new CudaBackend(driver, device);
  registerCudaKernels();
  tf.registerBackend('cuda', () => backend, PRIORITY);
  return backend;
}
