import {
  backend_util,
  BatchToSpaceND,
  BroadcastArgs,
  BroadcastTo,
  Concat,
  DepthToSpace,
  Diag,
  ExpandDims,
  type KernelConfig,
  MirrorPad,
  Pack,
  PadV2,
  Reshape,
  Reverse,
  Slice,
  slice_util,
  SpaceToBatchND,
  SplitV,
  StridedSlice,
  type TensorInfo,
  Tile,
  Transpose,
  Unpack,
  util,
} from '@tensorflow/tfjs-core';
import type { CudaBackend } from '../backend.js';
import { kernel } from '../launch.js';
import { bytesPerElement } from '../tensor-data.js';
import { cast } from './cast.js';
import { cudaKernel } from './config.js';
import {
  at,
  broadcast,
  divider,
  into,
  type Layout,
  type PaddedAxis,
  paddedAxes,
  paddedShape,
  reversed,
  sliced,
  splitAt,
  tiled,
  transposed,
  zeros,
} from './layout.js';
import { bitsOf, byParts, gathered, rearranged } from './rearrange.js';

interface X {
  x: TensorInfo;
}

/** Another shape over the same data; at most one extent may be -1. */
export function reshape(backend: CudaBackend, x: TensorInfo, shape: readonly number[]): TensorInfo {
  const size = util.sizeFromShape(x.shape);
  const whole = util.inferFromImplicitShape([...shape], size);
  util.assert(
    size === util.sizeFromShape(whole),
    () =>
      `The new shape (${whole.join()}) has ${util.sizeFromShape(whole)} elements and the old shape ` +
      `(${x.shape.join()}) has ${size} elements. The new shape and old shape must have the same number ` +
      'of elements.',
  );
  return backend.alias(x, whole);
}

/** X with its axes in the order `perm`. */
export function transpose(
  backend: CudaBackend,
  x: TensorInfo,
  perm: readonly number[],
): TensorInfo {
  return rearranged(
    backend,
    x,
    perm.map((axis) => at(x.shape, axis)),
    transposed(x.shape, perm),
  );
}

/** The part of x that begins at `begin` and has the shape `size`. */
export function slice(
  backend: CudaBackend,
  x: TensorInfo,
  begin: readonly number[],
  size: readonly number[],
): TensorInfo {
  return rearranged(backend, x, size, sliced(x.shape, begin, size));
}

/** Tensors joined along an axis; `shape` is that of the result. */
export function concat(
  backend: CudaBackend,
  tensors: readonly TensorInfo[],
  shape: readonly number[],
  axis: number,
): TensorInfo {
  const [outer, total] = splitAt(shape, axis);
  const dtype = at(tensors, 0).dtype;
  // tfjs lets tensors of several dtypes be joined: the first one's is the result's.
  const alike = tensors.map((t) => (t.dtype === dtype ? t : cast(backend, t, dtype)));
  let start = 0;
  const pieces = alike.map((tensor) => {
    const size = splitAt(tensor.shape, axis)[1];
    const layout: Layout = {
      axes: [
        { size: outer, from: size, to: total },
        { size, from: 1, to: 1 },
      ],
      from: 0,
      to: start,
    };
    start += size;
    return { tensor, layout };
  });
  const result = gathered(backend, pieces, shape);
  alike.forEach((t, i) => {
    if (t !== tensors[i]) backend.disposeIntermediateTensorInfo(t);
  });
  return result;
}

/** Consecutive parts of x along an axis, of these extents; `shapeOf` gives each part's shape. */
function split(
  backend: CudaBackend,
  x: TensorInfo,
  axis: number,
  sizes: readonly number[],
  shapeOf: (size: number) => number[],
): TensorInfo[] {
  const [outer, total] = splitAt(x.shape, axis);
  const run = util.sizeFromShape(x.shape.slice(axis + 1));
  let start = 0;
  return sizes.map((size) => {
    const layout = into([outer, size * run], [total, 1], start);
    start += size * run;
    return rearranged(backend, x, shapeOf(size), layout);
  });
}

const PAD_RANK = 6;
const padParams = `i*${1 + 6 * PAD_RANK}`;
const padKernels = {
  1: kernel('arrays', 'arrays_pad_1', `p p u u ${padParams}`),
  4: kernel('arrays', 'arrays_pad_4', `p p u u ${padParams}`),
  16: kernel('arrays', 'arrays_pad_16', `p p u u ${padParams}`),
};
const mirrorKernels = {
  1: kernel('arrays', 'arrays_mirror_1', `p p u i ${padParams}`),
  4: kernel('arrays', 'arrays_mirror_4', `p p u i ${padParams}`),
  16: kernel('arrays', 'arrays_mirror_16', `p p u i ${padParams}`),
};

