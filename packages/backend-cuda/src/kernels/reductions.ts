import type { DataType, KernelConfig, TensorInfo } from '@tensorflow/tfjs-core';
import { backend_util, util } from '@tensorflow/tfjs-core';
import type { CudaBackend } from '../backend.js';
import { type Kernel, kernel } from '../launch.js';
import { castAway, requireReal, withType } from './cast.js';
import { cudaKernel } from './config.js';
import { withScratch } from './run.js';

const THREADS = 256;
/** Rows up to this length are reduced by a warp or less. */
const LANES_MAX = 1024;
/** Columns up to this length are reduced by one thread. */
const THREAD_MAX = 32;
/** A part of a long row or column is worth a block from this many elements on. */
const PART_MIN = 4096;

/** The four forms of one reduction in reductions.cu. */
interface Forms {
  readonly lanes: Kernel;
  readonly row: Kernel;
  readonly column: Kernel;
  readonly thread: Kernel;
}

function forms(name: string): Forms {
  return {
    lanes: kernel('reductions', `reduce_lanes_${name}`, 'p p l i i d'),
    row: kernel('reductions', `reduce_row_${name}`, 'p p l l d'),
    column: kernel('reductions', `reduce_column_${name}`, 'p p l l l i d'),
    thread: kernel('reductions', `reduce_thread_${name}`, 'p p l i l d'),
  };
}

/** A reduction in passes: the first reads the operand's type, the last may finish differently. */
interface Reduction {
  /** The operand's type that the kernels read. */
  readonly reads: DataType;
  readonly writes: DataType;
  /** For passes that read the operand, and that read partial results. */
  readonly first: Forms;
  readonly next: Forms;
  /** In place of either for the pass that writes the result. */
  readonly last?: Forms;
}

function same(name: string, reads: DataType, writes = reads): Reduction {
  const all = forms(name);
  return { reads, writes, first: all, next: all };
}

const sumFloat = same('sum_f32', 'float32');
const sumInt = same('sum_i32', 'int32');
const sumBool: Reduction = {
  reads: 'bool',
  writes: 'int32',
  first: forms('sum_bool'),
  next: sumInt.first,
};
const sumHalf: Reduction = { ...sumFloat, first: forms('sum_bf16') };
const meanFloat: Reduction = { ...sumFloat, last: forms('mean_f32') };
const prodFloat = same('prod_f32', 'float32');
const prodInt = same('prod_i32', 'int32');
const maxFloat = same('max_f32', 'float32');
const maxInt = same('max_i32', 'int32');
const minFloat = same('min_f32', 'float32');
const minInt = same('min_i32', 'int32');
const allBool = same('all_bool', 'bool');
const anyBool = same('any_bool', 'bool');
const argMaxFloat = same('argmax_f32', 'float32', 'int32');
const argMaxInt = same('argmax_i32', 'int32', 'int32');
const argMinFloat = same('argmin_f32', 'float32', 'int32');
const argMinInt = same('argmin_i32', 'int32', 'int32');

/** A tensor seen as [outer, n, inner], to be reduced along n. */
interface View {
  readonly outer: number;
  readonly n: number;
  readonly inner: number;
}

function powerOfTwo(atLeast: number): number {
  return 2 ** Math.ceil(Math.log2(Math.max(1, atLeast)));
}

/** Into how many parts n is cut so that `blocks` blocks for each part fill the card. */
function partsFor(backend: CudaBackend, blocks: number, n: number): number {
  const wanted = Math.ceil((4 * backend.device.multiprocessors) / blocks);
  return Math.max(1, Math.min(wanted, Math.ceil(n / PART_MIN), 65_535));
}

/**
 * Enqueues the reduction of a view into [outer, inner].
 *
 * @param whole The kernels that reduce it at once.
 * @param split Those that reduce parts of it and join these, where that may be done.
 */
