import * as tf from '@tensorflow/tfjs-core';
import type { BackendWasm } from '@tensorflow/tfjs-backend-wasm';
import { D2DMoEError } from '@d2dmoe/core';
import { kernelImports } from './kernel-module.js';
import { withMemoryShared } from './memory-sharing.js';
import { ThreadPool, type ThreadSource } from './thread-pool.js';

/** What the AssemblyScript module of kernels/wasm exports; every pointer is a byte offset into tfjs's memory. */
export interface WasmKernels {
  adamStep: (...args: number[]) => void;
  expertCounts: (...args: number[]) => number;
  expertRows: (...args: number[]) => void;
  expertScratch: (...args: number[]) => number;
  gemmScratch: () => number;
  layerNorm: (...args: number[]) => void;
  layerNormGrad: (...args: number[]) => void;
  packColumns: (...args: number[]) => void;
  packRows: (...args: number[]) => void;
  segmentSum: (...args: number[]) => void;
  selectExperts: (...args: number[]) => void;
}

/** tfjs's backend together with our kernels over its memory. */
export interface WasmContext {
  backend: BackendWasm;
  kernels: WasmKernels;
  /** Runs the kernels that take (thread, part, parts). */
  pool: ThreadPool;
  /** Byte offset of {@link WasmKernels.gemmScratch} floats for each thread. */
  scratch: number;
  /** Byte offset of a tensor's values. */
  pointer: (tensor: tf.TensorInfo) => number;
  /** Ends the threads and frees the scratch. */
  dispose: () => Promise<void>;
}

const maxThreads = 64;

/** How many threads the kernels use. */
export interface ThreadOptions {
  /**
   * How many threads multiply, the calling one included; 1 starts none. More than one need tfjs's memory to be shared.
   * Default: one for every core, or 1 where that memory is not shared.
   */
  threads?: number | undefined;
}

/**
 * Compiles the module over the memory of tfjs's wasm backend, which must be the current one, and starts the threads.
 *
 * @throws D2DMoEError `BACKEND_MISMATCH` where the current backend is another one; `THREADS_INVALID` where `threads` is
 * not an integer from 1 to 64; `THREADS_UNAVAILABLE` where more than one are asked for and cannot be had
 */
export async function instantiate(
  bytes: BufferSource,
  { threads }: ThreadOptions,
  source: ThreadSource,
): Promise<WasmContext> {
  if (tf.getBackend() !== 'wasm') {
    throw new D2DMoEError(
      'BACKEND_MISMATCH',
      `The wasm kernels work in the memory of tfjs's wasm backend, but the current backend is ${tf.getBackend()}: call tf.setBackend('wasm') first.`,
    );
  }
  if (
    threads !== undefined &&
    !(Number.isInteger(threads) && threads >= 1 && threads <= maxThreads)
  ) {
    throw new D2DMoEError(
      'THREADS_INVALID',
      `threads is ${threads}: it must be an integer from 1 to ${maxThreads}.`,
    );
  }
  const backend = tf.backend() as BackendWasm;
  // Of tfjs's own threaded build, which it takes in cross-origin isolated pages, the memory is an import.
  const { asm, wasmMemory } = backend.wasm as unknown as {
    asm: { memory?: WebAssembly.Memory };
    wasmMemory: WebAssembly.Memory;
  };
  const memory = asm.memory ?? wasmMemory;
  const shared = !(memory.buffer instanceof ArrayBuffer);
  if (!shared && threads !== undefined && threads > 1) {
    throw new D2DMoEError(
      'THREADS_UNAVAILABLE',
      `${threads} threads need tfjs's wasm backend to have shared memory, and it was started without: call useWasm in Node, or shareTfjsMemory in a cross-origin isolated page, before anything starts that backend.`,
    );
  }
  const module = await WebAssembly.compile(withMemoryShared(bytes, shared));
  const instance = await WebAssembly.instantiate(module, kernelImports(memory));
  const kernels = instance.exports as unknown as WasmKernels;
  const pool = await ThreadPool.create(
    instance,
    { module, memory },
    threads ?? (shared ? Math.min(source.cores(), maxThreads) : 1),
    source.start,
  );
  const pointer = ({ dataId }: tf.TensorInfo) => backend.dataIdMap.get(dataId).memoryOffset;
  // A tensor that nobody else knows of is memory that tfjs's allocator leaves alone.
  const scratch = backend.makeOutput([pool.threads * kernels.gemmScratch()], 'float32');
  return {
    backend,
    kernels,
    pool,
    scratch: pointer(scratch),
    pointer,
    dispose: async () => {
      await pool.dispose();
      // Of a backend that was removed there is nothing left to free.
      if ((backend.wasm as unknown) !== null) backend.disposeData(scratch.dataId);
    },
  };
}
