import {
  backend_util,
  GatherNd,
  GatherV2,
  type KernelConfig,
  OneHot,
  type DataType,
  type TensorInfo,
  util,
} from '@tensorflow/tfjs-core';
import type { CudaBackend } from '../backend.js';
import { kernel } from '../launch.js';
import { bytesPerElement } from '../tensor-data.js';
import { cudaKernel } from './config.js';
import { gatherNdOnHost, gatherOnHost } from './host-ops.js';
import { at, divider, zeros } from './layout.js';
import { bitsOf, byParts } from './rearrange.js';

const INT_MAX = 2 ** 31 - 1;

type Width = 1 | 2 | 4 | 8 | 16;

const rowKernels = {
  1: kernel('gather', 'gather_rows_1', 'p p p u i*10'),
  2: kernel('gather', 'gather_rows_2', 'p p p u i*10'),
  4: kernel('gather', 'gather_rows_4', 'p p p u i*10'),
  8: kernel('gather', 'gather_rows_8', 'p p p u i*10'),
  16: kernel('gather', 'gather_rows_16', 'p p p u i*10'),
};
const wideRowKernels = {
  1: kernel('gather', 'gather_rows_wide_1', 'p p p l l*4'),
  2: kernel('gather', 'gather_rows_wide_2', 'p p p l l*4'),
  4: kernel('gather', 'gather_rows_wide_4', 'p p p l l*4'),
  8: kernel('gather', 'gather_rows_wide_8', 'p p p l l*4'),
  16: kernel('gather', 'gather_rows_wide_16', 'p p p l l*4'),
};
/** Items that a thread takes, as gather.cu has them. */
const ITEMS: Record<Width, number> = { 1: 4, 2: 4, 4: 4, 8: 2, 16: 2 };

/** Depth of an index that gather.cu and scatter.cu take. */
export const MAX_DEPTH = 6;

const ndKernels = {
  1: kernel('gather', 'gather_nd_1', `p p p l l l i*${1 + MAX_DEPTH}`),
  4: kernel('gather', 'gather_nd_4', `p p p l l l i*${1 + MAX_DEPTH}`),
  16: kernel('gather', 'gather_nd_16', `p p p l l l i*${1 + MAX_DEPTH}`),
};
const oneHotKernels = {
  1: kernel('gather', 'gather_one_hot_1', 'p p l i u u'),
  4: kernel('gather', 'gather_one_hot_4', 'p p l i u u'),
};

/** The widest unit that slices of `count` elements of `bytes` bytes consist of. */
export function unitOf(count: number, bytes: number): Width {
  for (const width of [16, 8, 4, 2] as const) {
    if (width >= bytes && (count * bytes) % width === 0) return width;
  }
  return 1;
}

/**
 * X[..., indices, ...] along an axis. An index out of range throws where the host still has the
 * indices, and gives zeros where only the device knows them: nothing waits for it.
 */
function gather(
  backend: CudaBackend,
  x: TensorInfo,
  indices: TensorInfo,
  axis: number,
  batchDims: number,
): TensorInfo {
  const dimension = at(x.shape, axis);
  for (const index of backend.knownValues(indices) ?? []) {
    util.assert(
      index <= dimension - 1 && index >= 0,
      () => `GatherV2: the index value ${index} is not in [0, ${dimension - 1}]`,
    );
  }
  const info = backend_util.segment_util.collectGatherOpShapeInfo(x, indices, axis, batchDims);
  if (x.dtype === 'string') return gatherOnHost(backend, x, indices, info);
  return byParts(backend, x, (part) => {
    const only16 = backend.isOnly16(part);
    const output = only16
      ? backend.output16(info.outputShape)
      : backend.output(info.outputShape, part.dtype);
    const size = util.sizeFromShape(info.outputShape);
    if (size === 0) return output;
    const bytes = only16 ? 2 : bytesPerElement(part.dtype);
    const width = unitOf(info.sliceSize, bytes);
    const slice = (info.sliceSize * bytes) / width;
    const picks = util.sizeFromShape(indices.shape) / info.batchSize;
    const count = (size * bytes) / width;
    const from = only16 ? backend.pointer16(part) : backend.pointer(part);
    const pointers = [from, backend.pointer(indices), output.pointer];
    const grid = backend.blocks(Math.ceil(count / ITEMS[width]));
    if (count <= INT_MAX) {
      const sizes = [...divider(slice), ...divider(picks), ...divider(info.outerSize), dimension];
      backend.launch(rowKernels[width], grid, 256, [...pointers, count, sizes]);
    } else {
      const sizes = [slice, picks, info.outerSize, dimension];
      backend.launch(wideRowKernels[width], grid, 256, [...pointers, count, sizes]);
    }
    return output;
  });
}

