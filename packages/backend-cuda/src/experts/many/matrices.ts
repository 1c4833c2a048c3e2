import type { CudaBackend } from '../../backend.js';
import { TensorMaps } from '../../products/tensor-map.js';

/** Elements of a line that a box has: 128 bytes. */
const BOX = 64;

const encoders = new WeakMap<CudaBackend, TensorMaps>();

/** A tensor map over a matrix of 16-bit values whose `lines` begin every `length` elements, in boxes of `boxLines`. */
export function matrixMap(
  backend: CudaBackend,
  pointer: number,
  length: number,
  lines: number,
  boxLines: number,
): number[] {
  let encoder = encoders.get(backend);
  if (encoder === undefined) {
    encoder = new TensorMaps(backend.driver);
    encoders.set(backend, encoder);
  }
  return encoder.encode({
    pointer,
    length,
    lines,
    matrices: 1,
    stride: length * lines,
    boxLength: BOX,
    boxLines,
  });
}
