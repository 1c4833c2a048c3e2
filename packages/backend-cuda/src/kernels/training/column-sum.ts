import type { TensorInfo } from '@tensorflow/tfjs-core';
import type { CudaBackend } from '../../backend.js';
import { kernel } from '../../launch.js';
import { withScratch } from '../run.js';

const f32 = kernel('column-sum', 'column_sum_f32', 'p p i i');
const bf16 = kernel('column-sum', 'column_sum_bf16', 'p p i i');
const any = kernel('column-sum', 'column_sum_f32_any', 'p p i i');
const finish = kernel('column-sum', 'column_sum_finish', 'p p p i i i');

/** Sums of chunks of rows, to be added: device address of [chunks, columns]. */
export interface PartialSums {
  partial: number;
  chunks: number;
  columns: number;
}

/**
 * Adds chunks up in a fixed order.
 *
 * @param out Device address of the sums of the columns before `rest.from`.
 * @param rest Where those of the columns from there on go; address 0 drops them.
 */
export function finishColumnSum(
  backend: CudaBackend,
  { partial, chunks, columns }: PartialSums,
  out: number,
  rest: { pointer: number; from: number } = { pointer: 0, from: columns },
): void {
  const args = [partial, out, rest.pointer, chunks, columns, rest.from];
  backend.launch(finish, Math.ceil(columns / 32), 1024, args);
}

/**
 * The sum of a matrix over its rows, float32, the same from run to run.
 *
 * @param x [rows, columns]
 * @returns [columns]
 */
export function columnSum(backend: CudaBackend, x: TensorInfo): TensorInfo {
  const [rows, columns] = x.shape as [number, number];
  const out = backend.output([columns], 'float32');
  const vectors = columns % 4 === 0;
  const half = vectors && backend.isOnly16(x);
  const across = Math.ceil(columns / (vectors ? 128 : 32));
  // Enough blocks for the card, and at least eight rows in each.
  const wanted = Math.ceil((backend.device.multiprocessors * 4) / Math.max(across, 1));
  const chunks = Math.min(Math.ceil(rows / 8), wanted);
  withScratch(backend, chunks * columns * 4, (partial) => {
    const pointer = half ? backend.pointer16(x) : backend.pointer(x);
    const run = half ? bf16 : vectors ? f32 : any;
    backend.launch(run, [across, chunks, 1], 256, [pointer, partial, rows, columns]);
    finishColumnSum(backend, { partial, chunks, columns }, out.pointer);
  });
  return out;
}