/** The axes counted in units of 16 bytes where all runs allow it. */
function paddedUnits(
  axes: PaddedAxis[],
  bytes: number,
  mirrored: boolean,
): { axes: PaddedAxis[]; width: 1 | 4 | 16 } {
  const factor = 16 / bytes;
  const inner = at(axes, axes.length - 1);
  const parts = [inner.size, inner.before, inner.inside];
  const whole =
    parts.every((count) => count % factor === 0) && (!mirrored || inner.size === inner.inside);
  if (!whole) return { axes, width: bytes === 1 ? 1 : 4 };
  return {
    axes: axes.map((axis) =>
      axis === inner
        ? {
            size: axis.size / factor,
            before: axis.before / factor,
            inside: axis.inside / factor,
            from: 1,
          }
        : { ...axis, from: axis.from / factor },
    ),
    width: 16,
  };
}

/** `struct Padding`. */
function paddingArgument(axes: readonly PaddedAxis[]): number[] {
  if (axes.length > PAD_RANK) {
    throw new Error(`A padding may have at most ${PAD_RANK} separate axes, not ${axes.length}.`);
  }
  const argument = zeros(1 + 6 * PAD_RANK);
  argument[0] = axes.length;
  for (let i = 0; i < axes.length; i++) {
    const axis = at(axes, axes.length - 1 - i);
    argument.splice(1 + 3 * i, 3, ...divider(axis.size));
    argument[1 + 3 * PAD_RANK + i] = axis.before;
    argument[1 + 4 * PAD_RANK + i] = axis.inside;
    argument[1 + 5 * PAD_RANK + i] = axis.from;
  }
  return argument;
}

/** Blocks of 256 threads, with as many items a thread as in arrays.cu. */
function padBlocks(backend: CudaBackend, count: number, width: 1 | 4 | 16): number {
  return backend.blocks(Math.ceil(count / (width === 16 ? 2 : 4)));
}

type Paddings = readonly (readonly [number, number])[];

/** X with `constant` around it. */
export function pad(
  backend: CudaBackend,
  x: TensorInfo,
  paddings: Paddings,
  constant: number,
): TensorInfo {
  const shape = paddedShape(x.shape, paddings);
  return byParts(backend, x, (piece, name) => {
    const output = backend.output(shape, piece.dtype);
    const bits = bitsOf(name === 'real' ? constant : 0, piece.dtype);
    const bytes = bytesPerElement(piece.dtype);
    const { axes, width } = paddedUnits(paddedAxes(x.shape, paddings, false), bytes, false);
    const count = axes.reduce((product, axis) => product * axis.size, 1);
    const from = count > 0 ? backend.pointer(piece) : 0;
    const args = [from, output.pointer, count, bits, paddingArgument(axes)];
    backend.launch(padKernels[width], padBlocks(backend, count, width), 256, args);
    return output;
  });
}

function mirrorPad(
  backend: CudaBackend,
  x: TensorInfo,
  paddings: Paddings,
  mode: 'reflect' | 'symmetric',
): TensorInfo {
  const shape = paddedShape(x.shape, paddings);
  return byParts(backend, x, (piece) => {
    const output = backend.output(shape, piece.dtype);
    const merged = paddedAxes(x.shape, paddings, true);
    const { axes, width } = paddedUnits(merged, bytesPerElement(piece.dtype), true);
    const count = axes.reduce((product, axis) => product * axis.size, 1);
    const from = count > 0 ? backend.pointer(piece) : 0;
    const offset = mode === 'reflect' ? 0 : 1;
    const args = [from, output.pointer, count, offset, paddingArgument(axes)];
    backend.launch(mirrorKernels[width], padBlocks(backend, count, width), 256, args);
    return output;
  });
}

interface StridedSliceAttrs {
  begin: number[];
  end: number[];
  strides: number[];
  beginMask: number;
  endMask: number;
  ellipsisMask: number;
  newAxisMask: number;
  shrinkAxisMask: number;
}

function stridedSlice(backend: CudaBackend, x: TensorInfo, attrs: StridedSliceAttrs): TensorInfo {
  const { finalShape, begin, end, strides } = slice_util.sliceInfo(
    x.shape,
    attrs.begin,
    attrs.end,
    attrs.strides,
    attrs.beginMask,
    attrs.endMask,
    attrs.ellipsisMask,
    attrs.newAxisMask,
    attrs.shrinkAxisMask,
  );
  const size = strides.map((step, axis) =>
    Math.max(0, Math.ceil((at(end, axis) - at(begin, axis)) / step)),
  );
  return rearranged(backend, x, finalShape, sliced(x.shape, begin, size, strides));
}

