import { D2DMoEError } from '@d2dmoe/core';
import { WebGPUBackend } from '@tensorflow/tfjs-backend-webgpu';
import { checkAlive, watchDevice } from './lost.js';

type Program = Parameters<WebGPUBackend['runWebGPUProgram']>;

/**
 * tfjs's WebGPU backend with its silent failures made loud: what a lost device, a refused allocation or an invalid
 * command leaves undone would else be read back as zeros or whatever the buffer held.
 */
export class GuardedBackend extends WebGPUBackend {
  #failure: GPUError | undefined;
  #isDisposed = false;

  constructor(device: GPUDevice, info: GPUAdapterInfo) {
    super(device, info);
    watchDevice(device);
    device.addEventListener('uncapturederror', (event) => {
      event.preventDefault();
      this.#failure ??= event.error;
    });
  }

  get isDisposed(): boolean {
    return this.#isDisposed;
  }

  override runWebGPUProgram(...program: Program): ReturnType<WebGPUBackend['runWebGPUProgram']> {
    checkAlive(this.device);
    return super.runWebGPUProgram(...program);
  }

  /** @throws D2DMoEError `WEBGPU_DEVICE_LOST`, `WEBGPU_OUT_OF_MEMORY`, `WEBGPU_FAILED` */
  override async read(dataId: object): ReturnType<WebGPUBackend['read']> {
    let values: Awaited<ReturnType<WebGPUBackend['read']>>;
    try {
      values = await super.read(dataId);
    } catch (error) {
      // The device's own promise may come after those of its buffers.
      await new Promise((resolve) => setTimeout(resolve, 0));
      checkAlive(this.device);
      this.#report();
      throw error;
    }
    this.#report();
    return values;
  }

  override readSync(dataId: object): ReturnType<WebGPUBackend['readSync']> {
    const { values, dtype } = this.tensorMap.get(dataId);
    if (values == null && dtype !== 'string' && dtype !== 'complex64') {
      checkAlive(this.device);
      if (typeof OffscreenCanvas === 'undefined') {
        throw new D2DMoEError(
          'WEBGPU_SYNC_READ',
          'WebGPU reads tensors back asynchronously here: await data() in place of dataSync().',
        );
      }
    }
    return super.readSync(dataId);
  }

  /** Frees all tensors' memory and the device. */
  override dispose(): void {
    this.#isDisposed = true;
    super.dispose();
    this.device.destroy();
  }

  #report(): void {
    const failure = this.#failure;
    if (failure === undefined) return;
    this.#failure = undefined;
    if (failure instanceof GPUOutOfMemoryError) {
      const { numBytesAllocatedInGPU } = this.memory();
      throw new D2DMoEError(
        'WEBGPU_OUT_OF_MEMORY',
        `The GPU's memory does not suffice (tfjs holds ${numBytesAllocatedInGPU} bytes of it): use smaller batches, or dispose of tensors.`,
      );
    }
    throw new D2DMoEError(
      'WEBGPU_FAILED',
      `WebGPU refused a command: ${failure.message.split('\n')[0]}`,
    );
  }
}
