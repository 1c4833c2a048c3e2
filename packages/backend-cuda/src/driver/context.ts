import { type DeviceProperties, deviceProperties, startDriver } from './device.js';
import type { Driver } from './driver.js';
import { check } from './errors.js';

const STREAM_NON_BLOCKING = 1;

/** A device's primary context, current on this thread, and two streams of it. */
export interface Context {
  readonly driver: Driver;
  readonly device: DeviceProperties;
  /** CUdevice. */
  readonly deviceHandle: number;
  /** The stream (CUstream) that all work goes to, in order. */
  readonly stream: number;
  /** A stream for what must not become part of a graph that is being captured from the other one. */
  readonly sideStream: number;
}

function createStream(driver: Driver): number {
  const stream = new BigUint64Array(1);
  check(driver, driver.cuStreamCreate(stream, STREAM_NON_BLOCKING), 'cuStreamCreate');
  return Number(stream[0]);
}

/**
 * Makes a device's primary context current on the calling thread. The driver counts who retains it, so that threads,
 * and other libraries in the process, share one.
 *
 * @param ordinal Number of the device, from 0.
 * @throws D2DMoEError CUDA_NO_DRIVER, CUDA_DRIVER_TOO_OLD, CUDA_NO_DEVICE, CUDA_DEVICE_LOST, CUDA_FAILED.
 */
export function openContext(driver: Driver, ordinal: number): Context {
  const devices = startDriver(driver);
  const { handle, properties } = deviceProperties(driver, ordinal, devices);
  const context = new BigUint64Array(1);
  check(driver, driver.cuDevicePrimaryCtxRetain(context, handle), 'cuDevicePrimaryCtxRetain');
  check(driver, driver.cuCtxSetCurrent(Number(context[0])), 'cuCtxSetCurrent');
  const stream = createStream(driver);
  const sideStream = createStream(driver);
  return { driver, device: properties, deviceHandle: handle, stream, sideStream };
}

/** Waits for all work, then gives streams and context back. */
export function closeContext({ driver, deviceHandle, stream, sideStream }: Context): void {
  driver.cuStreamSynchronize(stream);
  driver.cuStreamDestroy_v2(stream);
  driver.cuStreamDestroy_v2(sideStream);
  driver.cuDevicePrimaryCtxRelease_v2(deviceHandle);
}
