import {
  anyOf,
  type ExpertsCall,
  neuronBytes,
  pitchOf,
  plannedDensity,
  WEIGHT_BYTES,
} from './call.js';

/** The most rows of one launch. */
export const DOZENS_ROWS = 64;
export const DOZENS_THREADS = 256;
const WARPS = DOZENS_THREADS / 32;

/** How one of the two launches of experts-dozens.sm90a.cu is cut up. */
export interface DozensCut {
  /** Clusters of `ranks` blocks (up), or groups of columns (down). */
  readonly clusters: number;
  /** Blocks of a cluster, which cut the width of x up. */
  readonly ranks: number;
  /** A block's warps across neurons (up) or columns (down). */
  readonly across: number;
  /** Steps that a warp takes in a slot of the ring. */
  readonly steps: number;
  /** Slots of the ring. */
  readonly slots: number;
  /** Most neurons of a cluster (up) or of a split (down), a multiple of 16. */
  readonly capacity: number;
  /** Dynamic shared memory of a block. */
  readonly sharedBytes: number;
}

/** How the rows of one call go through the dozens path. */
export interface DozensPlan {
  /** Rows in multiples of which a warp's tiles are made. */
  readonly tileRows: 16 | 32;
  /** Warps side by side across rows. */
  readonly rowGroups: 1 | 2;
  /** Whether neurons that no row selects are not read; else they are only masked, and nothing waits for the selection. */
  readonly skip: boolean;
  readonly up: DozensCut;
  readonly down: DozensCut;
  /** Blocks of a group of columns: each takes some of the neurons, the last to finish adds up. */
  readonly splits: number;
  /** Bytes of what they add up. */
  readonly partialBytes: number;
  /** Bytes of hidden activations in memory. */
  readonly hiddenBytes: number;
}

/** The part of a call that decides its plan. */
export interface DozensShape
  extends Pick<
    ExpertsCall,
    'rows' | 'dIn' | 'dOut' | 'experts' | 'hidden' | 'storage' | 'density'
  > {
  readonly isGated: boolean;
}

/** A card's multiprocessors; whether its blocks form clusters. */
export interface DozensCard {
  readonly multiprocessors: number;
  readonly hasClusters: boolean;
}

/** The least multiple that is not below a value. */
export const upTo = (multiple: number, value: number): number =>
  Math.ceil(value / multiple) * multiple;

/** Cuts a call of at most {@link DOZENS_ROWS} rows up for a card. */
export function planDozens(shape: DozensShape, card: DozensCard): DozensPlan {
  const { rows, hidden, storage } = shape;
  const tileRows = rows > 16 ? 32 : 16;
  const rowGroups = rows > 32 ? 2 : 1;
  const skip = skips(shape);
  const down = cutDown(shape, card, tileRows, rowGroups, skip);
  return {
    tileRows,
    rowGroups,
    skip,
    up: cutUp(shape, card, tileRows, rowGroups),
    down,
    splits: down.splits,
    partialBytes: down.splits > 1 ? down.clusters * down.splits * rows * down.columns * 4 : 0,
    hiddenBytes: rows * upTo(16, hidden) * activationBytes(storage),
  };
}

/** x and hidden activations are float32 beside float32 weights, 16 bits else. */
const activationBytes = (storage: DozensShape['storage']): number =>
  storage === 'float32' ? 4 : 2;

/** Whether leaving unselected neurons out saves more than waiting for the selection costs. */
function skips(shape: DozensShape): boolean {
  const { rows, hidden, isGated } = shape;
  const share = anyOf(rows, plannedDensity(shape));
  return hidden * neuronBytes(shape, isGated) * (1 - share) > SKIP_BYTES;
}

/** Steps with which `warps` cover `pieces` of 16 bytes: what they take at once is a power of two or a multiple of 32. */
function stepsFor(pieces: number, warps: number): number {
  let steps = Math.ceil(pieces / (4 * warps));
  const isWhole = () => (4 * warps * steps) % 32 === 0 || (steps & (steps - 1)) === 0;
  while (!isWhole() || 4 * warps * steps < 8) steps += 1;
  return steps;
}

/** The most slots that leave a block room. */
function slotsFor(wanted: number, bytes: (slots: number) => number): number {
  let slots = wanted;
  while (slots > 2 && bytes(slots) > MOST_SHARED) slots -= 1;
  return slots;
}

