import { setWasmPaths } from '@tensorflow/tfjs-backend-wasm';
import * as tf from '@tensorflow/tfjs-core';
import { D2DMoEError } from '@d2dmoe/core';
import { withMemoryShared } from './memory-sharing.js';

/**
 * Has tfjs start its wasm backend from this binary with the memory declared shared, so that threads can work in it
 * without copies; tfjs stays single-threaded itself. To be called before anything starts that backend: afterwards it
 * changes nothing. In Node `useWasm` calls it.
 *
 * In a cross-origin isolated page tfjs would take its own threaded build, whose memory is shared as well but whose
 * workers do not survive bundlers that minify.
 *
 * @param binary tfjs-backend-wasm-simd.wasm of tfjs's package
 * @throws D2DMoEError `THREADS_UNAVAILABLE` in a page that is not cross-origin isolated; `WASM_INVALID` where `binary`
 * is something else
 */
export function shareTfjsMemory(binary: BufferSource): void {
  if (typeof SharedArrayBuffer === 'undefined') {
    throw new D2DMoEError(
      'THREADS_UNAVAILABLE',
      'Shared memory needs a cross-origin isolated page: serve it with the headers Cross-Origin-Opener-Policy: same-origin and Cross-Origin-Embedder-Policy: require-corp.',
    );
  }
  const shared = new Blob([withMemoryShared(binary, true)], { type: 'application/wasm' });
  // Not revoked: a backend that is removed and comes back is started from it again.
  const url = URL.createObjectURL(shared);
  const names = ['', '-simd', '-threaded-simd'].map((suffix) => `tfjs-backend-wasm${suffix}.wasm`);
  setWasmPaths(Object.fromEntries(names.map((name) => [name, url])), true);
  tf.env().set('WASM_HAS_MULTITHREAD_SUPPORT', false);
}
