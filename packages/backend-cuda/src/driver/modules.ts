import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { D2DMoEError } from '@d2dmoe/core';
import type { DeviceProperties } from './device.js';
import type { Driver, HostMemory } from './driver.js';
import {
  CUDA_ERROR_UNSUPPORTED_PTX_VERSION,
  CUDA_SUCCESS,
  check,
  cudaError,
  resultName,
} from './errors.js';
import { kernelsOf } from './kernels-of.js';

const JIT_ERROR_LOG_BUFFER = 5;
const JIT_ERROR_LOG_BUFFER_SIZE_BYTES = 6;
const LOG_BYTES = 8192;

/** Where the modules' PTX lies: D2DMOE_CUDA_MODULES if that is set, else dist/ptx of this package. */
export function moduleFolder(): string {
  // From src/driver and from dist/driver the package's root is two folders up.
  return (
    process.env['D2DMOE_CUDA_MODULES'] ?? fileURLToPath(new URL('../../dist/ptx', import.meta.url))
  );
}

/**
 * @throws D2DMoEError CUDA_KERNEL_MISSING where no module was built.
 */
export function requireModules(): void {
  const folder = moduleFolder();
  if (existsSync(folder) && readdirSync(folder).some((file) => file.endsWith('.ptx'))) return;
  throw new D2DMoEError(
    'CUDA_KERNEL_MISSING',
    `There are no kernel modules in ${folder}: a published package contains them; in a clone, node tools/build-cuda.mjs builds them and needs nvcc.`,
  );
}

/** The CUDA version whose driver first read a PTX version, as far as they differ. */
export function cudaOfPtx(version: string): string {
  const [major = 0, minor = 0] = version.split('.').map(Number);
  const known: Record<string, string> = { '8.6': '12.7', '8.7': '12.8', '8.8': '12.9' };
  return known[version] ?? `${major + 4}.${minor}`;
}

/** Kernels, each loaded by itself, and compiled for the card by the driver, when it is first asked for. */
export class Modules {
  readonly #driver: Driver;
  readonly #device: DeviceProperties;
  readonly #folder = moduleFolder();
  readonly #texts = new Map<string, (name: string) => string>();
  readonly #handles: number[] = [];
  readonly #out = new BigUint64Array(1);
  readonly #log: HostMemory;

  constructor(driver: Driver, device: DeviceProperties) {
    this.#driver = driver;
    this.#log = driver.hostMemory(LOG_BYTES);
    this.#device = device;
  }

  /**
   * The handle (CUfunction) of a kernel.
   *
   * @throws D2DMoEError CUDA_KERNEL_MISSING, CUDA_DRIVER_TOO_OLD, CUDA_FAILED.
   */
  function(module: string, name: string): number {
    const result = this.#driver.cuModuleGetFunction(this.#out, this.#load(module, name), name);
    check(this.#driver, result, `cuModuleGetFunction of ${name} in ${module}.ptx`);
    return Number(this.#out[0]);
  }

  unload(): void {
    for (const handle of this.#handles.splice(0)) this.#driver.cuModuleUnload(handle);
  }

  /** A module's kernels, read once. */
  #text(module: string): (name: string) => string {
    const known = this.#texts.get(module);
    if (known) return known;
    const file = this.#file(module);
    let text: string;
    try {
      text = readFileSync(file, 'latin1');
    } catch (error) {
      throw new D2DMoEError(
        'CUDA_KERNEL_MISSING',
        `The kernel module ${file} is not there: a published package contains it; in a clone, node tools/build-cuda.mjs builds it and needs nvcc.`,
        { cause: error },
      );
    }
    const kernels = kernelsOf(text);
    this.#texts.set(module, kernels);
    return kernels;
  }

  #file(module: string): string {
    return `${this.#folder}/${module}.ptx`;
  }

  #load(module: string, name: string): number {
    const text = this.#text(module)(name);
    const driver = this.#driver;
    const image = Buffer.from(`${text}\0`, 'latin1');
    const log = this.#log;
    new Uint8Array(log.buffer)[0] = 0;
    const options = new Int32Array([JIT_ERROR_LOG_BUFFER, JIT_ERROR_LOG_BUFFER_SIZE_BYTES]);
    const values = new BigUint64Array([BigInt(log.address), BigInt(LOG_BYTES)]);
    const result = driver.cuModuleLoadDataEx(this.#out, image, options.length, options, values);
    if (result === CUDA_ERROR_UNSUPPORTED_PTX_VERSION) throw this.#tooOld(module, text);
    if (result !== CUDA_SUCCESS) {
      const said = driver.text(log.address).trim();
      const call = `cuModuleLoadDataEx of ${name} in ${this.#file(module)}`;
      throw said === ''
        ? cudaError(driver, result, call)
        : new D2DMoEError(
            'CUDA_FAILED',
            `${call} failed with ${resultName(driver, result)}: ${said}`,
          );
    }
    const handle = Number(this.#out[0]);
    this.#handles.push(handle);
    return handle;
  }

  #tooOld(module: string, text: string): D2DMoEError {
    const version = /^\.version ([0-9.]+)/m.exec(text)?.[1] ?? 'unknown';
    const [major, minor] = this.#device.driverVersion;
    return new D2DMoEError(
      'CUDA_DRIVER_TOO_OLD',
      `The NVIDIA driver is of CUDA ${major}.${minor} and cannot read the kernel module ${module}, which is PTX ${version} and needs CUDA ${cudaOfPtx(version)} or newer: update the driver.`,
    );
  }
}
