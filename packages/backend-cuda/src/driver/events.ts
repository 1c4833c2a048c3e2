import type { Context } from './context.js';
import { CUDA_ERROR_NOT_READY, CUDA_SUCCESS, check, cudaError } from './errors.js';

const DISABLE_TIMING = 2;

/** How often setImmediate asks for an event before setTimeout does, to leave the processor to others in a long wait. */
const QUICK_POLLS = 200;

/** Events of the driver, reused. */
export class Events {
  readonly #context: Context;
  readonly #idle: { plain: number[]; timing: number[] } = { plain: [], timing: [] };
  readonly #out = new BigUint64Array(1);
  /** Whether dispose() was called: all work was done by then. */
  isDisposed = false;

  constructor(context: Context) {
    this.#context = context;
  }

  /** An event (CUevent) at the present end of the stream. */
  record(kind: 'plain' | 'timing'): number {
    const { driver, stream } = this.#context;
    let event = this.#idle[kind].pop();
    if (event === undefined) {
      const flags = kind === 'plain' ? DISABLE_TIMING : 0;
      check(driver, driver.cuEventCreate(this.#out, flags), 'cuEventCreate');
      event = Number(this.#out[0]);
    }
    check(driver, driver.cuEventRecord(event, stream), 'cuEventRecord');
    return event;
  }

  /** Gives an event back for reuse. */
  recycle(event: number, kind: 'plain' | 'timing'): void {
    this.#idle[kind].push(event);
  }

  /** Whether the device has got as far as the event. */
  isReached(event: number): boolean {
    if (this.isDisposed) return true;
    const { driver } = this.#context;
    const result = driver.cuEventQuery(event);
    if (result === CUDA_ERROR_NOT_READY) return false;
    if (result !== CUDA_SUCCESS) throw cudaError(driver, result, 'cuEventQuery');
    return true;
  }

  /** Resolves when the device has got as far as the event; the thread is free in between. */
  async reached(event: number): Promise<void> {
    for (let polls = 0; !this.isReached(event); polls++) {
      await new Promise<void>((resolve) => {
        if (polls < QUICK_POLLS) setImmediate(resolve);
        else setTimeout(resolve, 1);
      });
    }
  }

  /** Blocks the thread until the device has got as far as the event. */
  wait(event: number): void {
    const { driver } = this.#context;
    check(driver, driver.cuEventSynchronize(event), 'cuEventSynchronize');
  }

  /** Milliseconds of device time between two events of kind `timing`. */
  elapsed(start: number, end: number): number {
    const { driver } = this.#context;
    const milliseconds = new Float32Array(1);
    check(driver, driver.cuEventElapsedTime(milliseconds, start, end), 'cuEventElapsedTime');
    return milliseconds[0] ?? 0;
  }

  /** Comes after the stream was synchronized. */
  dispose(): void {
    this.isDisposed = true;
    for (const event of [...this.#idle.plain, ...this.#idle.timing]) {
      this.#context.driver.cuEventDestroy_v2(event);
    }
    this.#idle.plain.length = 0;
    this.#idle.timing.length = 0;
  }
}
