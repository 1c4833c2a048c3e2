import type { CudaBackend } from '../backend.js';
import { type Kernel, kernel } from '../launch.js';
import { type Axis, at, countOf, divider, isRun, type Layout, widened, zeros } from './layout.js';

const MAX_RANK = 6;
const INT_MAX = 2 ** 31 - 1;
const BLOCK = 256;
const TILE = 64;

type Width = 1 | 2 | 4 | 8 | 16;

function byWidth(name: string, params: string): Record<Width, Kernel> {
  const of = (width: Width) => kernel('arrays', `${name}_${width}`, params);
  return { 1: of(1), 2: of(2), 4: of(4), 8: of(8), 16: of(16) };
}

const copyKernels = byWidth('arrays_copy', `p p u i*${1 + 5 * MAX_RANK}`);
const wideCopyKernels = byWidth('arrays_copy_wide', `p p l l*${1 + 3 * MAX_RANK}`);
// There is no swap of 16 bytes: such units are read and written whole sectors at a time anyhow.
const swapKernels = byWidth('arrays_swap', `p p i*${6 + 4 + 1 + 5 * MAX_RANK}`);

/** Items that a thread of the copy kernels takes, as arrays.cu has them. */
const ITEMS: Record<Width, number> = { 1: 4, 2: 4, 4: 4, 8: 2, 16: 2 };

/**
 * Copies between two strided layouts on the device: as one run where both are contiguous, through
 * shared memory where source and target are contiguous along different axes, else element by element in
 * the widest unit that both allow.
 *
 * @param from Device address that the layout's source counts from; `to` likewise.
 * @param bytes Width of an element: 1, 2 or 4.
 */
export function stridedCopy(
  backend: CudaBackend,
  from: number,
  to: number,
  bytes: number,
  layout: Layout,
): void {
  if (countOf(layout) === 0) return;
  const wide = widened(layout, bytes);
  const width = wide.bytes as Width;
  const { axes } = wide.layout;
  const source = from + wide.layout.from * width;
  const target = to + wide.layout.to * width;
  if (isRun(axes)) {
    backend.copy(target, source, countOf(wide.layout) * width);
  } else {
    copyAxes(backend, source, target, width, axes);
  }
}

function copyAxes(
  backend: CudaBackend,
  from: number,
  to: number,
  width: Width,
  axes: readonly Axis[],
): void {
  const swap = swapOf(axes, width);
  if ((swap?.outer.length ?? axes.length) > MAX_RANK) {
    // More axes than the kernels' structs hold, which no merged layout of a common op has.
    const [outer, ...inner] = axes as [Axis, ...Axis[]];
    for (let i = 0; i < outer.size; i++) {
      const source = from + i * outer.from * width;
      copyAxes(backend, source, to + i * outer.to * width, width, inner);
    }
    return;
  }
  if (swap !== undefined) {
    const tiles = swap.tileRows * swap.tileColumns;
    const grid = swap.outer.reduce((product, axis) => product * axis.size, tiles);
    backend.launch(swapKernels[width], grid, [TILE, 4, 1], [from, to, swapArgument(swap)]);
    return;
  }
  const count = axes.reduce((product, axis) => product * axis.size, 1);
  const grid = backend.blocks(Math.ceil(count / ITEMS[width]), BLOCK);
  if (count <= INT_MAX && reach(axes, 'from') <= INT_MAX && reach(axes, 'to') <= INT_MAX) {
    backend.launch(copyKernels[width], grid, BLOCK, [from, to, count, axesArgument(axes)]);
  } else {
    backend.launch(wideCopyKernels[width], grid, BLOCK, [from, to, count, wideArgument(axes)]);
  }
}

/** A copy whose source is contiguous along `rows` and whose target is along `columns`. */
interface Swap {
  readonly rows: Axis;
  readonly columns: Axis;
  readonly tileRows: number;
  readonly tileColumns: number;
  readonly outer: readonly Axis[];
}

/**
 * The two axes to take through shared memory, where tiles of them would be filled enough to be worth
 * it: a small matrix fits the first-level cache, a narrow one leaves most of a tile idle.
 */
function swapOf(axes: readonly Axis[], width: Width): Swap | undefined {
  const columns = axes.at(-1);
  const rows = axes.find((axis) => axis.from === 1);
  if (width === 16 || rows === undefined || columns?.to !== 1 || rows === columns) return undefined;
  if (Math.min(rows.size, columns.size) < 8 || rows.size * columns.size < 1024) return undefined;
  const tileRows = Math.ceil(rows.size / TILE);
  const tileColumns = Math.ceil(columns.size / TILE);
  const outer = axes.filter((axis) => axis !== rows && axis !== columns);
  const tiles = outer.reduce((product, axis) => product * axis.size, tileRows * tileColumns);
  const strides = axes.every((axis) => Math.max(Math.abs(axis.from), axis.to) <= INT_MAX);
  return tiles <= INT_MAX && strides ? { rows, columns, tileRows, tileColumns, outer } : undefined;
}

/** The furthest offset that a layout's source or target comes to. */
function reach(axes: readonly Axis[], side: 'from' | 'to'): number {
  return axes.reduce((sum, axis) => sum + (axis.size - 1) * Math.abs(axis[side]), 0);
}

function swapArgument({ rows, columns, tileRows, tileColumns, outer }: Swap): number[] {
  return [
    rows.size,
    columns.size,
    columns.from,
    rows.to,
    ...divider(tileRows),
    ...divider(tileColumns),
    ...axesArgument(outer),
  ];
}

const NO_AXES = zeros(1 + 5 * MAX_RANK);
const NO_WIDE_AXES = zeros(1 + 3 * MAX_RANK);

/** `struct Axes`: innermost first, as all of these. */
function axesArgument(axes: readonly Axis[]): number[] {
  const argument = NO_AXES.slice();
  argument[0] = axes.length;
  for (let i = 0; i < axes.length; i++) {
    const axis = at(axes, axes.length - 1 - i);
    const [divisor, factor, shift] = divider(axis.size) as [number, number, number];
    argument[1 + 3 * i] = divisor;
    argument[2 + 3 * i] = factor;
    argument[3 + 3 * i] = shift;
    argument[1 + 3 * MAX_RANK + i] = axis.from;
    argument[1 + 4 * MAX_RANK + i] = axis.to;
  }
  return argument;
}

/** `struct WideAxes`. */
function wideArgument(axes: readonly Axis[]): number[] {
  const argument = NO_WIDE_AXES.slice();
  argument[0] = axes.length;
  for (let i = 0; i < axes.length; i++) {
    const axis = at(axes, axes.length - 1 - i);
    argument[1 + i] = axis.size;
    argument[1 + MAX_RANK + i] = axis.from;
    argument[1 + 2 * MAX_RANK + i] = axis.to;
  }
  return argument;
}
