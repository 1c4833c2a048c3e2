import {
  backend_util,
  type DataType,
  type KernelConfig,
  ScatterNd,
  SparseToDense,
  sumOutType,
  type TensorInfo,
  TensorScatterUpdate,
  UnsortedSegmentSum,
  util,
} from '@tensorflow/tfjs-core';
import type { CudaBackend, Output } from '../backend.js';
import { type Kernel, kernel } from '../launch.js';
import { bytesPerElement } from '../tensor-data.js';
import { cudaKernel } from './config.js';
import { addressArgument, checkAddresses, MAX_DEPTH } from './gather.js';
import { sparseToDenseOnHost } from './host-ops.js';
import { byParts } from './rearrange.js';

const address = `i*${1 + MAX_DEPTH}`;
const keysKernel = kernel('scatter', 'scatter_keys', `p p p i i i u ${address}`);
const histogramKernel = kernel('scatter', 'scatter_histogram', 'p p i i');
const scanKernel = kernel('scatter', 'scatter_scan', 'p i');
const sortKernel = kernel('scatter', 'scatter_sort', 'p p p p p i i');

type Sum = 'f32' | 'f32x4' | 'i32' | 'u8' | 'u8_i32';

const sumKernels = bySum((name) => kernel('scatter', `scatter_sum_${name}`, 'p p p p p i i i u'));
const pieceKernels = bySum((name) => kernel('scatter', `scatter_pieces_${name}`, 'p p p i i i u'));

function bySum(of: (name: Sum) => Kernel): Record<Sum, Kernel> {
  return {
    f32: of('f32'),
    f32x4: of('f32x4'),
    i32: of('i32'),
    u8: of('u8'),
    u8_i32: of('u8_i32'),
  };
}

const claimKernel = kernel('scatter', 'scatter_claim', `p p i i ${address}`);
const writeKernels = {
  1: kernel('scatter', 'scatter_write_1', 'p p p p l l i i'),
  4: kernel('scatter', 'scatter_write_4', 'p p p p l l i i'),
  16: kernel('scatter', 'scatter_write_16', 'p p p p l l i i'),
};

// As in scatter.cu.
const DIGIT_BITS = 8;
const CHUNK = 2048;
const SORT_BLOCK = 256;
const SCAN_BLOCK = 1024;
const SUM_BLOCK = 128;

/** Where rows go: row i to `sum of indices[i, j] * strides[j]`, times `repeat`, plus i mod `repeat`. */
interface Destinations {
  readonly indices: TensorInfo;
  readonly strides: readonly number[];
  /** Number of rows that go somewhere. */
  readonly rows: number;
  /** Number of destinations before `repeat`. */
  readonly count: number;
  readonly repeat: number;
}

/**
 * Adds `to.rows` rows of `width` elements to the destinations in `output`, which holds anything before.
 * A row whose destination is out of range is passed over.
 *
 * The rows are sorted by destination and every destination's rows are added in their order, so the
 * same inputs give the same bits: no sum depends on which thread came first.
 */
function sumRows(
  backend: CudaBackend,
  updates: TensorInfo,
  to: Destinations,
  output: Output,
  width: number,
): void {
  const total = util.sizeFromShape(output.shape);
  backend.memset(output.pointer, total * bytesPerElement(output.dtype));
  if (total === 0 || to.rows === 0) return;

  const none = to.count * to.repeat;
  const sorted = sortRows(backend, to, none);
  const kind = sumKind(updates.dtype, output.dtype, width);
  const columns = kind === 'f32x4' ? width / 4 : width;
  // Long enough for few pieces of a destination that most rows go to, short enough for many threads.
  const length = Math.max(32, 2 ** Math.ceil(Math.log2(Math.sqrt(to.rows) / 4)));
  const chunks = Math.ceil(to.rows / length);
  const partials = backend.scratch(chunks * 2 * width * 4);
  const x = Math.min(SUM_BLOCK, 2 ** Math.ceil(Math.log2(columns)));
  const y = SUM_BLOCK / x;
  const grid = [Math.ceil(chunks / y), Math.ceil(columns / x), 1] as const;
  const block = [x, y, 1] as const;
  const sizes = [to.rows, length, columns, none];
  const { keys, rows } = sorted;
  const from = backend.pointer(updates);
  backend.launch(sumKernels[kind], grid, block, [
    from,
    keys,
    rows,
    output.pointer,
    partials.pointer,
    ...sizes,
  ]);
  if (chunks > 1) {
    backend.launch(pieceKernels[kind], grid, block, [
      keys,
      output.pointer,
      partials.pointer,
      ...sizes,
    ]);
  }
  partials.free();
  sorted.free();
}

function sumKind(from: DataType, to: DataType, width: number): Sum {
  if (from === 'float32') return width % 4 === 0 ? 'f32x4' : 'f32';
  if (from === 'int32') return 'i32';
  return to === 'bool' ? 'u8' : 'u8_i32';
}

