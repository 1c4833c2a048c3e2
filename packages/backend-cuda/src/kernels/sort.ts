import type { KernelConfig, TensorInfo, TypedArray } from '@tensorflow/tfjs-core';
import { upcastType, util } from '@tensorflow/tfjs-core';
import { shared } from '@tensorflow/tfjs-backend-cpu';
import type { CudaBackend } from '../backend.js';
import { kernel } from '../launch.js';
import { castAway, requireReal, withType } from './cast.js';
import { cudaKernel } from './config.js';
import { withScratch } from './run.js';

/** Keys that sort_tile sorts in shared memory. */
const TILE = 1024;

const keysFloat = kernel('sort', 'sort_keys_f32', 'p p l l l l');
const keysInt = kernel('sort', 'sort_keys_i32', 'p p l l l l');
const sortTile = kernel('sort', 'sort_tile', 'p l l l');
const sortStep = kernel('sort', 'sort_step', 'p l l l l');
const sortTake = kernel('sort', 'sort_take', 'p p p p l l l l');
const searchFloat = kernel('sort', 'search_sorted_f32', 'p p p l i i i');
const searchInt = kernel('sort', 'search_sorted_i32', 'p p p l i i i');

/** Enqueues the bitonic sort of keys in rows of `padded`, a power of two; `total` is a multiple of the tile. */
function sortRows(backend: CudaBackend, keys: number, total: number, padded: number): void {
  const tiles = total / TILE;
  const threads = TILE / 2;
  backend.launch(sortTile, tiles, threads, [keys, padded, 2, Math.min(padded, TILE)]);
  for (let size = 2 * TILE; size <= padded; size *= 2) {
    for (let stride = size / 2; stride >= TILE; stride /= 2) {
      const pairs = total / 2;
      backend.launch(sortStep, backend.blocks(pairs), 256, [keys, pairs, padded, size, stride]);
    }
    backend.launch(sortTile, tiles, threads, [keys, padded, size, size]);
  }
}

/** The k greatest of each row in descending order, the first of equal ones first; values and indices. */
function topK(backend: CudaBackend, x: TensorInfo, k: number): TensorInfo[] {
  const n = x.shape.at(-1) ?? 1;
  const rows = n === 0 ? 0 : util.sizeFromShape(x.shape) / n;
  const shape = [...x.shape.slice(0, -1), k];
  const type = x.dtype === 'float32' ? 'float32' : 'int32';
  return withType(backend, x, type, (operand) => {
    const values = backend.output(shape, type);
    const indices = backend.output(shape, 'int32');
    if (rows * k > 0) {
      const padded = 2 ** Math.ceil(Math.log2(n));
      const total = Math.ceil((rows * padded) / TILE) * TILE;
      const from = backend.pointer(operand);
      withScratch(backend, total * 8, (keys) => {
        const make = type === 'float32' ? keysFloat : keysInt;
        backend.launch(make, backend.blocks(total), 256, [from, keys, total, rows, n, padded]);
        sortRows(backend, keys, total, padded);
        const outputs = rows * k;
        const args = [keys, from, values.pointer, indices.pointer, outputs, n, padded, k];
        backend.launch(sortTake, backend.blocks(outputs), 256, args);
      });
    }
    return [castAway(backend, values, x.dtype), indices];
  });
}

interface Search {
  sortedSequence: TensorInfo;
  values: TensorInfo;
}

/** Where values [batch, m] belong in sorted sequences [batch, n]: before equal elements, or behind them. */
function searchSorted(
  backend: CudaBackend,
  { sortedSequence, values }: Search,
  right: boolean,
): TensorInfo {
  requireReal('SearchSorted', sortedSequence, values);
  const type = upcastType(sortedSequence.dtype, values.dtype) === 'float32' ? 'float32' : 'int32';
  return withType(backend, sortedSequence, type, (sorted) =>
    withType(backend, values, type, (wanted) => {
      const out = backend.output(values.shape, 'int32');
      const total = util.sizeFromShape(values.shape);
      backend.launch(type === 'float32' ? searchFloat : searchInt, backend.blocks(total), 256, [
        backend.pointer(sorted),
        backend.pointer(wanted),
        out.pointer,
        total,
        sortedSequence.shape[1] ?? 0,
        values.shape[1] ?? 0,
        Number(right),
      ]);
      return out;
    }),
  );
}

/**
 * The distinct slices along an axis, in order of appearance, and which of them each slice is: found on the host. Strings
 * are compared by their bytes.
 */
function unique(backend: CudaBackend, x: TensorInfo, axis: number): TensorInfo[] {
  if (x.dtype === 'complex64') requireReal('Unique', x);
  // Arrays of bytes are handed through like numbers.
  const values = backend.readSync(x.dataId) as TypedArray;
  const { outputValues, outputShape, indices } = shared.uniqueImpl(values, axis, x.shape, x.dtype);
  return [
    backend.makeTensorInfo(outputShape, x.dtype, outputValues),
    backend.makeTensorInfo([indices.length], 'int32', indices),
  ];
}

/** What depends on order. */
export const sortKernels: KernelConfig[] = [
  cudaKernel<{ x: TensorInfo }, { k: number }>('TopK', ({ inputs, attrs, backend }) => {
    requireReal('TopK', inputs.x);
    return topK(backend, inputs.x, attrs.k);
  }),
  cudaKernel<Search, { side: 'left' | 'right' }>('SearchSorted', ({ inputs, attrs, backend }) =>
    searchSorted(backend, inputs, attrs.side === 'right'),
  ),
  cudaKernel<Search>('LowerBound', ({ inputs, backend }) => searchSorted(backend, inputs, false)),
  cudaKernel<Search>('UpperBound', ({ inputs, backend }) => searchSorted(backend, inputs, true)),
  cudaKernel<{ x: TensorInfo }, { axis: number }>('Unique', ({ inputs, attrs, backend }) =>
    unique(backend, inputs.x, attrs.axis),
  ),
];
