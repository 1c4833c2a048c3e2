import { Cast, getKernel, type TensorInfo } from '@tensorflow/tfjs-core';
import type { CudaBackend } from '../backend.js';
import type { Argument, Kernel } from '../launch.js';

/** A kernel's inputs by their names. */
export type Tensors<Names extends string> = Record<Names, TensorInfo>;

/** Threads of a block of {@link launchElements}. */
const BLOCK = 256;

/** Launches a kernel that loops over `n` elements; `n` follows the arguments as an int64. */
export function launchElements(
  backend: CudaBackend,
  kernel: Kernel,
  n: number,
  args: readonly Argument[],
): void {
  backend.launch(kernel, backend.blocks(n, BLOCK), BLOCK, [...args, n]);
}

/** Calls `use` with scratch memory of the device and gives it back afterwards. */
export function withScratch<T>(
  backend: CudaBackend,
  bytes: number,
  use: (pointer: number) => T,
): T {
  const memory = backend.scratch(bytes);
  try {
    return use(memory.pointer);
  } finally {
    memory.free();
  }
}

/** Runs another tfjs kernel of this backend with one output. */
export function runKernel(
  backend: CudaBackend,
  name: string,
  inputs: Record<string, TensorInfo>,
  attrs: Record<string, unknown> = {},
): TensorInfo {
  const config = getKernel(name, 'cuda');
  if (!config) throw new Error(`Kernel ${name} is not registered for the backend cuda.`);
  return config.kernelFunc({ inputs, attrs: attrs as never, backend }) as TensorInfo;
}

/** Calls `use` with the float32 form of a numeric tensor. */
export function asFloat32<T>(backend: CudaBackend, x: TensorInfo, use: (x: TensorInfo) => T): T {
  if (x.dtype === 'float32') return use(x);
  const cast = runKernel(backend, Cast, { x }, { dtype: 'float32' });
  try {
    return use(cast);
  } finally {
    backend.disposeIntermediateTensorInfo(cast);
  }
}
