import { D2DMoEError } from '@d2dmoe/core';
import type { Driver } from './driver.js';
import { CUDA_ERROR_NO_DEVICE, CUDA_ERROR_STUB_LIBRARY, check } from './errors.js';

/** What is worth knowing of a card. */
export interface DeviceProperties {
  /** As in `NVIDIA H200`. */
  readonly name: string;
  /** CUDA's number of the device in this process (CUDA_VISIBLE_DEVICES counts). */
  readonly ordinal: number;
  /** Streaming multiprocessors. */
  readonly multiprocessors: number;
  /** Major and minor version of what the card can do: [9, 0] is an H200. */
  readonly computeCapability: readonly [number, number];
  /** Size of the second-level cache in bytes. */
  readonly l2Bytes: number;
  /** Shared memory that one block may have when its kernel asks for it, in bytes. */
  readonly sharedPerBlockOptin: number;
  /** Device memory in bytes. */
  readonly totalMemory: number;
  /** CUDA version of the driver, as in [13, 0]. */
  readonly driverVersion: readonly [number, number];
  /** Whether this is the test emulator, not a card. */
  readonly isEmulated: boolean;
}

/** The oldest CUDA version whose driver serves (that of PTX 8.0), as cuDriverGetVersion counts: 1000 · major + 10 · minor. */
export const OLDEST_DRIVER = 12000;

const MULTIPROCESSOR_COUNT = 16;
const L2_CACHE_SIZE = 38;
const COMPUTE_CAPABILITY_MAJOR = 75;
const COMPUTE_CAPABILITY_MINOR = 76;
const MAX_SHARED_MEMORY_PER_BLOCK_OPTIN = 97;
const MEMORY_POOLS_SUPPORTED = 115;

/** CUDA version of the driver, as [13, 0]. */
export function driverVersion(driver: Driver): [number, number] {
  const version = new Int32Array(1);
  check(driver, driver.cuDriverGetVersion(version), 'cuDriverGetVersion');
  const number = version[0] ?? 0;
  return [Math.floor(number / 1000), Math.floor((number % 1000) / 10)];
}

/**
 * Starts the driver and counts the devices that this process sees.
 *
 * @returns The number of devices, at least 1.
 * @throws D2DMoEError CUDA_DRIVER_TOO_OLD, CUDA_NO_DEVICE, CUDA_NO_DRIVER (a stub library of the toolkit), CUDA_FAILED.
 */
export function startDriver(driver: Driver): number {
  const [major, minor] = driverVersion(driver);
  if (major * 1000 + minor * 10 < OLDEST_DRIVER) {
    throw new D2DMoEError(
      'CUDA_DRIVER_TOO_OLD',
      `The NVIDIA driver is of CUDA ${major}.${minor}, but CUDA ${OLDEST_DRIVER / 1000}.0 or newer is needed (driver 525 or newer): update the driver.`,
    );
  }
  const result = driver.cuInit(0);
  if (result === CUDA_ERROR_STUB_LIBRARY) {
    throw new D2DMoEError(
      'CUDA_NO_DRIVER',
      `${driver.file} is the toolkit's stub, not a driver: take its folder out of LD_LIBRARY_PATH, or install NVIDIA's driver.`,
    );
  }
  const count = new Int32Array(1);
  if (result !== CUDA_ERROR_NO_DEVICE) {
    check(driver, result, 'cuInit');
    check(driver, driver.cuDeviceGetCount(count), 'cuDeviceGetCount');
  }
  const devices = count[0] ?? 0;
  if (devices === 0) {
    const visible = process.env['CUDA_VISIBLE_DEVICES'];
    throw new D2DMoEError(
      'CUDA_NO_DEVICE',
      visible === undefined
        ? 'The CUDA driver finds no device: nvidia-smi says which are there; a container needs the GPU passed in (--gpus all).'
        : `The CUDA driver finds no device, with CUDA_VISIBLE_DEVICES="${visible}": unset it, or name devices that nvidia-smi lists.`,
    );
  }
  return devices;
}

/**
 * What the driver says of a device.
 *
 * @param ordinal From 0.
 * @throws D2DMoEError CUDA_NO_DEVICE where there is no such device; CUDA_FAILED.
 */
export function deviceProperties(
  driver: Driver,
  ordinal: number,
  devices: number,
): { handle: number; properties: DeviceProperties } {
  if (!Number.isInteger(ordinal) || ordinal < 0 || ordinal >= devices) {
    throw new D2DMoEError(
      'CUDA_NO_DEVICE',
      `There is no CUDA device ${ordinal}: this process sees ${devices}, counted from 0.`,
    );
  }
  const device = new Int32Array(1);
  check(driver, driver.cuDeviceGet(device, ordinal), 'cuDeviceGet');
  const handle = device[0] ?? 0;
  const name = new Uint8Array(256);
  check(driver, driver.cuDeviceGetName(name, name.length, handle), 'cuDeviceGetName');
  const text = Buffer.from(name).toString('utf8', 0, name.indexOf(0));
  const total = new BigUint64Array(1);
  check(driver, driver.cuDeviceTotalMem_v2(total, handle), 'cuDeviceTotalMem');
  const value = new Int32Array(1);
  const attribute = (number: number) => {
    check(driver, driver.cuDeviceGetAttribute(value, number, handle), 'cuDeviceGetAttribute');
    return value[0] ?? 0;
  };
  if (attribute(MEMORY_POOLS_SUPPORTED) === 0) {
    throw new D2DMoEError(
      'CUDA_FAILED',
      `${text} has no memory pools (cuMemAllocAsync), which this backend allocates from.`,
    );
  }
  const properties: DeviceProperties = {
    name: text,
    ordinal,
    multiprocessors: attribute(MULTIPROCESSOR_COUNT),
    computeCapability: [attribute(COMPUTE_CAPABILITY_MAJOR), attribute(COMPUTE_CAPABILITY_MINOR)],
    l2Bytes: attribute(L2_CACHE_SIZE),
    sharedPerBlockOptin: attribute(MAX_SHARED_MEMORY_PER_BLOCK_OPTIN),
    totalMemory: Number(total[0]),
    driverVersion: driverVersion(driver),
    isEmulated: text.startsWith('Emulated'),
  };
  return { handle, properties };
}
