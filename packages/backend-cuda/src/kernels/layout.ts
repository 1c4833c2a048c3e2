import { util } from '@tensorflow/tfjs-core';

/** One axis of a copy between two layouts: its extent and its strides in elements. */
export interface Axis {
  readonly size: number;
  /** Stride of the source: 0 repeats it, a negative one runs backwards. */
  readonly from: number;
  /** Stride of the target. */
  readonly to: number;
}

/** A copy of elements between two strided layouts, outermost axis first, with both starts in elements. */
export interface Layout {
  readonly axes: readonly Axis[];
  readonly from: number;
  readonly to: number;
}

/** Strides of a contiguous tensor, one for every axis (tfjs's own leaves out the last one). */
export function stridesOf(shape: readonly number[]): number[] {
  const strides = [...shape];
  let stride = 1;
  for (let axis = shape.length - 1; axis >= 0; axis--) {
    strides[axis] = stride;
    stride *= at(shape, axis);
  }
  return strides;
}

/** A copy into a contiguous target of this shape, given the source's stride along each of its axes. */
export function into(shape: readonly number[], from: readonly number[], start = 0): Layout {
  const to = stridesOf(shape);
  return {
    axes: shape.map((size, axis) => ({ size, from: at(from, axis), to: at(to, axis) })),
    from: start,
    to: 0,
  };
}

/** Out[..., i, ...] = x with its axes in the order `perm`. */
export function transposed(shape: readonly number[], perm: readonly number[]): Layout {
  const strides = stridesOf(shape);
  return into(
    perm.map((axis) => at(shape, axis)),
    perm.map((axis) => at(strides, axis)),
  );
}

/** Out[i] = x[begin + i * step] along every axis. */
export function sliced(
  shape: readonly number[],
  begin: readonly number[],
  size: readonly number[],
  step: readonly number[] = size.map(() => 1),
): Layout {
  const strides = stridesOf(shape);
  return into(
    size,
    strides.map((stride, axis) => stride * at(step, axis)),
    strides.reduce((sum, stride, axis) => sum + stride * at(begin, axis), 0),
  );
}

/** Out[i] = x[i mod size] along every axis. */
export function tiled(shape: readonly number[], reps: readonly number[]): Layout {
  const strides = stridesOf(shape);
  return into(
    shape.flatMap((size, axis) => [at(reps, axis), size]),
    strides.flatMap((stride) => [0, stride]),
  );
}

/** Out of a shape that x broadcasts to. */
export function broadcast(shape: readonly number[], to: readonly number[]): Layout {
  const missing = to.length - shape.length;
  const strides = stridesOf(shape);
  return into(
    to,
    to.map((_, axis) =>
      axis < missing || at(shape, axis - missing) === 1 ? 0 : at(strides, axis - missing),
    ),
  );
}

/** Out[i] = x[size - 1 - i] along the given axes. */
export function reversed(shape: readonly number[], axes: readonly number[]): Layout {
  const strides = stridesOf(shape);
  return into(
    shape,
    strides.map((stride, axis) => (axes.includes(axis) ? -stride : stride)),
    axes.reduce((sum, axis) => sum + at(strides, axis) * (at(shape, axis) - 1), 0),
  );
}

/** Number of elements that a layout copies. */
export function countOf(layout: Layout): number {
  return layout.axes.reduce((product, axis) => product * axis.size, 1);
}

/** The same copy with as few axes as it takes: none of extent 1, none that continues its neighbour. */
export function merged(axes: readonly Axis[]): Axis[] {
  const out: Axis[] = [];
  for (const axis of axes) {
    if (axis.size === 1) continue;
    const outer = out.at(-1);
    if (outer?.from === axis.from * axis.size && outer.to === axis.to * axis.size) {
      out[out.length - 1] = { size: outer.size * axis.size, from: axis.from, to: axis.to };
    } else {
      out.push(axis);
    }
  }
  return out;
}

/** Whether merged axes describe one run of consecutive elements in both. */
export function isRun(axes: readonly Axis[]): boolean {
  const [axis] = axes;
  return axis === undefined || (axes.length === 1 && axis.from === 1 && axis.to === 1);
}

const WIDTHS = [16, 8, 4, 2] as const;

/**
 * The widest unit in which a copy of elements of `bytes` bytes can be made, and the copy counted in
 * such units. All runs and strides have to be whole units.
 */
