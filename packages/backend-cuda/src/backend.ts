import { D2DMoEError } from '@d2dmoe/core';
import type {
  BackendTimingInfo,
  BackendValues,
  DataId,
  DataType,
  TensorInfo,
  TypedArray,
} from '@tensorflow/tfjs-core';
import { backend_util, DataStorage, engine, KernelBackend, util } from '@tensorflow/tfjs-core';
import { CollectionWatch } from './collection-watch.js';
import { Constants } from './constants.js';
import { Allocator, type Block } from './driver/allocator.js';
import { type Context, closeContext, openContext } from './driver/context.js';
import type { DeviceProperties } from './driver/device.js';
import type { Driver, HostMemory } from './driver/driver.js';
import { CUDA_SUCCESS, check, cudaError } from './driver/errors.js';
import { Events } from './driver/events.js';
import { CudaGraph } from './driver/graph.js';
import { LaunchConfig, type LaunchOptions } from './driver/launch-config.js';
import { Modules } from './driver/modules.js';
import { CHUNK_BYTES, ReadBuffers, UploadRing } from './driver/staging.js';
import {
  ARGUMENT_BYTES,
  type Argument,
  type ArgumentMemory,
  argumentMemory,
  type Kernel,
  kernel,
  packArguments,
} from './launch.js';
import {
  bytesOf,
  bytesPerElement,
  emptyValues,
  HALF_TYPES,
  type HalfType,
  type TensorRecord,
  typedValues,
} from './tensor-data.js';

/**
 * How float32 matrix products are computed: exactly, or with operands in TF32, bf16 or fp16; sums are float32. fp16 has
 * three more bits of mantissa than bf16 and nothing beyond 65,504; it is for inference, and gradients are in TF32 there.
 */
export type Precision = 'float32' | 'tf32' | HalfType;

/** Three sizes of a grid or a block. */
export type Extent = number | readonly [number, number, number];

/** A tensor that a kernel has made, with its device address. */
export type Output = TensorInfo & { readonly pointer: number };

const MAX_DYNAMIC_SHARED_SIZE_BYTES = 8;
/** Values of at most this many bytes stay on the host after their upload: kernels may ask for them (shapes, axes). */
const KEPT_HOST_BYTES = 1024;

const toHalf: Record<HalfType, Kernel> = {
  bf16: kernel('convert', 'convert_f32_to_bf16', 'p p l'),
  fp16: kernel('convert', 'convert_f32_to_f16', 'p p l'),
};
const fromHalf: Record<HalfType, Kernel> = {
  bf16: kernel('convert', 'convert_bf16_to_f32', 'p p l'),
  fp16: kernel('convert', 'convert_f16_to_f32', 'p p l'),
};

/**
 * TensorFlow.js on one NVIDIA GPU. All work goes to one stream, in order, and nothing but readSync waits for it.
 *
 * Tensors live on the device; what the host writes is uploaded when a kernel first asks for its address. A float32
 * tensor may exist in float32, in bf16 or fp16, or in several forms. Kernels are functions over device addresses: they take
 * {@link CudaBackend.pointer} of their inputs, make {@link CudaBackend.output} and {@link CudaBackend.launch}.
 */
export class CudaBackend extends KernelBackend {
  /** The card. */
  readonly device: DeviceProperties;
  /** The opened driver. */
  readonly driver: Driver;
  /** The CUDA stream (CUstream) of all work, for libraries that enqueue their own. */
  readonly stream: number;
  /** Of matrix products; may be changed between them. */
  precision: Precision = 'float32';
  /** Whether equal calls on equal inputs give equal bits; sums of experts are else added in whatever order they come. */
  deterministic = false;

  readonly #context: Context;
  readonly #allocator: Allocator;
  readonly #modules: Modules;
  readonly #events: Events;
  readonly #uploads: UploadRing;
  readonly #reads: ReadBuffers;
  readonly #constants: Constants;
  readonly #arguments: ArgumentMemory;
  readonly #argumentAddress: number;
  #launchConfig: LaunchConfig | undefined;
  /** By kernel, the addresses of its packed arguments, which is what cuLaunchKernel wants. */
  readonly #parameterLists = new Map<Kernel, HostMemory>();