function cutUp(
  { dIn, hidden, storage, isGated }: DozensShape,
  { multiprocessors, hasClusters }: DozensCard,
  tileRows: number,
  rowGroups: number,
): DozensCut {
  const chunk = 16 / WEIGHT_BYTES[storage];
  const matrices = isGated ? 2 : 1;
  const rowPieces = pitchOf(dIn, storage) / chunk;
  const run = Math.ceil(hidden / multiprocessors);
  // One slot holds all that a block reads.
  const isSmall = run <= 32 && 32 * rowPieces * 16 * matrices <= MOST_AT_ONCE;
  const cut = (across: number) => {
    const along = WARPS / (across * rowGroups);
    const most = stepsFor(rowPieces, along);
    const steps = isSmall ? most : Math.min(most, 4 / matrices);
    const pieces = along * steps * 4;
    const turns = Math.ceil(rowPieces / pieces);
    const xBytes = (ranks: number) =>
      tileRows * rowGroups * Math.ceil(turns / ranks) * pieces * chunk * activationBytes(storage);
    let ranks = 1;
    const mostRanks = hasClusters ? 8 : 1;
    while (ranks < mostRanks && xBytes(ranks) > MOST_X_BYTES) ranks *= 2;
    return { across, steps, pieces, turns, xBytes, ranks };
  };
  // Long pieces of rows are read fastest: all warps along the sum. A rank needs four neurons of a tile at least.
  const narrow = isSmall ? undefined : cut(1);
  const { across, steps, pieces, turns, xBytes, ranks } =
    narrow && 16 / narrow.ranks >= LEAST_RANK_NEURONS ? narrow : cut(2);
  const tile = 16 * across;
  const clusters = ranks === 1 ? multiprocessors : Math.floor(multiprocessors / 16) * (16 / ranks);
  const capacity = upTo(16, Math.ceil(hidden / clusters));
  const sums = WARPS * matrices * tileRows * 20 * 4;
  const received = ranks > 1 ? 2 * matrices * tile * tileRows * rowGroups * 4 : 0;
  const bytes = (slots: number) =>
    slots * (matrices * tile * pieces * 16 + 8) +
    xBytes(ranks) +
    sums +
    received +
    capacity * 32 +
    40;
  const stages = Math.ceil(capacity / tile) * Math.ceil(turns / ranks);
  const slots = slotsFor(Math.min(UP_SLOTS, stages), bytes);
  return { clusters, ranks, across, steps, slots, capacity, sharedBytes: bytes(slots) };
}

function cutDown(
  { rows, dOut, hidden, storage }: DozensShape,
  { multiprocessors, hasClusters }: DozensCard,
  tileRows: number,
  rowGroups: number,
  skip: boolean,
): DozensCut & { readonly splits: number; readonly columns: number } {
  const bytes = activationBytes(storage);
  const chunk = 16 / WEIGHT_BYTES[storage];
  const is8Bit = WEIGHT_BYTES[storage] === 1;
  // Columns of a warp.
  const unit = bytes === 4 ? 32 : 64;
  let across = is8Bit ? 2 : 1;
  while (
    across * rowGroups < WARPS &&
    Math.ceil(dOut / (across * unit)) * LEAST_SPLITS > multiprocessors
  ) {
    across *= 2;
  }
  const columns = across * unit;
  const clusters = Math.ceil(dOut / columns);
  // A card has room for fewer clusters of 8 than it has multiprocessors for: 15 of 132.
  const isClustered = hasClusters && clusters * 8 <= multiprocessors - 12;
  const ranks = isClustered ? 8 : 1;
  const splits = isClustered
    ? 1
    : Math.max(1, Math.min(MOST_SPLITS, Math.floor(multiprocessors / clusters)));
  const shares = Math.max(ranks, splits);
  const along = WARPS / (across * rowGroups);
  const capacity = upTo(16, Math.ceil(hidden / shares));
  const isSmall = (capacity * columns * 16) / chunk <= MOST_AT_ONCE;
  let steps = Math.ceil(capacity / (16 * along));
  if (!isSmall) steps = Math.min(steps, 4);
  while (16 * along * steps * bytes < 64) steps *= 2;
  const depth = 16 * along * steps;
  const weights = (slots: number) => (slots * depth * columns * 16) / chunk;
  const sums = WARPS * tileRows * (unit + 4) * 4;
  const pad = is8Bit ? 32 : bytes === 4 ? 64 : 16;
  const received = ranks > 1 ? ranks * Math.ceil((rows * columns) / 4 / ranks) * 16 : 0;
  const shared = (slots: number) =>
    Math.max(weights(slots), sums) +
    slots * (tileRows * rowGroups * (depth * bytes + pad) + 8) +
    received +
    (skip ? capacity * 4 : 0) +
    32;
  const slots = slotsFor(Math.min(DOWN_SLOTS, Math.ceil(capacity / depth)), shared);
  return {
    clusters,
    ranks,
    across,
    steps,
    slots,
    capacity,
    sharedBytes: shared(slots),
    splits,
    columns,
  };
}

/** Weights that 1.5 µs bring: what waiting for the selection costs. */
const SKIP_BYTES = 6e6;
const MOST_X_BYTES = 66_000;
/** Weights of a block that come as one. */
const MOST_AT_ONCE = 57_344;
/** Of a block of compute capability 9.0. */
const MOST_SHARED = 232_448;
const UP_SLOTS = 4;
/** Sums go from rank to rank four at a time. */
const LEAST_RANK_NEURONS = 4;
const DOWN_SLOTS = 4;
/** Fewer blocks on a group of columns would leave a column's neurons to too few. */
const LEAST_SPLITS = 4;
const MOST_SPLITS = 16;