/** Batches of blocks from space: padded, split into blocks, blocks moved to the batch. */
function spaceToBatch(
  backend: CudaBackend,
  x: TensorInfo,
  blockShape: number[],
  paddings: [number, number][],
): TensorInfo {
  const product = util.sizeFromShape(blockShape);
  const all = x.shape.map((_, axis) => paddings[axis - 1] ?? ([0, 0] as [number, number]));
  const padded = pad(backend, x, all, 0);
  const split = backend_util.getReshaped(padded.shape, blockShape, product, false);
  const perm = backend_util.getPermuted(split.length, blockShape.length, false);
  const shape = backend_util.getReshapedPermuted(padded.shape, blockShape, product, false);
  const result = rearranged(backend, padded, shape, transposed(split, perm));
  backend.disposeIntermediateTensorInfo(padded);
  return result;
}

/** Space from batches of blocks: the reverse of {@link spaceToBatch}. */
function batchToSpace(
  backend: CudaBackend,
  x: TensorInfo,
  blockShape: number[],
  crops: number[][],
): TensorInfo {
  const product = util.sizeFromShape(blockShape);
  const split = backend_util.getReshaped(x.shape, blockShape, product);
  const perm = backend_util.getPermuted(split.length, blockShape.length);
  const shape = backend_util.getReshapedPermuted(x.shape, blockShape, product);
  // Both leave out the axes behind the blocks, which stay whole.
  const behind = shape.slice(blockShape.length + 1);
  const begin = backend_util
    .getSliceBeginCoords(crops, blockShape.length)
    .concat(behind.map(() => 0));
  const size = backend_util.getSliceSize(shape, crops, blockShape.length).concat(behind);
  const whole = rearranged(backend, x, shape, transposed(split, perm));
  const result = slice(backend, whole, begin, size);
  backend.disposeIntermediateTensorInfo(whole);
  return result;
}

function depthToSpace(
  backend: CudaBackend,
  x: TensorInfo,
  block: number,
  dataFormat: 'NHWC' | 'NCHW',
): TensorInfo {
  const [batch, a, b, c] = x.shape as [number, number, number, number];
  if (dataFormat === 'NHWC') {
    const depth = c / (block * block);
    const layout = transposed([batch, a, b, block, block, depth], [0, 1, 3, 2, 4, 5]);
    return rearranged(backend, x, [batch, a * block, b * block, depth], layout);
  }
  const depth = a / (block * block);
  const layout = transposed([batch, block, block, depth, b, c], [0, 3, 4, 1, 5, 2]);
  return rearranged(backend, x, [batch, depth, b * block, c * block], layout);
}

function diag(backend: CudaBackend, x: TensorInfo): TensorInfo {
  const size = util.sizeFromShape(x.shape);
  const layout = { axes: [{ size, from: 1, to: size + 1 }], from: 0, to: 0 };
  return gathered(backend, [{ tensor: x, layout }], [...x.shape, ...x.shape], 'zeros');
}