  readonly #data: DataStorage<TensorRecord>;
  /** Reads that wait for the device. */
  readonly #reading = new Set<Generator<number, void>>();
  readonly #collected = new CollectionWatch((record) => this.#reclaim(record));
  #reclaimed = 0;

  /**
   * Opens a device. Most programs call `useCuda` in place of this.
   *
   * @param driver Made by `openDriver`.
   * @param device Number of the device, from 0.
   * @throws D2DMoEError CUDA_DRIVER_TOO_OLD, CUDA_NO_DEVICE, CUDA_OUT_OF_MEMORY, CUDA_DEVICE_LOST, CUDA_FAILED.
   */
  constructor(driver: Driver, device = 0) {
    super();
    this.driver = driver;
    this.#context = openContext(driver, device);
    this.device = this.#context.device;
    this.stream = this.#context.stream;
    this.#allocator = new Allocator(this.#context);
    this.#modules = new Modules(driver, this.device);
    this.#events = new Events(this.#context);
    this.#uploads = new UploadRing(this.#context, this.#events);
    this.#reads = new ReadBuffers(this.#context);
    this.#constants = new Constants({
      allocate: (bytes) => this.scratch(bytes),
      upload: (pointer, bytes) => this.#upload(pointer, bytes),
    });
    this.#data = new DataStorage(this, engine());

    const memory = driver.hostMemory(ARGUMENT_BYTES);
    this.#arguments = argumentMemory(memory.buffer);
    this.#argumentAddress = memory.address;
  }

  // ---- For kernels ------------------------------------------------------------------------------------------------

  /**
   * Device address of a tensor's float32, int32 or bool form. Uploads host values when first asked; converts where only
   * a form of 16 bits exists.
   */
  pointer(t: TensorInfo): number {
    const record = this.#data.get(t.dataId);
    return (record.block ?? this.#materialize(record)).pointer;
  }

  /** Device address of a float32 tensor's form of 16 bits, which is made once and kept with the tensor. */
  pointer16(t: TensorInfo, type: HalfType = 'bf16'): number {
    const record = this.#data.get(t.dataId);
    let block = record.halves[type];
    if (block === undefined) {
      if (record.dtype !== 'float32') {
        throw new D2DMoEError('CUDA_DTYPE', `A ${record.dtype} tensor has no ${type} form.`);
      }
      const from = (record.block ?? this.#materialize(record)).pointer;
      block = this.#allocator.allocate(record.size * 2);
      this.#convert(toHalf[type], from, block.pointer, record.size);
      record.halves[type] = block;
    }
    return block.pointer;
  }

  /** Device address for a kernel that writes the bf16 form of a float32 tensor beside the float32 one. */
  form16(t: TensorInfo): number {
    const record = this.#data.get(t.dataId);
    record.halves.bf16 ??= this.#allocator.allocate(record.size * 2);
    return record.halves.bf16.pointer;
  }

  /** Whether a form of 16 bits exists: a kernel that can read it in place of the float32 one then does. */
  has16(t: TensorInfo, type: HalfType = 'bf16'): boolean {
    return this.#data.get(t.dataId).halves[type] !== undefined;
  }

  /** Whether a float32 tensor exists in a form of 16 bits only: a kernel that moves elements then keeps that form. */
  isOnly16(t: TensorInfo, type: HalfType = 'bf16'): boolean {
    const { block, halves, values } = this.#data.get(t.dataId);
    return halves[type] !== undefined && block === undefined && values === undefined;
  }

  /** A tensor's values where the host has them, for checks that must not wait for the device. */
  knownValues(t: TensorInfo): TypedArray | undefined {
    const { values, dtype } = this.#data.get(t.dataId);
    return values === undefined ? undefined : (typedValues(values, dtype) as TypedArray);
  }

  /**
   * Device address for a kernel that changes a tensor in place (optimizers). Everything derived from the old values, the
   * host copy and the forms of 16 bits, is dropped.
   */
  mutablePointer(t: TensorInfo): number {
    const pointer = this.pointer(t);
    const record = this.#data.get(t.dataId);
    record.values = undefined;
    this.#freeHalves(record);
    return pointer;
  }

  /** A new tensor (float32, int32 or bool) with uninitialized device memory. */
  output(shape: readonly number[], dtype: DataType): Output {
    const size = util.sizeFromShape(shape as number[]);
    const block = this.#allocator.allocate(size * bytesPerElement(dtype));
    const dataId = this.#add(record(dtype, size, { block }));
    return { dataId, shape: shape as number[], dtype, pointer: block.pointer };
  }

  /** A new float32 tensor in an uninitialized form of 16 bits; whoever asks for its float32 form gets it converted. */
  output16(shape: readonly number[], type: HalfType = 'bf16'): Output {
    const size = util.sizeFromShape(shape as number[]);
    const block = this.#allocator.allocate(size * 2);
    const dataId = this.#add(record('float32', size, { halves: { [type]: block } }));
    return { dataId, shape: shape as number[], dtype: 'float32', pointer: block.pointer };
  }

  /** Another tensor over the same data: reshape, identity. */
  alias(t: TensorInfo, shape: readonly number[], dtype: DataType = t.dtype): TensorInfo {
    const record = this.#data.get(t.dataId);
    // tfjs does not know the parts of a complex tensor: what becomes a tensor of its own needs an identity of its own.
    if (record.isPart)
      return { dataId: this.#share(record, false), shape: shape as number[], dtype };
    record.refCount++;
    return { dataId: t.dataId, shape: shape as number[], dtype };
  }

  /** A complex64 tensor over the memory of two float32 ones of its shape. */
  complex(real: TensorInfo, imag: TensorInfo): TensorInfo {
    const { shape } = real;
    const part = (t: TensorInfo): TensorInfo => ({
      dataId: this.#share(this.#data.get(t.dataId), true),
      shape,
      dtype: 'float32',
    });
    const complexTensorInfos = { real: part(real), imag: part(imag) };
    const size = util.sizeFromShape(shape);
    return {
      dataId: this.#add(record('complex64', size, { complexTensorInfos })),
      shape,
      dtype: 'complex64',
    };
  }

  /** The two float32 tensors of a complex64 one; what is given out of a kernel has to be an {@link CudaBackend.alias}. */
  complexParts(t: TensorInfo): { readonly real: TensorInfo; readonly imag: TensorInfo } {
    const { complexTensorInfos } = this.#data.get(t.dataId);
    if (complexTensorInfos === undefined) {
      throw new D2DMoEError('CUDA_DTYPE', `A ${t.dtype} tensor has no real and imaginary parts.`);
    }
    return complexTensorInfos;
  }

  /** A tensor of host values, as other tfjs backends have it; strings are UTF-8 bytes. */
  makeTensorInfo(shape: readonly number[], dtype: DataType, values: BackendValues): TensorInfo {
    return {
      dataId: this.write(values, shape as number[], dtype),
      shape: shape as number[],
      dtype,
    };
  }

  /** Gives back a tensor that a kernel made on its way to its output. */
  disposeIntermediateTensorInfo(t: TensorInfo): void {
    this.disposeData(t.dataId);
  }

  /** Device memory for launches that are enqueued before free(). */
  scratch(bytes: number): { readonly pointer: number; free(): void } {
    const block = this.#allocator.allocate(bytes);
    return { pointer: block.pointer, free: () => this.#allocator.free(block) };
  }

  /**
   * Enqueues a kernel.
   *
   * @param grid Blocks, at most 65,535 in the second and third direction; nothing is launched where one is 0.
   * @param block Threads of a block, at most 1,024.
   * @param args One for each parameter: numbers, arrays for structs.
   * @param sharedBytes Dynamic shared memory of a block, at most `device.sharedPerBlockOptin`.
   * @param options What goes beyond that; compute capability 9.0.
   * @throws D2DMoEError CUDA_KERNEL_INVALID, CUDA_KERNEL_MISSING, CUDA_DEVICE_LOST, CUDA_FAILED.
   */
  launch(
    kernel: Kernel,
    grid: Extent,
    block: Extent,
    args: readonly Argument[],
    sharedBytes = 0,
    options?: LaunchOptions,
  ): void {
    let gridX = 1;
    let gridY = 1;
    let gridZ = 1;
    if (typeof grid === 'number') gridX = grid;
    else [gridX, gridY, gridZ] = grid;
    if (gridX === 0 || gridY === 0 || gridZ === 0) return;
    let blockX = 1;
    let blockY = 1;
    let blockZ = 1;
    if (typeof block === 'number') blockX = block;
    else [blockX, blockY, blockZ] = block;

    if (kernel.owner !== this) this.#resolve(kernel);
    if (sharedBytes > kernel.sharedBytes) this.#allowShared(kernel, sharedBytes);
    packArguments(kernel, args, this.#arguments);
    const { driver, stream } = this;
    const { handle, parameterList } = kernel;
    let result: number;
    if (options === undefined) {
      result = driver.cuLaunchKernel(
        handle,
        gridX,
        gridY,
        gridZ,
        blockX,
        blockY,
        blockZ,
        sharedBytes,
        stream,
        parameterList,
        0,
      );
    } else {
      const extents = [gridX, gridY, gridZ, blockX, blockY, blockZ];
      this.#launchConfig ??= new LaunchConfig(driver);
      const config = this.#launchConfig.write(extents, sharedBytes, stream, options);
      result = driver.cuLaunchKernelEx(config, handle, parameterList, 0);
    }
    if (result !== CUDA_SUCCESS) {
      const extents = `grid [${[gridX, gridY, gridZ].join()}], block [${[blockX, blockY, blockZ].join()}]`;
      const call = `cuLaunchKernel of ${kernel.name} (${extents}, ${sharedBytes} bytes shared)`;
      throw cudaError(this.driver, result, call);
    }
  }

  /** Fills device memory with zeros. */
  memset(pointer: number, bytes: number): void {
    if (bytes === 0) return;
    const result =
      pointer % 4 === 0 && bytes % 4 === 0
        ? this.driver.cuMemsetD32Async(pointer, 0, bytes / 4, this.stream)
        : this.driver.cuMemsetD8Async(pointer, 0, bytes, this.stream);
    check(this.driver, result, 'cuMemsetAsync');
  }

  /** Copies device memory to device memory; the two must not overlap. */
  copy(to: number, from: number, bytes: number): void {
    if (bytes === 0) return;
    const result = this.driver.cuMemcpyDtoDAsync_v2(to, from, bytes, this.stream);
    check(this.driver, result, 'cuMemcpyDtoDAsync');
  }

  /** Values of a small tensor that decide shapes. Waits for the device only if they exist there alone. */
  hostValues(t: TensorInfo): TypedArray {
    return this.readSync(t.dataId) as TypedArray;
  }

  /** Device address of a small table for launches that are enqueued next; equal tables share one copy. */
  constant(values: Int32Array | Float32Array): number {
    return this.#constants.pointer(values);
  }

  /** Blocks for a grid-stride loop over `items` with `block` threads each: at most four times what the card holds. */
  blocks(items: number, block = 256): number {
    const resident = this.device.multiprocessors * Math.max(1, Math.floor(2048 / block));
    return Math.min(Math.ceil(items / block), resident * 4);
  }

  /**
   * Records what `work` enqueues, in place of running it; see {@link CudaGraph}. Inside, nothing can be read back.
   *
   * @throws D2DMoEError CUDA_FAILED, CUDA_OUT_OF_MEMORY, and what `work` throws.
   */
  capture(work: () => void): CudaGraph {
    this.#uploads.turn();
    this.#constants.keepAll();
    return new CudaGraph(this.#context, this.#allocator, work);
  }

  /** Whether a graph is being recorded. */
  get isCapturing(): boolean {
    return this.#allocator.isCapturing;
  }

  /** Waits until the device has done all that was enqueued. */
  synchronize(): void {
    check(this.driver, this.driver.cuStreamSynchronize(this.stream), 'cuStreamSynchronize');
  }

  /** Gives memory that is cached for later tensors back to the system. */
  trim(): void {
    this.#allocator.trim();
  }

  // ---- What tfjs asks of a backend --------------------------------------------------------------------------------

  /** Keeps the values on the host; they are uploaded when a kernel first asks for them. */
  override write(values: BackendValues, shape: number[], dtype: DataType): DataId {
    return this.#add(record(dtype, util.sizeFromShape(shape), { values }));
  }

  /**
   * Takes over a tensor that another backend had, as {@link CudaBackend.write} does; complex values are split into
   * two parts.
   */
  override move(
    dataId: DataId,
    values: BackendValues,
    shape: number[],
    dtype: DataType,
    refCount: number,
  ): void {
    const size = util.sizeFromShape(shape);
    if (dtype !== 'complex64') {
      this.#set(dataId, { ...record(dtype, size, { values }), refCount });
      return;
    }
    const parts = backend_util.splitRealAndImagArrays(values as Float32Array);
    const part = (values: Float32Array): TensorInfo => ({
      dataId: this.#add({ ...record('float32', size, { values }), isPart: true }),
      shape,
      dtype: 'float32',
    });
    const complexTensorInfos = { real: part(parts.real), imag: part(parts.imag) };
    this.#set(dataId, { ...record(dtype, size, { complexTensorInfos }), refCount });
  }

  /**
   * The values; the thread is free while the device works. What is in 16 bits alone comes as float32.
   *
   * @throws D2DMoEError `CUDA_CAPTURE` while a graph is recorded, `CUDA_DEVICE_LOST`, `CUDA_FAILED`
   */
  override async read(dataId: DataId): Promise<BackendValues> {
    const record = this.#data.get(dataId);
    if (record.complexTensorInfos !== undefined) {
      const { real, imag } = record.complexTensorInfos;
      const parts = await Promise.all([this.read(real.dataId), this.read(imag.dataId)]);
      return backend_util.mergeRealAndImagArrays(...(parts as [Float32Array, Float32Array]));
    }
    if (record.values !== undefined) return typedValues(record.values, record.dtype);
    this.#refuseInCapture();
    const values = emptyValues(record.dtype, record.size);
    const steps = this.#fetch(record, bytesOf(values));
    this.#reading.add(steps);
    try {
      for (let step = steps.next(); step.done !== true; step = steps.next()) {
        await this.#events.reached(step.value);
      }
    } finally {
      this.#reading.delete(steps);
    }
    return values;
  }

  /**
   * As {@link CudaBackend.read}, but the thread waits for all work that was enqueued before.
   *
   * @throws D2DMoEError as {@link CudaBackend.read}
   */
  override readSync(dataId: DataId): BackendValues {
    const record = this.#data.get(dataId);
    if (record.complexTensorInfos !== undefined) {
      const { real, imag } = record.complexTensorInfos;
      return backend_util.mergeRealAndImagArrays(
        this.readSync(real.dataId) as Float32Array,
        this.readSync(imag.dataId) as Float32Array,
      );
    }
    if (record.values !== undefined) return typedValues(record.values, record.dtype);
    this.#refuseInCapture();
    const values = emptyValues(record.dtype, record.size);
    for (const event of this.#fetch(record, bytesOf(values))) this.#events.wait(event);
    return values;
  }

  /** Tensors that are alive, without those that were garbage collected and reclaimed. */
  override numDataIds(): number {
    return this.#data.numDataIds() - this.#reclaimed;
  }

  /** How many tensors share the data; 0 of data that are gone. */
  override refCount(dataId: DataId): number {
    return this.#data.has(dataId) ? this.#data.get(dataId).refCount : 0;
  }

  /** Notes one tensor more that shares the data. */
  override incRef(dataId: DataId): void {
    this.#data.get(dataId).refCount++;
  }

  /** Notes one tensor less; frees nothing. */
  decRef(dataId: DataId): void {
    if (this.#data.has(dataId)) this.#data.get(dataId).refCount--;
  }

  /**
   * Frees the data, on the device too, once no tensor shares them, or at once with `force`.
   *
   * @returns whether they are gone
   */
  override disposeData(dataId: DataId, force = false): boolean {
    if (!this.#data.has(dataId)) return true;
    const record = this.#data.get(dataId);
    record.refCount--;
    if (!force && record.refCount > 0) return false;
    this.#data.delete(dataId);
    this.#free(record);
    if (record.complexTensorInfos !== undefined) {
      this.disposeData(record.complexTensorInfos.real.dataId);
      this.disposeData(record.complexTensorInfos.imag.dataId);
    }
    return true;
  }

  /**
   * `numBytesInGPU` are in use, `numBytesInGPUFree` cached for later tensors, `numBytesInGPUAllocated` their sum.
   */
  override memory(): {
    unreliable: boolean;
    numBytesInGPU: number;
    numBytesInGPUAllocated: number;
    numBytesInGPUFree: number;
  } {
    const { held, cached } = this.#allocator;
    return {
      unreliable: false,
      numBytesInGPU: held,
      numBytesInGPUAllocated: held + cached,
      numBytesInGPUFree: cached,
    };
  }

  /** True: events on the stream measure {@link CudaBackend.time}. */
  override timerAvailable(): boolean {
    return true;
  }

  /** `kernelMs` is the device's time from the first to the last work that `f` enqueued, `wallMs` the host's until then. */
  override async time(f: () => void): Promise<BackendTimingInfo & { wallMs: number }> {
    const begin = performance.now();
    const start = this.#events.record('timing');
    f();
    const end = this.#events.record('timing');
    await this.#events.reached(end);
    const wallMs = performance.now() - begin;
    // Not thrown: tfjs's profiler waits for this promise where nobody could catch it.
    if (this.#events.isDisposed) {
      return { kernelMs: { error: 'The backend cuda was disposed while time() waited.' }, wallMs };
    }
    const kernelMs = this.#events.elapsed(start, end);
    this.#events.recycle(start, 'timing');
    this.#events.recycle(end, 'timing');
    return { kernelMs, wallMs };
  }

  /** Tensors are float32, whatever form they have on the device. */
  override floatPrecision(): 32 {
    return 32;
  }

  /** What tfjs adds to divisors: 1e-7. */
  override epsilon(): number {
    return 1e-7;
  }

  /** Waits for the device, ends the reads that are under way and gives everything back; tensors of this backend are gone. */
  override dispose(): void {
    this.driver.cuStreamSynchronize(this.stream);
    // What they read from and into goes with the context.
    for (const steps of this.#reading) {
      for (const event of steps) this.#events.wait(event);
    }
    this.#allocator.dispose();
    this.#modules.unload();
    this.#events.dispose();
    this.#uploads.dispose();
    this.#reads.dispose();
    closeContext(this.#context);
  }

  // ---- Inside -----------------------------------------------------------------------------------------------------

  #add(record: TensorRecord): DataId {
    const dataId = {};
    this.#set(dataId, record);
    return dataId;
  }

  #set(dataId: DataId, record: TensorRecord): void {
    this.#data.set(dataId, record);
    this.#collected.watch(dataId, record);
  }

  /** New data over the same memory. */
  #share(from: TensorRecord, isPart: boolean): DataId {
    if (from.block !== undefined) this.#allocator.retain(from.block);
    for (const block of Object.values(from.halves)) this.#allocator.retain(block);
    return this.#add({ ...from, halves: { ...from.halves }, refCount: 1, isPart });
  }

  #free(record: TensorRecord): void {
    record.refCount = 0;
    if (record.block !== undefined) this.#allocator.free(record.block);
    this.#freeHalves(record);
    record.block = undefined;
    record.values = undefined;
  }

  #freeHalves({ halves }: TensorRecord): void {
    for (const type of HALF_TYPES) {
      const block = halves[type];
      if (block !== undefined) this.#allocator.free(block);
      delete halves[type];
    }
  }

  /** Called after the garbage collector has taken a tensor; those that were disposed hold nothing any more. */
  #reclaim(record: TensorRecord): void {
    if (record.refCount === 0) return;
    if (this.#reclaimed === 0) {
      backend_util.warn(
        'A tensor on the backend cuda was garbage collected without dispose(); its device memory is reclaimed, but only when the collector runs. Use tf.tidy or dispose(). This is said once.',
      );
    }
    this.#reclaimed++;
    this.#free(record);
  }

  #materialize(record: TensorRecord): Block {
    const block = this.#allocator.allocate(record.size * bytesPerElement(record.dtype));
    const type = HALF_TYPES.find((type) => record.halves[type] !== undefined);
    const half = type && record.halves[type];
    if (type !== undefined && half !== undefined) {
      this.#convert(fromHalf[type], half.pointer, block.pointer, record.size);
    } else if (record.values !== undefined) {
      const values = typedValues(record.values, record.dtype) as TypedArray;
      this.#upload(block.pointer, bytesOf(values));
      this.#allocator.markFilled(block);
      if (values.byteLength > KEPT_HOST_BYTES) record.values = undefined;
    }
    record.block = block;
    return block;
  }

  #upload(pointer: number, bytes: Uint8Array): void {
    if (this.#allocator.isCapturing) this.#uploads.uploadAside(pointer, bytes);
    else this.#uploads.upload(pointer, bytes);
  }

  #convert(kernel: Kernel, from: number, to: number, size: number): void {
    const vectors = Math.ceil(size / 4);
    this.launch(kernel, this.blocks(vectors), 256, [from, to, size]);
  }

  /** Enqueues the copy of one chunk to the host; the event is reached when it is there. */
  /** Copies a tensor's memory to the host in steps, each of which is to go on once the event that it gave is reached. */
  *#fetch(record: TensorRecord, bytes: Uint8Array): Generator<number, void> {
    const { driver, stream } = this;
    const block = record.block ?? this.#materialize(record);
    const buffer = this.#reads.take();
    this.#allocator.retain(block);
    try {
      for (let done = 0; done < bytes.length; done += CHUNK_BYTES) {
        const count = Math.min(CHUNK_BYTES, bytes.length - done);
        const from = block.pointer + done;
        const result = driver.cuMemcpyDtoHAsync_v2(buffer.address, from, count, stream);
        check(driver, result, 'cuMemcpyDtoHAsync');
        const event = this.#events.record('plain');
        yield event;
        this.#events.recycle(event, 'plain');
        bytes.set(buffer.bytes.subarray(0, count), done);
      }
    } finally {
      this.#allocator.free(block);
      this.#reads.recycle(buffer);
    }
  }

  #refuseInCapture(): void {
    if (!this.#allocator.isCapturing) return;
    throw new D2DMoEError(
      'CUDA_CAPTURE',
      'A tensor was read while a CUDA graph is recorded, when nothing runs: read it before or after.',
    );
  }

  #resolve(kernel: Kernel): void {
    kernel.handle = this.#modules.function(kernel.module, kernel.name);
    kernel.sharedBytes = 48 * 1024;
    kernel.parameterList = this.#parameterList(kernel);
    kernel.owner = this;
  }

  /** Arguments are packed at the same place for every launch, so that their addresses never change. */
  #parameterList(kernel: Kernel): number {
    let list = this.#parameterLists.get(kernel);
    if (list === undefined) {
      const addresses = kernel.parameters
        .filter(({ isJoined }) => !isJoined)
        .map(({ offset }) => BigInt(this.#argumentAddress + offset));
      list = this.driver.hostMemory(8 * Math.max(1, addresses.length));
      new BigUint64Array(list.buffer, 0, addresses.length).set(addresses);
      this.#parameterLists.set(kernel, list);
    }
    return list.address;
  }

  #allowShared(kernel: Kernel, bytes: number): void {
    const { driver } = this;
    const result = driver.cuFuncSetAttribute(kernel.handle, MAX_DYNAMIC_SHARED_SIZE_BYTES, bytes);
    check(
      driver,
      result,
      `cuFuncSetAttribute of ${kernel.name} to ${bytes} bytes of shared memory`,
    );
    kernel.sharedBytes = bytes;
  }
}

function record(
  dtype: DataType,
  size: number,
  parts: Partial<Pick<TensorRecord, 'values' | 'block' | 'halves' | 'complexTensorInfos'>>,
): TensorRecord {
  const { values, block, halves = {}, complexTensorInfos } = parts;
  return {
    dtype,
    size,
    refCount: 1,
    // tfjs writes data without values too.
    values: values ?? undefined,
    block,
    halves,
    complexTensorInfos,
    isPart: false,
  };
}
