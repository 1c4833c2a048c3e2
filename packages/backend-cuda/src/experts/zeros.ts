import type { CudaBackend } from '../backend.js';
import { withScratch } from '../kernels/run.js';

const zeros = new WeakMap<CudaBackend, { readonly pointer: number; readonly bytes: number }>();

/** Calls `use` with memory that launches find and leave as zeros: one for all of a backend's, which run one after the other. */
export function withZeros(
  backend: CudaBackend,
  bytes: number,
  use: (pointer: number) => void,
): void {
  let kept = zeros.get(backend);
  if (kept === undefined || kept.bytes < bytes) {
    if (backend.isCapturing) {
      // What is allocated now goes with the graph.
      withScratch(backend, bytes, (pointer) => {
        backend.memset(pointer, bytes);
        use(pointer);
      });
      return;
    }
    // What was kept so far is not given back: graphs may know its address.
    const size = 2 ** Math.ceil(Math.log2(bytes));
    kept = { pointer: backend.scratch(size).pointer, bytes: size };
    backend.memset(kept.pointer, size);
    zeros.set(backend, kept);
  }
  use(kept.pointer);
}
