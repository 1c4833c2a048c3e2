import type { PartKernel } from './kernel-module.js';

/**
 * Where a thread pool's threads find their work: a little shared memory, the same for Node and pages.
 *
 * A job is one call of a kernel for each of `parts` parts. Whoever is free takes the next part, the calling thread
 * too, so a thread that wakes late costs nothing but its help. The word `job` holds a job's number and how many of its
 * parts nobody has taken yet; a part is taken by a compare-and-exchange on it, which fails where the job has changed
 * since its description was read.
 */

/** Indices of 32-bit words. */
const job = 0;
const partsDone = 1;
const kernelIndex = 2;
const partsWhole = 3;
const argumentCount = 4;
const failed = 5;
const failureLength = 6;
const words = 16;

const maxArguments = 32;
const maxFailureBytes = 256;
const partBits = 8;
const partMask = (1 << partBits) - 1;

/** The most parts that a job can have. */
export const maxParts = partMask;

/** Reads and turns of an idle or waiting thread before it goes to sleep: some 20 µs. */
const spins = 2_000;

/** How often a second may pass without the parts that others took being done. */
const patience = 60;

export class JobBoard {
  /** What the threads share. */
  readonly buffer: SharedArrayBuffer;
  readonly #words: Int32Array;
  readonly #arguments: Float64Array;
  readonly #failure: Uint8Array;

  /** @param buffer of the board to join, or none for a new one */
  constructor(buffer?: SharedArrayBuffer) {
    this.buffer = buffer ?? new SharedArrayBuffer(words * 4 + maxArguments * 8 + maxFailureBytes);
    this.#words = new Int32Array(this.buffer, 0, words);
    this.#arguments = new Float64Array(this.buffer, words * 4, maxArguments);
    this.#failure = new Uint8Array(this.buffer, words * 4 + maxArguments * 8);
  }

  /** Puts up a job; the one before must be done. */
  publish(kernel: number, values: readonly number[], parts: number): void {
    if (values.length > maxArguments) throw new RangeError(`${values.length} arguments.`);
    if (parts > maxParts) throw new RangeError(`${parts} parts.`);
    const words = this.#words;
    words[kernelIndex] = kernel;
    words[partsWhole] = parts;
    words[argumentCount] = values.length;
    words[failed] = 0;
    words[partsDone] = 0;
    this.#arguments.set(values);
    const number = (Atomics.load(words, job) >>> partBits) + 1;
    Atomics.store(words, job, (number << partBits) | parts);
    Atomics.notify(words, job, parts - 1);
  }

  /** Takes and runs parts of the current job until none is left. */
  work(kernels: readonly PartKernel[], thread: number): void {
    const words = this.#words;
    for (;;) {
      const current = Atomics.load(words, job);
      const left = current & partMask;
      if (left === 0) return;
      const kernel = kernels[words[kernelIndex] as number] as PartKernel;
      const parts = words[partsWhole] as number;
      const values = Array.from(this.#arguments.subarray(0, words[argumentCount] as number));
      if (Atomics.compareExchange(words, job, current, current - 1) !== current) continue;
      try {
        kernel(...values, thread, parts - left, parts);
      } catch (error) {
        this.#fail(error);
      }
      if (Atomics.add(words, partsDone, 1) + 1 === parts) Atomics.notify(words, partsDone);
    }
  }

  /** Runs parts of every job that is ever put up. */
  serve(kernels: readonly PartKernel[], thread: number): never {
    const words = this.#words;
    for (;;) {
      this.work(kernels, thread);
      const current = Atomics.load(words, job);
      if ((current & partMask) !== 0) continue;
      let turns = spins;
      while (turns > 0 && Atomics.load(words, job) === current) turns--;
      if (turns === 0) Atomics.wait(words, job, current);
    }
  }

  /**
   * Waits until every part of the current job is done; a page's main thread, which may not sleep, turns.
   *
   * @returns whether they are: false where a thread that took a part has not done it for a minute
   */
  finished(): boolean {
    const words = this.#words;
    const parts = words[partsWhole] as number;
    for (let turns = spins; turns > 0; turns--) {
      if (Atomics.load(words, partsDone) === parts) return true;
    }
    // Waits of a second and not one of a minute: a process that was stopped for a while has not waited all that time.
    for (let second = 0; second < patience; second++) {
      for (const end = performance.now() + 1_000; performance.now() < end; ) {
        const done = Atomics.load(words, partsDone);
        if (done === parts) return true;
        if (maySleep()) Atomics.wait(words, partsDone, done, 1_000);
      }
    }
    return false;
  }

  /** What stopped a part of the current job, if anything did. */
  failure(): string | undefined {
    if (this.#words[failed] === 0) return undefined;
    // slice: TextDecoder takes no shared memory.
    return new TextDecoder().decode(this.#failure.slice(0, this.#words[failureLength]));
  }

  #fail(error: unknown): void {
    if (Atomics.compareExchange(this.#words, failed, 0, 1) !== 0) return;
    const text = new TextEncoder().encode(error instanceof Error ? error.message : String(error));
    this.#failure.set(text.subarray(0, maxFailureBytes));
    this.#words[failureLength] = Math.min(text.length, maxFailureBytes);
  }
}

let sleeps: boolean | undefined;

/** Whether this thread may block: all may but a page's main one. */
function maySleep(): boolean {
  if (sleeps === undefined) {
    try {
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 0);
      sleeps = true;
    } catch {
      sleeps = false;
    }
  }
  return sleeps;
}
