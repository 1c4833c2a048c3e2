import { anyOf, type ExpertsCall, pitchOf, plannedDensity, WEIGHT_BYTES } from './call.js';
import type { FewShape } from './few-plan.js';

/** Most rows of a launch of experts-few.sm90a.cu. */
export const HOPPER_ROWS = 3;
export const HOPPER_THREADS = 512;
const WARPS = HOPPER_THREADS / 32;
/** Most neurons of a turn where a block has several: in more, what is left to do when the last weights come takes longer. */
const TURN = 9;
/** Most experts that a router's launch selects from. */
const ROUTED_EXPERTS = 1024;
/** Neurons of a block below which fewer blocks, whose sums are added up sooner, are faster. */
const LEAST_NEURONS = 7;
/** Most weights of a router's output layer, which every block reads. */
const ROUTED_WEIGHTS = 65_536;
/** 16-byte pieces of that layer that a thread has on their way before it knows what they are multiplied with. */
const AHEAD = 4;

/** A layer as experts-few.sm90a.cu reads it. */
export interface FewHopperShape extends FewShape, Pick<ExpertsCall, 'gate' | 'density'> {}

/** How a launch of experts-few.sm90a.cu is cut up. */
export interface FewHopperPlan {
  /** At most one a multiprocessor. */
  readonly blocks: number;
  /** Warps of a block that have a neuron at a time; 0 where the weights of one have no room. */
  readonly owners: number;
  /** 32-byte pieces of the output's sums that a block adds up. */
  readonly share: number;
  /** Dynamic shared memory. */
  readonly sharedBytes: number;
  /** Bytes of the blocks' shares of the output. */
  readonly partialBytes: number;
  /** Bytes of the router's hidden layer. */
  readonly forecastBytes: number;
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
  const upBytes = (shape.gate === 0 ? 1 : 2) * pitchOf(dIn, storage) * WEIGHT_BYTES[storage];
  const padded = pitchOf(dOut, storage);
  // A neuron's rows, and those of down of the next.
  const ownBytes = upBytes + 2 * padded * WEIGHT_BYTES[storage];
  const routes = routerWidth > 0;
  // A router's hidden layer, norms and choice, where sums come later; of one row the ranking is apart.
  const routerBytes = routes
    ? rows *
      (Math.max(64 * AHEAD, upTo(64, routerWidth * bytes)) +
        upTo(32, experts) * 4 +
        Math.ceil(experts / 32) * 4)
    : 0;
  const rankedBytes = routes && rows === 1 ? upTo(16, experts * 2) : 0;
  const fixed =
    rows * upTo(8, pitchOf(dIn, storage)) * bytes +
    Math.max(rows * padded * 4, routerBytes) +
    rankedBytes +
    WARPS * (4 * 16 + 3 * 8);
  const room = Math.floor((sharedBytes - fixed) / ownBytes);
  const wanted = hidden * anyOf(rows, plannedDensity(shape));
  const blocks = routes
    ? multiprocessors
    : Math.max(1, Math.min(multiprocessors, Math.ceil(wanted / LEAST_NEURONS)));
  const most = Math.max(0, Math.min(WARPS, Math.ceil(hidden / blocks), room));
  const perBlock = Math.ceil(wanted / blocks);
  const owners =
    perBlock > most ? Math.min(most, Math.ceil(perBlock / Math.ceil(perBlock / TURN))) : most;
  const canRoute = experts <= ROUTED_EXPERTS && experts * routerWidth <= ROUTED_WEIGHTS;
  // A router's output layer lies where weights come later.
  const neededBytes = fixed + Math.max(owners * ownBytes, routes ? AHEAD * HOPPER_THREADS * 16 : 0);
  const fits = neededBytes <= sharedBytes && (!routes || canRoute);
  return {
    blocks,
    owners: fits ? owners : 0,
    share: Math.ceil((rows * padded) / 8 / blocks),
    sharedBytes: neededBytes,
    partialBytes: blocks * rows * padded * 4,
    forecastBytes: rows * routerWidth * 4,
  };
}
