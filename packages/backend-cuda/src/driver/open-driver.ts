import { D2DMoEError } from '@d2dmoe/core';
import koffi, { type LibraryHandle } from 'koffi';
import type { Driver, DriverFunctions } from './driver.js';

/**
 * The functions' parameters, one word each: i int, u unsigned int, l 64 bits (size_t, CUdeviceptr or a handle), b a
 * byte, p a pointer to a typed array, s a string. All return int.
 */
const signatures: Record<keyof DriverFunctions, string> = {
  cuInit: 'u',
  cuDriverGetVersion: 'p',
  cuGetErrorName: 'i p',
  cuGetErrorString: 'i p',
  cuDeviceGetCount: 'p',
  cuDeviceGet: 'p i',
  cuDeviceGetName: 'p i i',
  cuDeviceGetAttribute: 'p i i',
  cuDeviceTotalMem_v2: 'p i',
  cuDevicePrimaryCtxRetain: 'p i',
  cuDevicePrimaryCtxRelease_v2: 'i',
  cuCtxSetCurrent: 'l',
  cuStreamCreate: 'p u',
  cuStreamDestroy_v2: 'l',
  cuStreamSynchronize: 'l',
  cuEventCreate: 'p u',
  cuEventRecord: 'l l',
  cuEventQuery: 'l',
  cuEventSynchronize: 'l',
  cuEventElapsedTime: 'p l l',
  cuEventDestroy_v2: 'l',
  cuModuleLoadDataEx: 'p p u p p',
  cuModuleUnload: 'l',
  cuModuleGetFunction: 'p l s',
  cuFuncSetAttribute: 'l i i',
  cuLaunchKernel: 'l u u u u u u u l l l',
  cuLaunchKernelEx: 'l l l l',
  cuMemGetInfo_v2: 'p p',
  cuMemAllocAsync: 'p l l',
  cuMemFreeAsync: 'l l',
  cuDeviceGetDefaultMemPool: 'p i',
  cuMemPoolSetAttribute: 'l i p',
  cuMemPoolTrimTo: 'l l',
  cuMemHostAlloc: 'p l u',
  cuMemFreeHost: 'l',
  cuMemcpyHtoDAsync_v2: 'l l l l',
  cuMemcpyDtoHAsync_v2: 'l l l l',
  cuMemcpyDtoDAsync_v2: 'l l l l',
  cuMemsetD8Async: 'l b l l',
  cuMemsetD32Async: 'l u l l',
  cuStreamBeginCapture_v2: 'l i',
  cuStreamEndCapture: 'l p',
  cuGraphInstantiateWithFlags: 'p l l',
  cuGraphLaunch: 'l l',
  cuGraphExecDestroy: 'l',
  cuGraphDestroy: 'l',
};

const types: Record<string, string> = {
  i: 'int',
  u: 'uint',
  l: 'uint64',
  b: 'uint8',
  p: 'void *',
  s: 'str',
};

/** File name of the driver's library: D2DMOE_LIBCUDA if that is set, else what the driver installs. */
export function driverLibrary(): string {
  const named = process.env['D2DMOE_LIBCUDA'];
  if (named !== undefined && named !== '') return named;
  return process.platform === 'win32' ? 'nvcuda.dll' : 'libcuda.so.1';
}

/**
 * Opens the CUDA driver.
 *
 * @throws D2DMoEError CUDA_NO_DRIVER where there is none; CUDA_DRIVER_TOO_OLD where it lacks a function that is needed.
 */
export function openDriver(): Driver {
  const library = driverLibrary();
  let handle: LibraryHandle;
  try {
    handle = koffi.load(library);
  } catch (error) {
    throw new D2DMoEError(
      'CUDA_NO_DRIVER',
      `The CUDA driver ${library} could not be opened (${error instanceof Error ? error.message : String(error)}): install NVIDIA's driver on this machine or, in a container, start it with the GPU (--gpus all); other backends run without.`,
      { cause: error },
    );
  }
  const functions: Record<string, unknown> = {};
  for (const [name, words] of Object.entries(signatures)) {
    const parameters = words.split(' ').map((word) => types[word] ?? word);
    try {
      functions[name] = handle.func(name, 'int', parameters);
    } catch (error) {
      throw new D2DMoEError(
        'CUDA_DRIVER_TOO_OLD',
        `${library} has no function ${name}, which CUDA has had since 11.8: a newer NVIDIA driver is needed.`,
        { cause: error },
      );
    }
  }
  return {
    ...(functions as unknown as DriverFunctions),
    file: library,
    hostMemory(bytes) {
      const pointer: unknown = koffi.alloc('uint8', bytes);
      return { address: Number(koffi.address(pointer)), buffer: koffi.view(pointer, bytes) };
    },
    view: (address, bytes) => koffi.view(BigInt(address), bytes),
    text: (address) => koffi.decode.string(BigInt(address)),
  };
}
