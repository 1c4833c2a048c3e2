import { D2DMoEError } from '@d2dmoe/core';
import type { Driver } from './driver.js';

/** Results of driver calls (CUresult) that are told apart. */
export const CUDA_SUCCESS = 0;
export const CUDA_ERROR_OUT_OF_MEMORY = 2;
export const CUDA_ERROR_STUB_LIBRARY = 34;
export const CUDA_ERROR_NO_DEVICE = 100;
export const CUDA_ERROR_UNSUPPORTED_PTX_VERSION = 222;
export const CUDA_ERROR_NOT_READY = 600;

/**
 * Results after which the context cannot be used any more: uncorrectable ECC errors, NVLink errors, contained errors,
 * illegal addresses, time-outs, a destroyed context, asserts, bad instructions, addresses and stacks.
 */
const STICKY = new Set([214, 220, 226, 700, 702, 709, 710, 714, 715, 716, 717, 718, 719, 721, 810]);

/** Whether a result says that the device's context is lost for this process. */
export function isSticky(result: number): boolean {
  return STICKY.has(result);
}

/** `NAME (text)` of a result, as the driver names it. */
export function resultName(driver: Driver, result: number): string {
  const out = new BigUint64Array(1);
  const read = (failed: number) =>
    failed !== CUDA_SUCCESS || out[0] === 0n ? undefined : driver.text(Number(out[0]));
  const name = read(driver.cuGetErrorName(result, out));
  if (name === undefined) return `error ${result}`;
  return `${name} (${read(driver.cuGetErrorString(result, out)) ?? 'no description'})`;
}

/** The error of a driver call that failed: CUDA_DEVICE_LOST after what a context does not survive, else CUDA_FAILED. */
export function cudaError(driver: Driver, result: number, call: string): D2DMoEError {
  const what = `${call} failed with ${resultName(driver, result)}`;
  if (!isSticky(result)) return new D2DMoEError('CUDA_FAILED', `${what}.`);
  return new D2DMoEError(
    'CUDA_DEVICE_LOST',
    `${what}: this process has lost the device, and every tensor on it, and no later call can succeed; start the process anew (CUDA_LAUNCH_BLOCKING=1 makes the call that is to blame be the one named).`,
  );
}

/**
 * Throws where a driver call did not succeed.
 *
 * @throws D2DMoEError CUDA_DEVICE_LOST or CUDA_FAILED, which name the call.
 */
export function check(driver: Driver, result: number, call: string): void {
  if (result !== CUDA_SUCCESS) throw cudaError(driver, result, call);
}