export function widened(layout: Layout, bytes: number): { layout: Layout; bytes: number } {
  const axes = merged(layout.axes);
  const inner = axes.at(-1);
  if (inner?.from === 1 && inner.to === 1) {
    for (const width of WIDTHS) {
      if (width <= bytes) break;
      const factor = width / bytes;
      const whole = (count: number) => count % factor === 0;
      const fits =
        whole(inner.size) &&
        whole(layout.from) &&
        whole(layout.to) &&
        axes.every((axis) => axis === inner || (whole(axis.from) && whole(axis.to)));
      if (fits) {
        return {
          layout: {
            axes: axes.map((axis) =>
              axis === inner
                ? { size: axis.size / factor, from: 1, to: 1 }
                : { size: axis.size, from: axis.from / factor, to: axis.to / factor },
            ),
            from: layout.from / factor,
            to: layout.to / factor,
          },
          bytes: width,
        };
      }
    }
  }
  return { layout: { ...layout, axes }, bytes };
}

/** Makes a copy on the host; for strings, which live there. */
export function copyOnHost<T>(source: ArrayLike<T>, target: T[], layout: Layout): void {
  const visit = (axis: number, from: number, to: number): void => {
    const next = layout.axes[axis];
    if (next === undefined) {
      target[to] = source[from] as T;
      return;
    }
    for (let i = 0; i < next.size; i++) visit(axis + 1, from + i * next.from, to + i * next.to);
  };
  visit(0, layout.from, layout.to);
}

const dividers = new Map<number, readonly number[]>();

/**
 * What a kernel needs to divide numbers below 2^31 by `divisor` without dividing: the divisor, a
 * factor and a shift (Granlund and Montgomery 1994, "Division by invariant integers using
 * multiplication").
 */
export function divider(divisor: number): readonly number[] {
  let found = dividers.get(divisor);
  if (found === undefined) {
    const shift = Math.ceil(Math.log2(divisor));
    const d = BigInt(divisor);
    const factor = ((1n << 32n) * ((1n << BigInt(shift)) - d)) / d + 1n;
    found = [divisor, Number(factor), shift];
    if (dividers.size > 10_000) dividers.clear();
    dividers.set(divisor, found);
  }
  return found;
}

/** One axis of a padding: extents of target and source, elements before, and the source's stride. */
export interface PaddedAxis {
  readonly size: number;
  readonly before: number;
  readonly inside: number;
  readonly from: number;
}

/**
 * The axes of a padding, merged: an axis without padding joins its outer neighbour, which for a
 * constant may be padded itself. Mirrored ones only join where neither is padded.
 */
export function paddedAxes(
  shape: readonly number[],
  paddings: readonly (readonly [number, number])[],
  mirrored: boolean,
): PaddedAxis[] {
  const strides = stridesOf(shape);
  const out: PaddedAxis[] = [];
  for (const [axis, inside] of shape.entries()) {
    const [before, after] = at(paddings, axis);
    const size = before + inside + after;
    const from = at(strides, axis);
    const outer = out.at(-1);
    const joins =
      outer !== undefined && size === inside && (!mirrored || outer.size === outer.inside);
    if (joins) {
      out[out.length - 1] = {
        size: outer.size * inside,
        before: outer.before * inside,
        inside: outer.inside * inside,
        from,
      };
    } else {
      out.push({ size, before, inside, from });
    }
  }
  return out;
}

/** Shape of a tensor after padding. */
export function paddedShape(
  shape: readonly number[],
  paddings: readonly (readonly [number, number])[],
): number[] {
  return shape.map((size, axis) => at(paddings, axis)[0] + size + at(paddings, axis)[1]);
}

/** Product of the extents before an axis, and from it on. */
export function splitAt(shape: readonly number[], axis: number): [outer: number, inner: number] {
  return [util.sizeFromShape(shape.slice(0, axis)), util.sizeFromShape(shape.slice(axis))];
}

/** A list of zeros. */
export function zeros(length: number): number[] {
  return Array.from({ length }, () => 0);
}

/** An element that has to be there. */
export function at<T>(list: readonly T[], index: number): T {
  if (index < 0 || index >= list.length) {
    throw new RangeError(`Index ${index} is outside a list of ${list.length}.`);
  }
  return list[index] as T;
}
