import { D2DMoEError } from '@d2dmoe/core';
import type { Context } from './context.js';
import { CUDA_ERROR_OUT_OF_MEMORY, check } from './errors.js';
import { sizeClass } from './size-class.js';

const POOL_RELEASE_THRESHOLD = 4;

/** A piece of device memory. */
export interface Block {
  readonly pointer: number;
  /** Size of the block, which is that of its size class. */
  readonly bytes: number;
  /** How many still need it: tensors, and reads that have begun. */
  references: number;
  /** The graph whose memory this is: it goes back to that graph, which may write it at every launch. */
  graph: GraphMemory | undefined;
  /** Whether the graph reads what was in the block before its launch: it then serves nothing else, in the graph too. */
  isGraphInput: boolean;
}

/** The blocks that a captured graph reads or writes: nobody else gets them while the graph lives. */
export interface GraphMemory {
  readonly blocks: Set<Block>;
  readonly free: Map<number, Block[]>;
  /** Freed inputs of the graph. */
  readonly inputs: Block[];
}

/** Bytes as a text for people: `1.50 GiB`. */
export function formatBytes(bytes: number): string {
  if (bytes < 1024) return `${bytes} bytes`;
  const power = Math.min(4, Math.floor(Math.log2(bytes) / 10));
  return `${(bytes / 1024 ** power).toFixed(2)} ${['', 'KiB', 'MiB', 'GiB', 'TiB'][power]}`;
}

/**
 * Device memory, cached by size class over cuMemAllocAsync. All work is on one stream, so a block that is freed can be
 * given out again at once: what the next owner enqueues runs after what the last one did.
 */
export class Allocator {
  /** Bytes in blocks that are in use. */
  held = 0;
  /** Bytes in blocks that wait for their next use. */
  cached = 0;

  readonly #context: Context;
  readonly #pool: number;
  readonly #free = new Map<number, Block[]>();
  /** All that came from the driver. */
  readonly #blocks = new Set<Block>();
  readonly #out = new BigUint64Array(1);
  #capture: GraphMemory | undefined;