function reduceView(
  backend: CudaBackend,
  { outer, n, inner }: View,
  from: number,
  to: number,
  count: number,
  whole: Forms,
  split?: { readonly parts: Forms; readonly join: Forms },
): void {
  const outputs = outer * inner;
  if (outputs === 0) return;
  if (inner === 1 && n <= LANES_MAX) {
    const width = Math.min(32, powerOfTwo(n));
    const blocks = Math.ceil(outer / (THREADS / width));
    backend.launch(whole.lanes, blocks, THREADS, [from, to, outer, n, width, count]);
    return;
  }
  if (n <= THREAD_MAX) {
    const args = [from, to, outputs, n, inner, count];
    backend.launch(whole.thread, backend.blocks(outputs, THREADS), THREADS, args);
    return;
  }
  const width = Math.min(32, powerOfTwo(inner));
  const blocks = inner === 1 ? outer : outer * Math.ceil(inner / width);
  const wanted = split === undefined ? 1 : partsFor(backend, blocks, inner === 1 ? n : n * width);
  // A multiple of 4 elements; no part is empty.
  const chunk = Math.ceil(n / wanted / 4) * 4;
  const parts = Math.ceil(n / chunk);
  const launch = (forms: Forms, out: number): void => {
    if (inner === 1) {
      backend.launch(forms.row, [blocks, parts, 1], THREADS, [from, out, n, chunk, count]);
    } else {
      const args = [from, out, n, inner, chunk, width, count];
      backend.launch(forms.column, [blocks, parts, 1], THREADS, args);
    }
  };
  if (split === undefined || parts === 1) {
    launch(whole, to);
    return;
  }
  withScratch(backend, outputs * parts * 4, (partial) => {
    launch(split.parts, partial);
    reduceView(backend, { outer, n: parts, inner }, partial, to, count, split.join);
  });
}

/** Neighbouring axes of one kind, reduced or kept, as one; axes of extent 1 as none. */
function merged(
  shape: readonly number[],
  axes: readonly number[],
): { size: number; reduced: boolean }[] {
  const groups: { size: number; reduced: boolean }[] = [];
  for (const [axis, size] of shape.entries()) {
    if (size === 1) continue;
    const reduced = axes.includes(axis);
    const last = groups.at(-1);
    if (last !== undefined && last.reduced === reduced) last.size *= size;
    else groups.push({ size, reduced });
  }
  return groups;
}

function product(groups: readonly { size: number }[]): number {
  return groups.reduce((size, group) => size * group.size, 1);
}

/** Enqueues the passes of a reduction of `x`, from its last group of reduced axes to its first. */
function reducePasses(
  backend: CudaBackend,
  { first, next, last }: Reduction,
  shape: readonly number[],
  axes: readonly number[],
  from: number,
  to: number,
): void {
  const groups = merged(shape, axes);
  const count = axes.reduce((size, axis) => size * (shape[axis] ?? 1), 1);
  if (!groups.some((group) => group.reduced)) groups.push({ size: 1, reduced: true });
  const memories: { free(): void }[] = [];
  let source = from;
  let reading = first;
  for (;;) {
    const at = groups.findLastIndex((group) => group.reduced);
    const view = {
      outer: product(groups.slice(0, at)),
      n: groups[at]?.size ?? 1,
      inner: product(groups.slice(at + 1)),
    };
    groups.splice(at, 1);
    const done = !groups.some((group) => group.reduced);
    const whole = done ? (last ?? reading) : reading;
    const split = { parts: reading, join: done ? (last ?? next) : next };
    let target = to;
    if (!done) {
      const memory = backend.scratch(view.outer * view.inner * 4);
      memories.push(memory);
      target = memory.pointer;
    }
    reduceView(backend, view, source, target, count, whole, split);
    if (done) break;
    source = target;
    reading = next;
  }
  for (const memory of memories) memory.free();
}

interface ReduceAttrs {
  axis?: number | number[];
  keepDims?: boolean;
}

function axesOf(x: TensorInfo, axis: number | number[] | undefined): number[] {
  // tfjs takes null and undefined for all axes.
  return util.parseAxisParam(axis as number | number[], x.shape);
}

function reducedShape(x: TensorInfo, axes: number[], keepDims = false): number[] {
  const [shape] = backend_util.computeOutAndReduceShapes(x.shape, axes);
  return keepDims ? backend_util.expandShapeToKeepDim(shape, axes) : shape;
}

