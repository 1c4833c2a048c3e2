import { type ExpertsCall, pitchOf, WEIGHT_BYTES } from './call.js';
import type { FewShape } from './few-plan.js';

/** Most rows of a launch of experts-few.sm90a.cu. */
export const HOPPER_ROWS = 3;
export const HOPPER_THREADS = 512;
const WARPS = HOPPER_THREADS / 32;
/** Most experts that a router's launch selects from. */
const ROUTED_EXPERTS = 1024;
/** The table of selected experts has their numbers in so many bits. */
const MOST_EXPERTS = 2 ** 24;
/** Most weights of a router's output layer, which every block reads. */
const ROUTED_WEIGHTS = 65_536;

/** A layer as experts-few.sm90a.cu reads it. */
export interface FewHopperShape extends FewShape, Pick<ExpertsCall, 'gate'> {}

/** How a launch of experts-few.sm90a.cu is cut up. */
export interface FewHopperPlan {
  /** One a multiprocessor. */
  readonly blocks: number;
  /** Warps of a block that have a neuron at a time; 0 where the path cannot take the shape. */
  readonly owners: number;
  /** Neurons that a block's shared memory has room for, up to two an owner. */
  readonly slots: number;
  /** 16-byte pieces of the output that a block has. */
  readonly share: number;
  /** Dynamic shared memory. */
  readonly sharedBytes: number;
  /** What blocks tell each other, and how many launches there were. */
  readonly stateBytes: number;
}

const upTo = (multiple: number, value: number): number => Math.ceil(value / multiple) * multiple;

/** Cuts a launch up for a card with `sharedBytes` for a block. */
export function planFewHopper(
  shape: FewHopperShape,
  multiprocessors: number,
  sharedBytes: number,
): FewHopperPlan {
  const { rows, dIn, dOut, hidden, storage, routerWidth, experts } = shape;
  // x is float32 beside float32 weights, 16 bits else.
  const bytes = storage === 'float32' ? 4 : 2;
  const elements = 16 / WEIGHT_BYTES[storage];
  const neuronBytes = (shape.gate === 0 ? 1 : 2) * pitchOf(dIn, storage) * WEIGHT_BYTES[storage];
  const templateRows = rows === 1 ? 1 : HOPPER_ROWS;
  const fixed =
    rows * upTo(8, pitchOf(dIn, storage)) * bytes +
    WARPS * (templateRows * elements * 4 + 2 * 8) +
    experts * 4;
  const room = Math.floor((sharedBytes - fixed) / neuronBytes);
  const owners = Math.max(0, Math.min(WARPS, Math.ceil(hidden / multiprocessors), room));
  const slots = Math.min(2 * owners, room);
  const router =
    routerWidth === 0
      ? 0
      : rows * upTo(16, routerWidth * bytes) +
        upTo(16, rows * experts * 4) +
        upTo(16, rows * experts) +
        rows * Math.ceil(experts / 32) * 4;
  const share = Math.ceil(pitchOf(dOut, storage) / elements / multiprocessors);
  const canRoute =
    experts <= ROUTED_EXPERTS &&
    experts * routerWidth <= ROUTED_WEIGHTS &&
    router <= slots * neuronBytes;
  const fits = share <= WARPS && experts < MOST_EXPERTS && (routerWidth === 0 || canRoute);
  return {
    blocks: multiprocessors,
    owners: fits ? owners : 0,
    slots,
    share,
    sharedBytes: fixed + slots * neuronBytes,
    stateBytes: 8 * (1 + multiprocessors + rows * (routerWidth + hidden)),
  };
}
