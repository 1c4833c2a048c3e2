/** Memory of the host at a fixed address, seen from JavaScript through `buffer`. */
export interface HostMemory {
  /** What C calls it. */
  readonly address: number;
  /** What JavaScript sees there; length in bytes. */
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
  /** Starts the driver; every other function needs it. `flags` is 0. */
  cuInit(flags: number): number;
  /** Version of CUDA that the driver has: 1000 · major + 10 · minor. */
  cuDriverGetVersion(version: Int32Array): number;
  /** Address of the constant's name, a C string. */
  cuGetErrorName(error: number, name: Out64): number;
  /** Address of a sentence on the error, a C string. */
  cuGetErrorString(error: number, text: Out64): number;

  /** Number of cards that the process may use. */
  cuDeviceGetCount(count: Int32Array): number;
  /** Handle of the card with a number, from 0. */
  cuDeviceGet(device: Int32Array, ordinal: number): number;
  /** The card's name, a C string of at most `length` bytes. */
  cuDeviceGetName(name: Uint8Array, length: number, device: number): number;
  /** One property (CUdevice_attribute) of a card. */
  cuDeviceGetAttribute(value: Int32Array, attribute: number, device: number): number;
  /** Bytes of the card's memory. */
  cuDeviceTotalMem_v2(bytes: Out64, device: number): number;
  /** The context that all libraries in the process share, made if needed and counted. */
  cuDevicePrimaryCtxRetain(context: Out64, device: number): number;
  /** Gives the shared context back; the last one to do so ends it. */
  cuDevicePrimaryCtxRelease_v2(device: number): number;
  /** The context of the calling thread's further calls. */
  cuCtxSetCurrent(context: number): number;

  /** A queue of work. `flags` 1 does not wait for the default stream. */
  cuStreamCreate(stream: Out64, flags: number): number;
  /** Frees a stream once its work is done. */
  cuStreamDestroy_v2(stream: number): number;
  /** Waits until a stream has done all its work. */
  cuStreamSynchronize(stream: number): number;
  /** A mark in a stream. `flags` 0 measures times, 2 does not. */
  cuEventCreate(event: Out64, flags: number): number;
  /** Puts the mark at the end of the stream's work so far. */
  cuEventRecord(event: number, stream: number): number;
  /** Whether the mark is reached: 0, or 600 for not yet. */
  cuEventQuery(event: number): number;
  /** Waits until the mark is reached. */
  cuEventSynchronize(event: number): number;
  /** Milliseconds on the device between two marks that were reached. */
  cuEventElapsedTime(milliseconds: Float32Array, start: number, end: number): number;
  /** Frees a mark. */
  cuEventDestroy_v2(event: number): number;

  /** Compiles PTX, which ends in a 0 byte, with `count` options (CUjit_option) and their values. */
  cuModuleLoadDataEx(
    module: Out64,
    image: Uint8Array,
    count: number,
    options: Int32Array,
    values: Out64,
  ): number;
  /** Frees a module and its functions. */
  cuModuleUnload(module: number): number;
  /** Handle of a kernel of the module. */
  cuModuleGetFunction(func: Out64, module: number, name: string): number;
  /** Sets a property (CUfunction_attribute) of a kernel, as its dynamic shared memory. */
  cuFuncSetAttribute(func: number, attribute: number, value: number): number;
  /**
   * Enqueues a kernel: blocks, threads of a block, bytes of shared memory, and the address of the arguments'
   * addresses. `extra` is 0.
   */
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
  /** The same with a CUlaunchConfig at an address: clusters, and launches that overlap the work before. */
  cuLaunchKernelEx(config: number, func: number, params: number, extra: number): number;

  /** Bytes of the card that are free now, and all. */
  cuMemGetInfo_v2(free: Out64, total: Out64): number;
  /** Device memory that may be used by what is enqueued next. */
  cuMemAllocAsync(pointer: Out64, bytes: number, stream: number): number;
  /** Gives device memory back after what is enqueued. */
  cuMemFreeAsync(pointer: number, stream: number): number;
  /** The pool that {@link DriverFunctions.cuMemAllocAsync} takes from. */
  cuDeviceGetDefaultMemPool(pool: Out64, device: number): number;
  /** Sets a property (CUmemPool_attribute), as how much the pool keeps. */
  cuMemPoolSetAttribute(pool: number, attribute: number, value: Out64): number;
  /** Gives what the pool does not use back to the system, down to some bytes. */
  cuMemPoolTrimTo(pool: number, bytes: number): number;
  /** Memory of the host that the card copies from and to without a detour. */
  cuMemHostAlloc(pointer: Out64, bytes: number, flags: number): number;
  /** Frees what {@link DriverFunctions.cuMemHostAlloc} gave. */
  cuMemFreeHost(pointer: number): number;
  /** Enqueues a copy from the host to the device. */
  cuMemcpyHtoDAsync_v2(to: number, from: number, bytes: number, stream: number): number;
  /** Enqueues a copy from the device to the host. */
  cuMemcpyDtoHAsync_v2(to: number, from: number, bytes: number, stream: number): number;
  /** Enqueues a copy within the device; the two must not overlap. */
  cuMemcpyDtoDAsync_v2(to: number, from: number, bytes: number, stream: number): number;
  /** Enqueues filling with a byte, `count` times. */
  cuMemsetD8Async(to: number, value: number, count: number, stream: number): number;
  /** Enqueues filling with a 32-bit word, `count` times. */
  cuMemsetD32Async(to: number, value: number, count: number, stream: number): number;

  /** From here on a stream records its work in place of doing it. */
  cuStreamBeginCapture_v2(stream: number, mode: number): number;
  /** Ends the recording and gives what was recorded. */
  cuStreamEndCapture(stream: number, graph: Out64): number;
  /** A recording made ready to run. */
  cuGraphInstantiateWithFlags(exec: Out64, graph: number, flags: number): number;
  /** Enqueues all work of a recording at once. */
  cuGraphLaunch(exec: number, stream: number): number;
  /** Frees what was made ready to run. */
  cuGraphExecDestroy(exec: number): number;
  /** Frees a recording. */
  cuGraphDestroy(graph: number): number;
}

/**
 * An opened CUDA driver: its functions, and how JavaScript and C see each other's memory. The real one is made by
 * `openDriver`; tests of what needs no device make their own.
 */
export interface Driver extends DriverFunctions {
  /** File name of the library. */
  readonly file: string;
  /** Memory that stays where it is until the process ends. */
  hostMemory(bytes: number): HostMemory;
  /** Memory of the driver's (cuMemHostAlloc), seen from JavaScript. Called once for each address. */
  view(address: number, bytes: number): ArrayBuffer;
  /** A C string. */
  text(address: number): string;
}