/** Enqueues a reduction and makes its result; a reduction over nothing is a reduction of every single element. */
function reduce(
  backend: CudaBackend,
  reduction: Reduction,
  x: TensorInfo,
  { axis, keepDims }: ReduceAttrs,
): TensorInfo {
  const axes = axesOf(x, axis);
  return withType(backend, x, reduction.reads, (operand) => {
    const out = backend.output(reducedShape(x, axes, keepDims), reduction.writes);
    const from = reduction === sumHalf ? backend.pointer16(operand) : backend.pointer(operand);
    reducePasses(backend, reduction, x.shape, axes, from, out.pointer);
    return out;
  });
}

/** One reduction for floats, one for integers and bool. */
function byType(
  kernelName: string,
  floats: Reduction,
  integers: Reduction,
  keepsBool: boolean,
): KernelConfig {
  return cudaKernel<{ x: TensorInfo }, ReduceAttrs & { reductionIndices?: number | number[] }>(
    kernelName,
    ({ inputs: { x }, attrs, backend }) => {
      requireReal(kernelName, x);
      const axis = attrs.reductionIndices ?? attrs.axis;
      const where = {
        ...(axis === undefined ? {} : { axis }),
        ...(attrs.keepDims === undefined ? {} : { keepDims: attrs.keepDims }),
      };
      if (x.dtype === 'float32') return reduce(backend, floats, x, where);
      const out = reduce(backend, integers, x, where);
      return keepsBool ? castAway(backend, out, x.dtype) : out;
    },
  );
}

function truth(kernelName: string, reduction: Reduction): KernelConfig {
  return cudaKernel<{ x: TensorInfo }, ReduceAttrs>(
    kernelName,
    ({ inputs: { x }, attrs, backend }) => {
      requireReal(kernelName, x);
      return castAway(backend, reduce(backend, reduction, x, attrs), x.dtype);
    },
  );
}

/** ArgMax and ArgMin: along the first of the given axes. */
function place(kernelName: string, floats: Reduction, integers: Reduction): KernelConfig {
  return cudaKernel<{ x: TensorInfo }, { axis: number | number[] }>(
    kernelName,
    ({ inputs: { x }, attrs, backend }) => {
      requireReal(kernelName, x);
      const [axis = 0] = axesOf(x, attrs.axis);
      const reduction = x.dtype === 'float32' ? floats : integers;
      const view = {
        outer: util.sizeFromShape(x.shape.slice(0, axis)),
        n: x.shape[axis] ?? 1,
        inner: util.sizeFromShape(x.shape.slice(axis + 1)),
      };
      return withType(backend, x, reduction.reads, (operand) => {
        const out = backend.output(reducedShape(x, [axis]), 'int32');
        reduceView(backend, view, backend.pointer(operand), out.pointer, 1, reduction.first);
        return out;
      });
    },
  );
}

const softmaxWarp4 = kernel('reductions', 'softmax_warp_4', 'p p l i i');
const softmaxWarp16 = kernel('reductions', 'softmax_warp_16', 'p p l i i');
const softmaxBlock = kernel('reductions', 'softmax_block', 'p p l i');

/** Enqueues softmax or its logarithm along the last axis. */
export function softmax(backend: CudaBackend, logits: TensorInfo, logarithm: boolean): TensorInfo {
  return withType(backend, logits, 'float32', (x) => {
    const n = x.shape.at(-1) ?? 1;
    const rows = util.sizeFromShape(x.shape.slice(0, -1));
    const out = backend.output(x.shape, 'float32');
    if (n === 0 || rows === 0) return out;
    const from = backend.pointer(x);
    if (n > 512) {
      backend.launch(softmaxBlock, rows, THREADS, [from, out.pointer, n, Number(logarithm)]);
    } else {
      const args = [from, out.pointer, rows, n, Number(logarithm)];
      backend.launch(n > 128 ? softmaxWarp16 : softmaxWarp4, Math.ceil(rows / 8), THREADS, args);
    }
    return out;
  });
}