/** Row numbers sorted by destination, those without one (`none`) last: a stable radix sort. */
function sortRows(
  backend: CudaBackend,
  { indices, strides, rows: count, count: destinations, repeat }: Destinations,
  none: number,
): { keys: number; rows: number; free(): void } {
  const blocks = Math.ceil(count / CHUNK);
  const bytes = Math.ceil(count / 4) * 16;
  const memory = backend.scratch(bytes * 4);
  const histogram = backend.scratch(2 ** DIGIT_BITS * blocks * 4);
  let keys = memory.pointer;
  let rows = keys + bytes;
  let nextKeys = rows + bytes;
  let nextRows = nextKeys + bytes;
  backend.launch(keysKernel, backend.blocks(count), 256, [
    backend.pointer(indices),
    keys,
    rows,
    count,
    repeat,
    destinations,
    none,
    addressArgument(strides),
  ]);
  for (let shift = 0; none >>> shift > 0; shift += DIGIT_BITS) {
    backend.launch(histogramKernel, blocks, SORT_BLOCK, [keys, histogram.pointer, count, shift]);
    backend.launch(scanKernel, 1, SCAN_BLOCK, [histogram.pointer, 2 ** DIGIT_BITS * blocks]);
    backend.launch(sortKernel, blocks, SORT_BLOCK, [
      keys,
      rows,
      nextKeys,
      nextRows,
      histogram.pointer,
      count,
      shift,
    ]);
    [keys, nextKeys] = [nextKeys, keys];
    [rows, nextRows] = [nextRows, rows];
    if (shift + DIGIT_BITS > 31) break;
  }
  histogram.free();
  return { keys, rows, free: () => memory.free() };
}

function unsortedSegmentSum(
  backend: CudaBackend,
  x: TensorInfo,
  segmentIds: TensorInfo,
  numSegments: number,
): TensorInfo {
  const rows = util.sizeFromShape(segmentIds.shape);
  const shape = [numSegments, ...x.shape.slice(1)];
  const repeat = util.sizeFromShape(segmentIds.shape.slice(1));
  const width = util.sizeFromShape(x.shape.slice(segmentIds.shape.length));
  return byParts(backend, x, (part) => {
    const output = backend.output(shape, sumOutType(part.dtype));
    const to = { indices: segmentIds, strides: [1], rows, count: numSegments, repeat };
    sumRows(backend, part, to, output, width);
    return output;
  });
}

function scatterNd(
  backend: CudaBackend,
  indices: TensorInfo,
  updates: TensorInfo,
  shape: number[],
): TensorInfo {
  const { numUpdates, sliceSize, outputSize, strides } = shapesOf(updates, indices, shape);
  const count = outputSize === 0 ? 0 : outputSize / sliceSize;
  if (count > 0) checkAddresses(backend, indices, strides, count, shape);
  return byParts(backend, updates, (part) => {
    const output = backend.output(shape, part.dtype);
    const to = { indices, strides, rows: numUpdates, count, repeat: 1 };
    sumRows(backend, part, to, output, sliceSize);
    return output;
  });
}

/**
 * A tensor whose rows that an index names are those of `updates`, of several the last one, and whose
 * others are those of `base`, which may be a scalar for all.
 */
function writeRows(
  backend: CudaBackend,
  base: TensorInfo,
  indices: TensorInfo,
  updates: TensorInfo,
  shape: number[],
): TensorInfo {
  const { numUpdates, sliceSize, outputSize, strides } = shapesOf(updates, indices, shape);
  const output = backend.output(shape, updates.dtype);
  if (outputSize === 0) return output;
  const count = outputSize / sliceSize;
  checkAddresses(backend, indices, strides, count, shape);
  const owner = backend.scratch(count * 4);
  backend.memset(owner.pointer, count * 4);
  if (numUpdates > 0) {
    backend.launch(claimKernel, backend.blocks(numUpdates), 256, [
      backend.pointer(indices),
      owner.pointer,
      numUpdates,
      count,
      addressArgument(strides),
    ]);
  }
  const rowStep = updates.shape.length === 0 ? 0 : 1;
  const baseStep = base.shape.length === 0 ? 0 : 1;
  const bytes = bytesPerElement(output.dtype);
  const whole = rowStep * baseStep === 1 && (sliceSize * bytes) % 16 === 0;
  const width = whole ? 16 : bytes === 1 ? 1 : 4;
  const units = (outputSize * bytes) / width;
  backend.launch(writeKernels[width], backend.blocks(units), 256, [
    backend.pointer(updates),
    backend.pointer(base),
    owner.pointer,
    output.pointer,
    units,
    (sliceSize * bytes) / width,
    rowStep,
    baseStep,
  ]);
  owner.free();
  return output;
}

function shapesOf(updates: TensorInfo, indices: TensorInfo, shape: number[]) {
  const info = backend_util.calculateShapes(updates, indices, shape);
  return { ...info, strides: info.strides.slice(0, info.sliceRank) };
}

/** The kernels that add or write to places that indices name. */
export const scatterKernels: KernelConfig[] = [
  cudaKernel<{ x: TensorInfo; segmentIds: TensorInfo }, { numSegments: number }>(
    UnsortedSegmentSum,
    ({ inputs, attrs, backend }) =>
      unsortedSegmentSum(backend, inputs.x, inputs.segmentIds, attrs.numSegments),
  ),

  cudaKernel<{ indices: TensorInfo; updates: TensorInfo }, { shape: number[] }>(
    ScatterNd,
    ({ inputs, attrs, backend }) => scatterNd(backend, inputs.indices, inputs.updates, attrs.shape),
  ),

  cudaKernel<{ tensor: TensorInfo; indices: TensorInfo; updates: TensorInfo }>(
    TensorScatterUpdate,
    ({ inputs: { tensor, indices, updates }, backend }) =>
      writeRows(backend, tensor, indices, updates, tensor.shape),
  ),

  cudaKernel<
    { sparseIndices: TensorInfo; sparseValues: TensorInfo; defaultValue: TensorInfo },
    { outputShape: number[] }
  >(SparseToDense, ({ inputs, attrs: { outputShape }, backend }) => {
    const { sparseIndices, sparseValues, defaultValue } = inputs;
    return sparseValues.dtype === 'string'
      ? sparseToDenseOnHost(backend, sparseIndices, sparseValues, defaultValue, outputShape)
      : writeRows(backend, defaultValue, sparseIndices, sparseValues, outputShape);
  }),
];