  constructor(context: Context) {
    this.#context = context;
    const { driver, deviceHandle } = context;
    check(
      driver,
      driver.cuDeviceGetDefaultMemPool(this.#out, deviceHandle),
      'cuDeviceGetDefaultMemPool',
    );
    this.#pool = Number(this.#out[0]);
    // Memory that was freed stays with the process until the pool is trimmed: no page tables change in steady state.
    const threshold = new BigUint64Array([0xffff_ffff_ffff_ffffn]);
    check(
      driver,
      driver.cuMemPoolSetAttribute(this.#pool, POOL_RELEASE_THRESHOLD, threshold),
      'cuMemPoolSetAttribute',
    );
  }

  /**
   * @param bytes 0 gives a block as well.
   * @throws D2DMoEError CUDA_OUT_OF_MEMORY, after which everything that is allocated is still there.
   */
  allocate(bytes: number): Block {
    const size = sizeClass(bytes);
    const capture = this.#capture;
    if (capture !== undefined) {
      const own = capture.free.get(size)?.pop();
      if (own !== undefined) return this.#use(own);
    }
    const block = this.#free.get(size)?.pop();
    if (block !== undefined) {
      this.cached -= size;
      if (capture !== undefined) this.#give(block, capture);
      return this.#use(block);
    }
    const pointer = this.#request(size) || this.#requestAgain(size, bytes);
    const fresh: Block = {
      pointer,
      bytes: size,
      references: 0,
      graph: undefined,
      isGraphInput: false,
    };
    this.#blocks.add(fresh);
    if (capture !== undefined) this.#give(fresh, capture);
    return this.#use(fresh);
  }

  /** Keeps a block's content for one more {@link Allocator.free}. */
  retain(block: Block): void {
    block.references++;
  }

  /** Gives a block back, after as many calls as it has references. Work that was enqueued before finds it unchanged. */
  free(block: Block): void {
    block.references--;
    if (block.references > 0) return;
    this.held -= block.bytes;
    if (block.graph === undefined && this.#capture !== undefined) {
      // The graph that is being captured may read what the block holds.
      this.#give(block, this.#capture);
      block.isGraphInput = true;
    }
    if (block.graph === undefined) {
      this.cached += block.bytes;
      push(this.#free, block);
    } else if (block.isGraphInput) {
      block.graph.inputs.push(block);
    } else {
      push(block.graph.free, block);
    }
  }

  /** Says that a block was filled outside of the graph that is being captured. */
  markFilled(block: Block): void {
    if (this.#capture !== undefined) block.isGraphInput = true;
  }

  /** Gives all cached memory back to the system. */
  trim(): void {
    const { driver, stream } = this.#context;
    for (const block of [...this.#free.values()].flat()) this.#return(block);
    this.#free.clear();
    this.cached = 0;
    check(driver, driver.cuStreamSynchronize(stream), 'cuStreamSynchronize');
    check(driver, driver.cuMemPoolTrimTo(this.#pool, 0), 'cuMemPoolTrimTo');
  }

  /** Gives everything back, what is in use too. */
  dispose(): void {
    for (const block of this.#blocks) this.#return(block);
    this.#free.clear();
    this.cached = 0;
    this.held = 0;
  }

  /** From here on blocks belong to the graph that is being captured. */
  beginCapture(): GraphMemory {
    this.#capture = { blocks: new Set(), free: new Map(), inputs: [] };
    return this.#capture;
  }

  endCapture(): void {
    this.#capture = undefined;
  }

  get isCapturing(): boolean {
    return this.#capture !== undefined;
  }

  /** Takes a graph's memory back. Blocks that tensors still hold become ordinary ones. */
  releaseGraph(memory: GraphMemory): void {
    for (const blocks of [...memory.free.values(), memory.inputs]) {
      for (const block of blocks) {
        this.cached += block.bytes;
        push(this.#free, block);
      }
    }
    for (const block of memory.blocks) {
      block.graph = undefined;
      block.isGraphInput = false;
    }
    memory.free.clear();
    memory.inputs.length = 0;
    memory.blocks.clear();
  }

  #use(block: Block): Block {
    this.held += block.bytes;
    block.references = 1;
    return block;
  }

  #return(block: Block): void {
    const { driver, stream } = this.#context;
    driver.cuMemFreeAsync(block.pointer, stream);
    this.#blocks.delete(block);
  }

  #give(block: Block, memory: GraphMemory): void {
    block.graph = memory;
    memory.blocks.add(block);
  }

  /** 0 where there is not enough memory. */
  #request(size: number): number {
    const { driver, stream, sideStream } = this.#context;
    // An allocation on a stream that is being captured would become a node of the graph.
    const isCapturing = this.#capture !== undefined;
    const on = isCapturing ? sideStream : stream;
    const result = driver.cuMemAllocAsync(this.#out, size, on);
    if (result === CUDA_ERROR_OUT_OF_MEMORY) return 0;
    check(driver, result, `cuMemAllocAsync of ${size} bytes`);
    if (isCapturing) check(driver, driver.cuStreamSynchronize(on), 'cuStreamSynchronize');
    return Number(this.#out[0]);
  }

  #requestAgain(size: number, bytes: number): number {
    if (this.#capture === undefined) {
      this.trim();
      const pointer = this.#request(size);
      if (pointer !== 0) return pointer;
    }
    const { driver, device } = this.#context;
    const free = new BigUint64Array(1);
    const total = new BigUint64Array(1);
    check(driver, driver.cuMemGetInfo_v2(free, total), 'cuMemGetInfo');
    throw new D2DMoEError(
      'CUDA_OUT_OF_MEMORY',
      `${device.name} is out of memory: ${formatBytes(bytes)} were asked for, tensors of this process hold ${formatBytes(this.held)}, and ${formatBytes(Number(free[0]))} of ${formatBytes(Number(total[0]))} are free; dispose tensors or take a smaller batch.`,
    );
  }
}

function push(lists: Map<number, Block[]>, block: Block): void {
  const list = lists.get(block.bytes);
  if (list === undefined) lists.set(block.bytes, [block]);
  else list.push(block);
}