const bincountFloat = kernel('reductions', 'bincount_f32', 'p p p l i i i');
const bincountInt = kernel('reductions', 'bincount_i32', 'p p p l i i i');

/** Counts, or sums of weights, of the values 0 … size − 1 in each row; other values are passed over. */
function bincount(
  backend: CudaBackend,
  { x, weights }: Counts,
  rows: number,
  shape: number[],
  binary: boolean,
): TensorInfo {
  requireReal('Bincount', x, weights);
  const weighted = util.sizeFromShape(weights.shape) > 0;
  const type = weights.dtype === 'float32' ? 'float32' : 'int32';
  const bins = shape.at(-1) ?? 0;
  const out = withType(backend, x, 'int32', (values) =>
    withType(backend, weights, type, (w) => {
      const counts = backend.output(shape, type);
      backend.launch(type === 'float32' ? bincountFloat : bincountInt, rows * bins, THREADS, [
        backend.pointer(values),
        weighted ? backend.pointer(w) : 0,
        counts.pointer,
        rows === 0 ? 0 : util.sizeFromShape(x.shape) / rows,
        bins,
        Number(weighted),
        Number(binary),
      ]);
      return counts;
    }),
  );
  return castAway(backend, out, weights.dtype);
}

interface Counts {
  x: TensorInfo;
  weights: TensorInfo;
}

/** Reductions along any axes, softmax, and counts. */
export const reductionKernels: KernelConfig[] = [
  cudaKernel<{ x: TensorInfo }, ReduceAttrs>('Sum', ({ inputs: { x }, attrs, backend }) => {
    requireReal('Sum', x);
    if (x.dtype === 'bool') return reduce(backend, sumBool, x, attrs);
    if (x.dtype === 'int32') return reduce(backend, sumInt, x, attrs);
    return reduce(backend, backend.isOnly16(x) ? sumHalf : sumFloat, x, attrs);
  }),
  cudaKernel<{ x: TensorInfo }, ReduceAttrs>('Mean', ({ inputs: { x }, attrs, backend }) => {
    requireReal('Mean', x);
    return reduce(backend, meanFloat, x, attrs);
  }),
  byType('Prod', prodFloat, prodInt, false),
  byType('Max', maxFloat, maxInt, true),
  byType('Min', minFloat, minInt, true),
  truth('All', allBool),
  truth('Any', anyBool),
  place('ArgMax', argMaxFloat, argMaxInt),
  place('ArgMin', argMinFloat, argMinInt),
  cudaKernel<{ logits: TensorInfo }, { dim: number }>('Softmax', ({ inputs, attrs, backend }) => {
    requireReal('Softmax', inputs.logits);
    requireLast('Softmax', inputs.logits, attrs.dim);
    return softmax(backend, inputs.logits, false);
  }),
  cudaKernel<{ logits: TensorInfo }, { axis: number }>(
    'LogSoftmax',
    ({ inputs, attrs, backend }) => {
      requireReal('LogSoftmax', inputs.logits);
      requireLast('LogSoftmax', inputs.logits, attrs.axis);
      return softmax(backend, inputs.logits, true);
    },
  ),
  cudaKernel<Counts, { size: number }>('Bincount', ({ inputs, attrs, backend }) =>
    bincount(backend, inputs, 1, [attrs.size], false),
  ),
  cudaKernel<Counts, { size: number; binaryOutput?: boolean }>(
    'DenseBincount',
    ({ inputs, attrs: { size, binaryOutput = false }, backend }) => {
      const [rows = 1] = inputs.x.shape;
      return inputs.x.shape.length === 2
        ? bincount(backend, inputs, rows, [rows, size], binaryOutput)
        : bincount(backend, inputs, 1, [size], binaryOutput);
    },
  ),
];

function requireLast(name: string, x: TensorInfo, axis: number): void {
  const rank = x.shape.length;
  if (axis !== -1 && axis !== rank - 1) {
    throw new Error(
      `${name} along axis ${axis} of a tensor of rank ${rank}: only the last axis is supported.`,
    );
  }
}