/** `struct Address`: the depth of an index and the stride of each of its coordinates. */
export function addressArgument(strides: readonly number[]): number[] {
  if (strides.length > MAX_DEPTH) {
    throw new Error(
      `An index may have at most ${MAX_DEPTH} coordinates on the backend cuda, not ${strides.length}.`,
    );
  }
  const argument = zeros(1 + MAX_DEPTH);
  argument[0] = strides.length;
  strides.forEach((stride, j) => {
    argument[1 + j] = stride;
  });
  return argument;
}

/** Throws where the host has indices of which one leads out of `rows` rows. */
export function checkAddresses(
  backend: CudaBackend,
  indices: TensorInfo,
  strides: readonly number[],
  rows: number,
  shape: readonly number[],
): void {
  const values = backend.knownValues(indices);
  if (values === undefined || strides.length === 0) return;
  for (let i = 0; i < values.length; i += strides.length) {
    const index = values.subarray(i, i + strides.length);
    const row = strides.reduce((sum, stride, j) => sum + stride * (index[j] as number), 0);
    if (row < 0 || row >= rows) {
      throw new Error(`Invalid indices: ${index.join()} does not index into ${shape.join()}`);
    }
  }
}

function gatherNd(backend: CudaBackend, params: TensorInfo, indices: TensorInfo): TensorInfo {
  const [shape, numSlices, sliceSize, strides] = backend_util.prepareAndValidate(params, indices);
  const rows = util.sizeFromShape(params.shape) / sliceSize;
  checkAddresses(backend, indices, strides, rows, params.shape);
  if (params.dtype === 'string') return gatherNdOnHost(backend, params, indices);
  return byParts(backend, params, (part) => {
    const output = backend.output(shape, part.dtype);
    const size = numSlices * sliceSize;
    if (size === 0) return output;
    const bytes = bytesPerElement(part.dtype);
    const unit = unitOf(sliceSize, bytes);
    const width = unit === 16 ? 16 : bytes === 1 ? 1 : 4;
    const factor = width / bytes;
    const args = [
      backend.pointer(part),
      backend.pointer(indices),
      output.pointer,
      size / factor,
      sliceSize / factor,
      rows,
      addressArgument(strides),
    ];
    backend.launch(ndKernels[width], backend.blocks(size / factor), 256, args);
    return output;
  });
}

interface OneHotAttrs {
  dtype: DataType;
  depth: number;
  onValue: number;
  offValue: number;
}

/** The kernels that pick by indices. */
export const gatherKernels: KernelConfig[] = [
  cudaKernel<{ x: TensorInfo; indices: TensorInfo }, { axis: number; batchDims?: number }>(
    GatherV2,
    ({ inputs: { x, indices }, attrs, backend }) => {
      const [axis] = util.parseAxisParam(attrs.axis, x.shape) as [number];
      return gather(backend, x, indices, axis, attrs.batchDims ?? 0);
    },
  ),

  cudaKernel<{ params: TensorInfo; indices: TensorInfo }>(GatherNd, ({ inputs, backend }) =>
    gatherNd(backend, inputs.params, inputs.indices),
  ),

  cudaKernel<{ indices: TensorInfo }, OneHotAttrs>(
    OneHot,
    ({ inputs: { indices }, attrs: { dtype, depth, onValue, offValue }, backend }) => {
      const output = backend.output([...indices.shape, depth], dtype);
      const count = util.sizeFromShape(output.shape);
      if (count === 0) return output;
      const width = dtype === 'bool' ? 1 : 4;
      backend.launch(oneHotKernels[width], backend.blocks(count), 256, [
        backend.pointer(indices),
        output.pointer,
        count,
        depth,
        bitsOf(onValue, dtype),
        bitsOf(offValue, dtype),
      ]);
      return output;
    },
  ),
];
