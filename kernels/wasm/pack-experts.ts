/**
 * Weights in the layout that the expert op's inner loops read, made once. Nothing is padded: a matrix takes as many
 * values as before. The last panel of a ragged size is narrower, and a read of 8 columns there runs at most 7 values
 * past its end, so the host leaves 8 behind the matrix.
 */
import { packRows as interleave } from './gemm';
import { at } from './simd';

const PANEL: i32 = 8;

/** The scale that maps d floats to −127 … 127. */
function scaleOf(x: usize, d: i32): f32 {
  let greatest: f32 = 0;
  for (let i = 0; i < d; i++) greatest = max(greatest, abs(f32.load(at(x, i))));
  return greatest / 127;
}

// @ts-ignore: decorator
@inline
function quantise(value: f32, scale: f32): i8 {
  return scale == 0 ? 0 : <i8>nearest(value / scale);
}

/**
 * up or gate: expert by expert panels of 8 neurons, each [dIn][8].
 *
 * @param x neurons × dIn
 * @param out as many values, floats or int8
 * @param scales `neurons` floats, or 0 for float32
 */
export function packColumns(x: usize, out: usize, scales: usize, neurons: i32, dIn: i32, expertSize: i32): void {
  for (let expert = 0; expert < neurons; expert += expertSize) {
    for (let column = 0; column < expertSize; column += PANEL) {
      const columns = min(PANEL, expertSize - column);
      const neuron = expert + column;
      const source = x + ((<usize>neuron * <usize>dIn) << 2);
      if (!scales) {
        interleave(source, dIn, dIn, columns, out + ((<usize>neuron * <usize>dIn) << 2));
        continue;
      }
      const panel = out + <usize>neuron * <usize>dIn;
      for (let j = 0; j < columns; j++) {
        const row = at(source, j * dIn);
        const scale = scaleOf(row, dIn);
        f32.store(at(scales, neuron + j), scale);
        for (let p = 0; p < dIn; p++) {
          store<i8>(panel + (p * columns + j), quantise(f32.load(at(row, p)), scale));
        }
      }
    }
  }
}

/**
 * down: expert by expert panels of 8 columns, each [expertSize][8].
 *
 * @param x neurons × dOut
 * @param out as many values, floats or int8
 * @param scales `neurons` floats, or 0 for float32
 */
export function packRows(x: usize, out: usize, scales: usize, neurons: i32, dOut: i32, expertSize: i32): void {
  for (let neuron = 0; neuron < neurons; neuron++) {
    const row = x + ((<usize>neuron * <usize>dOut) << 2);
    const place = neuron % expertSize;
    const expert = <usize>(neuron - place) * <usize>dOut;
    const scale: f32 = scales ? scaleOf(row, dOut) : 0;
    if (scales) f32.store(at(scales, neuron), scale);
    for (let column = 0; column < dOut; column += PANEL) {
      const columns = min(PANEL, dOut - column);
      const target = expert + <usize>(column * expertSize + place * columns);
      if (!scales) {
        memory.copy(out + (target << 2), at(row, column), <usize>columns << 2);
      } else {
        for (let j = 0; j < columns; j++) {
          store<i8>(out + target + j, quantise(f32.load(at(row, column + j)), scale));
        }
      }
    }
  }
}
