/** Memory of the host at a fixed address, seen from JavaScript through `buffer`. */
export interface HostMemory {
  readonly address: number;
  readonly buffer: ArrayBuffer;
}

/** Receives one 64-bit handle or count. */
export type Out64 = BigUint64Array;

/**
 * The functions of the CUDA driver API that this package calls, by their exported names, as cuda.h of CUDA 13 declares
 * them. Every one returns a CUresult. Handles and device addresses are numbers: all are below 2^53. What the driver
 * writes to is a typed array; what it must find again later is an address of {@link HostMemory}.
 */
export interface DriverFunctions {
  cuInit(flags: number): number;
  cuDriverGetVersion(version: Int32Array): number;
  cuGetErrorName(error: number, name: Out64): number;
  cuGetErrorString(error: number, text: Out64): number;

  cuDeviceGetCount(count: Int32Array): number;
  cuDeviceGet(device: Int32Array, ordinal: number): number;
  cuDeviceGetName(name: Uint8Array, length: number, device: number): number;
  cuDeviceGetAttribute(value: Int32Array, attribute: number, device: number): number;
  cuDeviceTotalMem_v2(bytes: Out64, device: number): number;
  cuDevicePrimaryCtxRetain(context: Out64, device: number): number;
  cuDevicePrimaryCtxRelease_v2(device: number): number;
  cuCtxSetCurrent(context: number): number;

  cuStreamCreate(stream: Out64, flags: number): number;
  cuStreamDestroy_v2(stream: number): number;
  cuStreamSynchronize(stream: number): number;
  cuEventCreate(event: Out64, flags: number): number;
  cuEventRecord(event: number, stream: number): number;
  cuEventQuery(event: number): number;
  cuEventSynchronize(event: number): number;
  cuEventElapsedTime(milliseconds: Float32Array, start: number, end: number): number;
  cuEventDestroy_v2(event: number): number;

  cuModuleLoadDataEx(
    module: Out64,
    image: Uint8Array,
    count: number,
    options: Int32Array,
    values: Out64,
  ): number;
  cuModuleUnload(module: number): number;
  cuModuleGetFunction(func: Out64, module: number, name: string): number;
  cuFuncSetAttribute(func: number, attribute: number, value: number): number;
  cuLaunchKernel(
    func: number,
    gridX: number,
    gridY: number,
    gridZ: number,
    blockX: number,
    blockY: number,
    blockZ: number,
    sharedBytes: number,
    stream: number,
    params: number,
    extra: number,
  ): number;
  cuLaunchKernelEx(config: number, func: number, params: number, extra: number): number;

  cuMemGetInfo_v2(free: Out64, total: Out64): number;
  cuMemAllocAsync(pointer: Out64, bytes: number, stream: number): number;
  cuMemFreeAsync(pointer: number, stream: number): number;
  cuDeviceGetDefaultMemPool(pool: Out64, device: number): number;
  cuMemPoolSetAttribute(pool: number, attribute: number, value: Out64): number;
  cuMemPoolTrimTo(pool: number, bytes: number): number;
  cuMemHostAlloc(pointer: Out64, bytes: number, flags: number): number;
  cuMemFreeHost(pointer: number): number;
  cuMemcpyHtoDAsync_v2(to: number, from: number, bytes: number, stream: number): number;
  cuMemcpyDtoHAsync_v2(to: number, from: number, bytes: number, stream: number): number;
  cuMemcpyDtoDAsync_v2(to: number, from: number, bytes: number, stream: number): number;
  cuMemsetD8Async(to: number, value: number, count: number, stream: number): number;
  cuMemsetD32Async(to: number, value: number, count: number, stream: number): number;

  cuStreamBeginCapture_v2(stream: number, mode: number): number;
  cuStreamEndCapture(stream: number, graph: Out64): number;
  cuGraphInstantiateWithFlags(exec: Out64, graph: number, flags: number): number;
  cuGraphLaunch(exec: number, stream: number): number;
  cuGraphExecDestroy(exec: number): number;
  cuGraphDestroy(graph: number): number;
}

/**
 * An opened CUDA driver: its functions, and how JavaScript and C see each other's memory. The real one is made by
 * `openDriver`; tests of what needs no device make their own.
 */
export interface Driver extends DriverFunctions {
  /** File name of the library. */
  readonly library: string;
  /** Memory that stays where it is until the process ends. */
  hostMemory(bytes: number): HostMemory;
  /** Memory of the driver's (cuMemHostAlloc), seen from JavaScript. Called once for each address. */
  view(address: number, bytes: number): ArrayBuffer;
  /** A C string. */
  text(address: number): string;
}