/** The kernels that reshape, move and repeat elements. */
export const arrayKernels: KernelConfig[] = [
  cudaKernel<X, { shape: number[] }>(Reshape, ({ inputs, attrs, backend }) =>
    reshape(backend, inputs.x, attrs.shape),
  ),

  cudaKernel<{ input: TensorInfo }, { dim: number }>(ExpandDims, ({ inputs, attrs, backend }) => {
    const { shape } = inputs.input;
    const { dim } = attrs;
    util.assert(
      -(shape.length + 1) <= dim,
      () => `Axis must be in the interval [${-(shape.length + 1)}, ${shape.length}]`,
    );
    return backend.alias(
      inputs.input,
      shape.toSpliced(dim < 0 ? shape.length + dim + 1 : dim, 0, 1),
    );
  }),

  cudaKernel<X, { perm: number[] }>(Transpose, ({ inputs, attrs, backend }) =>
    transpose(backend, inputs.x, attrs.perm),
  ),

  cudaKernel<X, { begin: number | number[]; size: number | number[] }>(
    Slice,
    ({ inputs: { x }, attrs, backend }) => {
      const [begin, size] = slice_util.parseSliceParams(x, attrs.begin, attrs.size) as [
        number[],
        number[],
      ];
      slice_util.assertParamsValid(x, begin, size);
      return slice(backend, x, begin, size);
    },
  ),

  cudaKernel<X, StridedSliceAttrs>(StridedSlice, ({ inputs, attrs, backend }) =>
    stridedSlice(backend, inputs.x, attrs),
  ),

  cudaKernel<TensorInfo[], { axis: number }>(Concat, ({ inputs, attrs, backend }) => {
    const [axis] = util.parseAxisParam(attrs.axis, at(inputs, 0).shape) as [number];
    const shapes = inputs.map((t) => t.shape);
    backend_util.assertParamsConsistent(shapes, axis);
    const shape = backend_util.computeOutShape(shapes, axis);
    const full = inputs.filter((t) => util.sizeFromShape(t.shape) > 0);
    return full.length === 1
      ? backend.alias(at(full, 0), at(full, 0).shape)
      : concat(backend, full.length > 0 ? full : inputs, shape, axis);
  }),

  cudaKernel<TensorInfo[], { axis: number }>(Pack, ({ inputs, attrs: { axis }, backend }) => {
    const { shape, dtype } = at(inputs, 0);
    for (const t of inputs) {
      util.assertShapesMatch(
        shape,
        t.shape,
        'All tensors passed to stack must have matching shapes',
      );
      util.assert(dtype === t.dtype, () => 'All tensors passed to stack must have matching dtypes');
    }
    return concat(backend, inputs, shape.toSpliced(axis, 0, inputs.length), axis);
  }),

  cudaKernel<{ value: TensorInfo }, { axis: number }>(Unpack, ({ inputs, attrs, backend }) => {
    const { shape } = inputs.value;
    const axis = attrs.axis < 0 ? attrs.axis + shape.length : attrs.axis;
    return split(backend, inputs.value, axis, zeros(at(shape, axis)).fill(1), () =>
      shape.toSpliced(axis, 1),
    );
  }),

  cudaKernel<X, { numOrSizeSplits: number | number[]; axis: number }>(
    SplitV,
    ({ inputs: { x }, attrs, backend }) => {
      const [axis] = util.parseAxisParam(attrs.axis, x.shape) as [number];
      const sizes = backend_util.prepareSplitSize(x, attrs.numOrSizeSplits, axis);
      return split(backend, x, axis, sizes, (size) => x.shape.toSpliced(axis, 1, size));
    },
  ),

  cudaKernel<X, { reps: number[] }>(Tile, ({ inputs: { x }, attrs: { reps }, backend }) =>
    rearranged(
      backend,
      x,
      x.shape.map((size, axis) => size * at(reps, axis)),
      tiled(x.shape, reps),
    ),
  ),

  cudaKernel<X, { shape: number[] }>(BroadcastTo, ({ inputs, attrs, backend }) =>
    rearranged(backend, inputs.x, attrs.shape, broadcast(inputs.x.shape, attrs.shape)),
  ),

  cudaKernel<{ s0: TensorInfo; s1: TensorInfo }>(BroadcastArgs, ({ inputs, backend }) => {
    const shape = backend_util.assertAndGetBroadcastShape(
      Array.from(backend.hostValues(inputs.s0)),
      Array.from(backend.hostValues(inputs.s1)),
    );
    return backend.makeTensorInfo([shape.length], 'int32', Int32Array.from(shape));
  }),

  cudaKernel<X, { dims: number | number[] }>(Reverse, ({ inputs: { x }, attrs, backend }) =>
    rearranged(
      backend,
      x,
      x.shape,
      reversed(x.shape, x.shape.length === 0 ? [] : util.parseAxisParam(attrs.dims, x.shape)),
    ),
  ),

  cudaKernel<X, { paddings: [number, number][]; constantValue: number }>(
    PadV2,
    ({ inputs, attrs, backend }) => pad(backend, inputs.x, attrs.paddings, attrs.constantValue),
  ),

  cudaKernel<X, { paddings: [number, number][]; mode: 'reflect' | 'symmetric' }>(
    MirrorPad,
    ({ inputs, attrs, backend }) => mirrorPad(backend, inputs.x, attrs.paddings, attrs.mode),
  ),

  cudaKernel<X, { blockShape: number[]; paddings: [number, number][] }>(
    SpaceToBatchND,
    ({ inputs, attrs, backend }) =>
      spaceToBatch(backend, inputs.x, attrs.blockShape, attrs.paddings),
  ),

  cudaKernel<X, { blockShape: number[]; crops: number[][] }>(
    BatchToSpaceND,
    ({ inputs, attrs, backend }) => batchToSpace(backend, inputs.x, attrs.blockShape, attrs.crops),
  ),

  cudaKernel<X, { blockSize: number; dataFormat: 'NHWC' | 'NCHW' }>(
    DepthToSpace,
    ({ inputs, attrs, backend }) =>
      depthToSpace(backend, inputs.x, attrs.blockSize, attrs.dataFormat),
  ),

  cudaKernel<X>(Diag, ({ inputs, backend }) => diag(backend, inputs.x)),
];
