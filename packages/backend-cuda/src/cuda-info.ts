import { D2DMoEError } from '@d2dmoe/core';
import {
  type DeviceProperties,
  deviceProperties,
  driverVersion,
  startDriver,
} from './driver/device.js';
import type { Driver } from './driver/driver.js';
import { openDriver } from './driver/open-driver.js';
import { openCublasLt } from './products/cublas-lt.js';

/** What {@link cudaInfo} finds. */
export interface CudaInfo {
  /** File name of the driver's library and the CUDA version that it is of; absent where there is no driver. */
  driver?: { library: string; version: readonly [number, number] };
  /** The cards that this process sees. */
  devices: DeviceProperties[];
  /** Libraries that are used where they are found: the file that would be opened, or why it cannot be. */
  libraries: { cublasLt?: string };
  /** Why the backend cannot be used, with the code of the error that `useCuda` would throw; absent where it can. */
  problem?: { code: string; message: string };
}

/** What this machine offers the backend `cuda`, or why nothing. Takes no memory on a card, and never throws. */
export function cudaInfo(open: () => Driver = openDriver): CudaInfo {
  const info: CudaInfo = { devices: [], libraries: libraries() };
  try {
    const driver = open();
    info.driver = { library: driver.file, version: driverVersion(driver) };
    const count = startDriver(driver);
    for (let ordinal = 0; ordinal < count; ordinal++) {
      info.devices.push(deviceProperties(driver, ordinal, count).properties);
    }
  } catch (error) {
    info.problem = D2DMoEError.isInstance(error)
      ? { code: error.code, message: error.message }
      : { code: 'CUDA_FAILED', message: String(error) };
  }
  return info;
}

function libraries(): CudaInfo['libraries'] {
  try {
    const found = openCublasLt();
    return found === undefined ? {} : { cublasLt: found.file };
  } catch (error) {
    return { cublasLt: error instanceof Error ? error.message : String(error) };
  }
}
