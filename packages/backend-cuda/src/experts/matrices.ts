import type { CudaBackend } from '../backend.js';
import { tensorMapsOf } from '../products/tensor-map.js';

/** Elements of a line that a box has: 128 bytes. */
const BOX = 64;

/** A tensor map over a matrix of 16-bit values whose `lines` begin every `length` elements, in boxes of `boxLines`. */
export function matrixMap(
  backend: CudaBackend,
  pointer: number,
  length: number,
  lines: number,
  boxLines: number,
): readonly number[] {
  return tensorMapsOf(backend).encode({
    pointer,
    length,
    lines,
    matrices: 1,
    stride: length * lines,
    boxLength: BOX,
    boxLines,
  });
}

/**
 * The same matrix in boxes that are several times 64 elements wide: of as many pieces of lines, each of which lies in
 * shared memory as a box of its own.
 *
 * @param length A multiple of 64.
 */
export function wideMap(
  backend: CudaBackend,
  pointer: number,
  length: number,
  lines: number,
  boxLines: number,
  boxes: number,
): readonly number[] {
  return tensorMapsOf(backend).encode({
    pointer,
    length: BOX,
    pitch: length,
    lines,
    matrices: length / BOX,
    stride: BOX,
    boxLength: BOX,
    boxLines,
    boxMatrices: boxes,
  });
}
