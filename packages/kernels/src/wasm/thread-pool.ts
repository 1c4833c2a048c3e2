import { D2DMoEError } from '@d2dmoe/core';
import { JobBoard, maxParts } from './job-board.js';
import { kernelList, kernelNames, type PartKernel, type ThreadStart } from './kernel-module.js';

/** A thread that was started. */
export interface Thread {
  /** Resolves when it waits for jobs, rejects where it ended before that. */
  ready: Promise<void>;
  /** Why it ended, as soon as it is known to have. */
  ended(): string | undefined;
  /** Ends it, in the middle of a job too. */
  terminate(): Promise<void>;
}

/** Where threads come from: Node, or a page. */
export interface ThreadSource {
  /** How many can run at once. */
  cores: () => number;
  /** Starts a thread; it must neither keep the process alive nor outlive it. */
  start: (start: ThreadStart) => Thread;
}

/**
 * Runs kernels of a wasm module in several threads over one memory. A kernel for it takes three numbers after its own
 * arguments, (thread, part, parts), and does its share of the work; the result must not depend on `parts`.
 */
export class ThreadPool {
  /** How many threads work, the calling one included. */
  readonly threads: number;
  /** Absent with one thread: a page that is not isolated has no SharedArrayBuffer. */
  readonly #board: JobBoard | undefined;
  readonly #kernels: PartKernel[];
  readonly #indices: Map<string, number>;
  readonly #workers: Thread[] = [];
  #stopped: string | undefined;

  private constructor(instance: WebAssembly.Instance, module: WebAssembly.Module, threads: number) {
    this.threads = threads;
    if (threads > 1) this.#board = new JobBoard();
    this.#kernels = kernelList(instance, module);
    this.#indices = new Map(kernelNames(module).map((name, i) => [name, i]));
  }

  /**
   * Starts the threads.
   *
   * @param instance the calling thread's
   * @param threads 1 starts none and needs no shared memory
   * @throws D2DMoEError `THREADS_UNAVAILABLE` where a thread does not start
   */
  static async create(
    instance: WebAssembly.Instance,
    over: Pick<ThreadStart, 'module' | 'memory'>,
    threads: number,
    start: ThreadSource['start'],
  ): Promise<ThreadPool> {
    const pool = new ThreadPool(instance, over.module, threads);
    try {
      for (let thread = 1; pool.#board && thread < threads; thread++) {
        pool.#workers.push(start({ board: pool.#board.buffer, ...over, thread }));
      }
      await Promise.all(pool.#workers.map(({ ready }) => ready));
    } catch (error) {
      await pool.dispose();
      throw new D2DMoEError(
        'THREADS_UNAVAILABLE',
        `A thread for the wasm kernels does not start (${(error as Error).message}); threads: 1 needs none.`,
        { cause: error },
      );
    }
    return pool;
  }

  /**
   * Runs one kernel and returns when all of it is done.
   *
   * @param kernel its exported name
   * @param values its arguments before (thread, part, parts)
   * @param parts into how many parts at most to cut the work; 1 runs it in the calling thread
   * @throws D2DMoEError `THREAD_FAILED` where a part stopped or a thread has ended
   */
  run(kernel: string, values: readonly number[], parts: number): void {
    const index = this.#indices.get(kernel) as number;
    const board = this.#board;
    if (parts <= 1 || !board) {
      (this.#kernels[index] as PartKernel)(...values, 0, 0, 1);
      return;
    }
    this.#stopped ??= this.#workers.map((worker) => worker.ended()).find((end) => end);
    if (this.#stopped !== undefined) throw failure(kernel, this.#stopped);
    board.publish(index, values, Math.min(parts, maxParts));
    board.work(this.#kernels, 0);
    if (!board.finished()) {
      this.#stopped = 'a thread has not answered for a minute';
      throw failure(kernel, this.#stopped);
    }
    const reason = board.failure();
    if (reason !== undefined) throw failure(kernel, reason);
  }

  /** Ends the threads. Jobs of one part still run. */
  async dispose(): Promise<void> {
    this.#stopped = 'the pool was disposed of';
    await Promise.all(this.#workers.map((worker) => worker.terminate()));
  }
}

function failure(kernel: string, reason: string): D2DMoEError {
  return new D2DMoEError(
    'THREAD_FAILED',
    `The wasm kernel ${kernel} was not finished by its threads: ${reason}.`,
  );
}
