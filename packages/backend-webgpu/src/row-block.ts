import type { TensorInfo } from '@tensorflow/tfjs-core';
import type { Slice } from './encode.js';
import type { ExpertsCall } from './experts-call.js';
import { bufferOf, type OpenBackend } from './open-backend.js';

/** Neighbouring rows of a call, and where its tensors have them. */
export interface RowBlock {
  rows: number;
  x: Slice;
  selection: Slice;
  output: Slice;
}

/** The rows from `first` on. */
export function rowBlock(
  backend: OpenBackend,
  { shape: { dIn, dOut, experts }, x, selection }: ExpertsCall,
  out: TensorInfo,
  first: number,
  rows: number,
): RowBlock {
  const rowsOf = (tensor: TensorInfo, bytes: number) => ({
    buffer: bufferOf(backend, tensor),
    offset: first * bytes,
    size: rows * bytes,
  });
  return {
    rows,
    x: rowsOf(x, dIn * 4),
    selection: rowsOf(selection, experts * 4),
    output: rowsOf(out, dOut * 4),
  };
}
