import { once } from 'node:events';
import {
  MessageChannel,
  type MessagePort,
  receiveMessageOnPort,
  Worker,
} from 'node:worker_threads';
import { D2DMoEError } from '@d2dmoe/core';
import type { GpuJsMode, Reply, Request, ThreadStart } from './protocol.js';

/**
 * The thread that runs gpu.js, with calls that return when it has answered: Node lets its main thread wait, which makes
 * of an asynchronous result one that a tfjs kernel can return. The thread does not keep the process alive.
 */
export class GpuJsCaller {
  readonly #worker: Worker;
  readonly #signal: Int32Array;
  readonly #port: MessagePort;

  private constructor(worker: Worker, signal: Int32Array, port: MessagePort) {
    this.#worker = worker;
    this.#signal = signal;
    this.#port = port;
  }

  /** @throws D2DMoEError `GPUJS_UNAVAILABLE` where gpu.js is not installed or does not start */
  static async start(mode: GpuJsMode): Promise<GpuJsCaller> {
    const buffer = new SharedArrayBuffer(4);
    const signal = new Int32Array(buffer);
    const { port1, port2 } = new MessageChannel();
    const start: ThreadStart = { mode, port: port2, signal: buffer };
    // From src, where tests run, as from dist: the entry is a built file.
    const worker = new Worker(new URL('../../dist/gpujs/thread.js', import.meta.url), {
      workerData: start,
      transferList: [port2],
      execArgv: [], // the process's own may name loaders that the entry has no use for
    });
    try {
      await once(worker, 'message');
    } catch (error) {
      throw new D2DMoEError(
        'GPUJS_UNAVAILABLE',
        `gpu.js does not start (${(error as Error).message}); it has to be installed: npm install gpu.js@2.24.1.`,
        { cause: error },
      );
    }
    // What ends it later is seen by the call that it leaves unanswered.
    worker.on('error', () => {});
    worker.unref();
    port1.unref();
    return new GpuJsCaller(worker, signal, port1);
  }

  /**
   * Waits for the answer.
   *
   * @returns how gpu.js ran
   * @throws D2DMoEError `GPUJS_FAILED` where gpu.js threw or its thread ended
   */
  call(request: Request): string {
    Atomics.store(this.#signal, 0, 0);
    this.post(request);
    Atomics.wait(this.#signal, 0, 0);
    const reply = receiveMessageOnPort(this.#port)?.message as Reply | undefined;
    if (reply && 'executor' in reply) return reply.executor;
    throw new D2DMoEError('GPUJS_FAILED', `gpu.js stopped: ${reply?.error ?? 'its thread ended'}.`);
  }

  /** Sends a request that has no answer. */
  post(request: Request): void {
    // oxlint-disable-next-line unicorn/require-post-message-target-origin -- a port's takes none
    this.#port.postMessage(request);
  }

  /** Ends the thread. */
  async dispose(): Promise<void> {
    await this.#worker.terminate();
  }
}
