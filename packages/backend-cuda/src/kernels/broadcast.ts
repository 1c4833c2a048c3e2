import { D2DMoEError } from '@d2dmoe/core';
import { backend_util, util } from '@tensorflow/tfjs-core';

/** Dimensions that the kernels take, after neighbouring ones are merged. */
const MAX_RANK = 6;

/** How the elements of two operands meet: what the kernels of two operands in elementwise.cu take. */
export interface Broadcast {
  /** Of the result. */
  readonly shape: number[];
  readonly size: number;
  /**
   * 0: both operands have the result's shape. 1: the kernel may read whole packs. 2: it may not.
   */
  readonly mode: 0 | 1 | 2;
  readonly rank: number;
  /** The result's merged dimensions and both operands' steps along them, 6 numbers each. */
  readonly dims: readonly number[];
  readonly stepsA: readonly number[];
  readonly stepsB: readonly number[];
}

const NOTHING = [0, 0, 0, 0, 0, 0];

/** Along each dimension of the result, innermost first: how far an operand goes; 0 where it is broadcast. */
function steps(shape: readonly number[], out: readonly number[]): number[] {
  const result: number[] = [];
  let stride = 1;
  for (let back = 1; back <= out.length; back++) {
    const extent = shape[shape.length - back] ?? 1;
    result.push(extent === 1 ? 0 : stride);
    stride *= extent;
  }
  return result;
}

function padded(values: number[]): number[] {
  return [...values.reverse(), ...NOTHING].slice(0, MAX_RANK);
}

/**
 * How two shapes are broadcast against each other.
 *
 * @param lanes Elements of a pack.
 * @throws Error of tfjs where the shapes do not fit; D2DMoEError CUDA_RANK where too many dimensions stay after merging.
 */
export function broadcast(a: readonly number[], b: readonly number[], lanes = 4): Broadcast {
  if (util.arraysEqual(a as number[], b as number[])) return sameShape(a);
  const shape = backend_util.assertAndGetBroadcastShape(a as number[], b as number[]);
  const size = util.sizeFromShape(shape);
  const allA = steps(a, shape);
  const allB = steps(b, shape);
  const dims: number[] = [];
  const stepsA: number[] = [];
  const stepsB: number[] = [];
  for (const [i, extent] of [...shape].reverse().entries()) {
    if (extent === 1) continue;
    const stepA = allA[i] ?? 0;
    const stepB = allB[i] ?? 0;
    const last = dims.length - 1;
    const inner = dims[last] ?? 0;
    // Neighbours are one dimension where both operands go on behind the inner one's end, or both stay.
    if (
      last >= 0 &&
      stepA === (stepsA[last] ?? 0) * inner &&
      stepB === (stepsB[last] ?? 0) * inner
    ) {
      dims[last] = inner * extent;
      continue;
    }
    dims.push(extent);
    stepsA.push(stepA);
    stepsB.push(stepB);
  }
  const rank = dims.length;
  if (rank === 0 || (rank === 1 && stepsA[0] === 1 && stepsB[0] === 1)) return sameShape(shape);
  if (rank > MAX_RANK) {
    throw new D2DMoEError(
      'CUDA_RANK',
      `Shapes [${a.join()}] and [${b.join()}] broadcast along ${rank} separate dimensions; at most ${MAX_RANK} are supported.`,
    );
  }
  const mode = rank === 1 || (dims[0] ?? 0) % lanes === 0 ? 1 : 2;
  return {
    shape,
    size,
    mode,
    rank,
    dims: padded(dims),
    stepsA: padded(stepsA),
    stepsB: padded(stepsB),
  };
}

function sameShape(shape: readonly number[]): Broadcast {
  return {
    shape: shape as number[],
    size: util.sizeFromShape(shape as number[]),
    mode: 0,
    rank: 1,
    dims: NOTHING,
    stepsA: NOTHING,
    stepsB: NOTHING,
  };
}
