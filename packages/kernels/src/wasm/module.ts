import * as tf from '@tensorflow/tfjs-core';
import type { BackendWasm } from '@tensorflow/tfjs-backend-wasm';
import { D2DMoEError } from '@d2dmoe/core';

/** What the AssemblyScript module of kernels/wasm exports; every pointer is a byte offset into tfjs's memory. */
export interface WasmKernels {
  adamStep: (...args: number[]) => void;
  gemm: (...args: number[]) => void;
  gemmScratch: () => number;
  layerNorm: (...args: number[]) => void;
  layerNormGrad: (...args: number[]) => void;
  segmentSum: (...args: number[]) => void;
}

/** tfjs's backend together with our kernels over its memory. */
export interface WasmContext {
  backend: BackendWasm;
  kernels: WasmKernels;
  /** Byte offset of {@link WasmKernels.gemmScratch} floats. */
  scratch: number;
  /** Byte offset of a tensor's values. */
  pointer: (tensor: tf.TensorInfo) => number;
}

/**
 * Compiles the module over the memory of tfjs's wasm backend, which must be the current one.
 *
 * @throws D2DMoEError `BACKEND_MISMATCH` where the current backend is another one
 */
export async function instantiate(bytes: BufferSource): Promise<WasmContext> {
  if (tf.getBackend() !== 'wasm') {
    throw new D2DMoEError(
      'BACKEND_MISMATCH',
      `The wasm kernels work in the memory of tfjs's wasm backend, but the current backend is ${tf.getBackend()}: call tf.setBackend('wasm') first.`,
    );
  }
  const backend = tf.backend() as BackendWasm;
  const memory = (backend.wasm as unknown as { asm: { memory: WebAssembly.Memory } }).asm.memory;
  const { instance } = await WebAssembly.instantiate(bytes, {
    env: {
      memory,
      abort: () => {
        throw new D2DMoEError('WASM_ABORTED', 'A wasm kernel stopped: this is a defect of d2dmoe.');
      },
    },
  });
  const kernels = instance.exports as unknown as WasmKernels;
  const pointer = ({ dataId }: tf.TensorInfo) => backend.dataIdMap.get(dataId).memoryOffset;
  // A tensor that is never disposed of is memory that tfjs's allocator leaves alone.
  const scratch = pointer(backend.makeOutput([kernels.gemmScratch()], 'float32'));
  return { backend, kernels, scratch, pointer };
}
