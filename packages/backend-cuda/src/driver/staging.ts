import type { Context } from './context.js';
import { check } from './errors.js';
import type { Events } from './events.js';

/** Bytes of one part of the ring for uploads, of one buffer for reads, and the most that is copied at once. */
export const CHUNK_BYTES = 4 * 1024 * 1024;
const RING_PARTS = 4;
const ALIGN = 64;

/** Memory of the host that the device reads and writes directly. */
export interface PinnedBuffer {
  readonly address: number;
  readonly bytes: Uint8Array;
}

function pinned(context: Context, bytes: number): PinnedBuffer {
  const { driver } = context;
  const out = new BigUint64Array(1);
  check(driver, driver.cuMemHostAlloc(out, bytes, 0), `cuMemHostAlloc of ${bytes} bytes`);
  const address = Number(out[0]);
  return { address, bytes: new Uint8Array(driver.view(address, bytes)) };
}

interface Part {
  readonly buffer: PinnedBuffer;
  /** Reached when the device has read this part's content; undefined where there is none to wait for. */
  event: number | undefined;
}

/**
 * The way to the device: a ring of pinned memory. What is uploaded is copied into it, so that the caller's array is free
 * at once and the device fetches the copy when the stream gets there. Only a full ring waits, for its oldest part.
 */
export class UploadRing {
  readonly #context: Context;
  readonly #events: Events;
  readonly #parts: Part[] = [];
  #part = 0;
  #used = 0;

  constructor(context: Context, events: Events) {
    this.#context = context;
    this.#events = events;
  }

  /** Copies bytes to device memory, in the order of the stream. */
  upload(pointer: number, source: Uint8Array): void {
    const { driver, stream } = this.#context;
    for (let done = 0; done < source.length; ) {
      const bytes = Math.min(CHUNK_BYTES, source.length - done);
      const buffer = this.#room(bytes);
      buffer.bytes.set(source.subarray(done, done + bytes), this.#used);
      const from = buffer.address + this.#used;
      const result = driver.cuMemcpyHtoDAsync_v2(pointer + done, from, bytes, stream);
      check(driver, result, 'cuMemcpyHtoDAsync');
      this.#used += Math.ceil(bytes / ALIGN) * ALIGN;
      done += bytes;
    }
  }

  /**
   * Copies bytes to device memory at once, over the side stream: while a graph is recorded, which the copy must not
   * become part of. {@link UploadRing.turn} comes before the recording, so that the part in use is free.
   */
  uploadAside(pointer: number, source: Uint8Array): void {
    const { driver, sideStream } = this.#context;
    for (let done = 0; done < source.length; done += CHUNK_BYTES) {
      const chunk = source.subarray(done, done + CHUNK_BYTES);
      const { bytes, address } = this.#room(chunk.length);
      bytes.set(chunk);
      const to = pointer + done;
      const result = driver.cuMemcpyHtoDAsync_v2(to, address, chunk.length, sideStream);
      check(driver, result, 'cuMemcpyHtoDAsync');
      check(driver, driver.cuStreamSynchronize(sideStream), 'cuStreamSynchronize');
    }
  }

  /** Ends the present part: what comes next does not share it. */
  turn(): void {
    const part = this.#parts[this.#part];
    if (part === undefined || this.#used === 0) return;
    part.event = this.#events.record('plain');
    this.#part = (this.#part + 1) % RING_PARTS;
    this.#used = 0;
  }

  dispose(): void {
    const { driver } = this.#context;
    for (const { buffer } of this.#parts) driver.cuMemFreeHost(buffer.address);
    this.#parts.length = 0;
  }

  #room(bytes: number): PinnedBuffer {
    if (this.#used + bytes > CHUNK_BYTES) this.turn();
    let part = this.#parts[this.#part];
    if (part === undefined) {
      part = { buffer: pinned(this.#context, CHUNK_BYTES), event: undefined };
      this.#parts[this.#part] = part;
    }
    if (part.event !== undefined) {
      this.#events.wait(part.event);
      this.#events.recycle(part.event, 'plain');
      part.event = undefined;
    }
    return part.buffer;
  }
}

/** The way from the device: pinned buffers of {@link CHUNK_BYTES}, one for each read that is under way. */
export class ReadBuffers {
  readonly #context: Context;
  readonly #idle: PinnedBuffer[] = [];

  constructor(context: Context) {
    this.#context = context;
  }

  take(): PinnedBuffer {
    return this.#idle.pop() ?? pinned(this.#context, CHUNK_BYTES);
  }

  recycle(buffer: PinnedBuffer): void {
    this.#idle.push(buffer);
  }

  dispose(): void {
    for (const { address } of this.#idle) this.#context.driver.cuMemFreeHost(address);
    this.#idle.length = 0;
  }
}
