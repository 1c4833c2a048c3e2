import {
  type ExpertShape,
  foundTilesBytes,
  MOST_FOUND_ROWS,
  pitchOf,
  type Tile,
  tileBytes,
} from '../../../kernels/webgpu/index.js';

/** The tiles of both products. Their rows are the same unless each product finds its rows itself. */
export interface Tiling {
  hidden: Tile;
  output: Tile;
}

/** What tells tilings from others. */
export const tilingKey = ({ hidden, output }: Tiling): string =>
  [...Object.values(hidden), ...Object.values(output)].join();

/** How a block of rows is cut up. */
export interface ManyPlan {
  /** Tiles that there may be. */
  tiles: number;
  /** Most windows that they may take. */
  windows: number;
  /** Tiles of a window. */
  tileRoom: number;
  /** Pairs that a window may have. */
  pairRoom: number;
}

/** Bytes that the pairs of a window, or of a block without windows, may take in one buffer, where the device allows it. */
const WINDOW_BYTES = 256 * 2 ** 20;

/** The most workgroups that a dispatch takes in one direction. */
const MOST_WORKGROUPS = 65535;

/** The most rows that one dispatch takes. */
const MOST_ROWS = 65472;

/** Bytes of workgroup memory that every adapter has. */
export const LEAST_WORKGROUP_BYTES = 16_384;

// The fastest of those timed on an H200, kernels/webgpu/README.md.
const wide = { rows: 128, columns: 128, depth: 16, threadRows: 8, threadColumns: 8, split: 1 };
const large = { rows: 64, columns: 64, depth: 16, threadRows: 8, threadColumns: 8, split: 1 };
const small = { rows: 32, columns: 128, depth: 16, threadRows: 4, threadColumns: 8, split: 1 };
// Of the hidden product of few hundred rows, whose sums would keep too few threads busy if each had all terms of its own.
const smallHidden = { rows: 32, columns: 32, depth: 32, threadRows: 8, threadColumns: 4, split: 4 };

/**
 * Tiles for this many rows.
 *
 * @param workgroupBytes Workgroup memory that the tiles may take.
 */
export function tilingOf(
  shape: ExpertShape,
  rows: number,
  density: number,
  workgroupBytes: number,
): Tiling {
  const { experts, expertSize } = shape;
  // Of an expert; half a tile of each is in vain.
  const expertRows = rows * density;
  const neurons = expertRows * experts * expertSize;
  if (expertRows >= 512 && neurons >= 2 ** 21) {
    const tiling = fitted(shape, wide, wide);
    const bytes = Math.max(
      tileBytes(tiling.hidden, shape.gated ? 2 : 1),
      tileBytes(tiling.output, 1),
    );
    if (bytes + foundTilesBytes(wide) <= workgroupBytes) return tiling;
  }
  return expertRows >= 128 && neurons >= 2 ** 17
    ? fitted(shape, large, large)
    : fitted(shape, smallHidden, small);
}

/** Tiles no wider than a shape is. */
function fitted(
  { expertSize, dOut, gated }: ExpertShape,
  hiddenBase: Tile,
  outputBase: Tile,
): Tiling {
  const narrow = (tile: Tile, columns: number): Tile => {
    let narrower = tile;
    while (narrower.columns > 8 && narrower.columns / 2 >= columns) {
      narrower = { ...narrower, columns: narrower.columns / 2 };
    }
    // A narrow tile has enough threads only if each has less of it.
    const threadColumns = narrower.columns < 64 ? 4 : narrower.threadColumns;
    const threadRows = narrower.columns < 32 ? 4 : narrower.threadRows;
    return { ...narrower, threadColumns, threadRows };
  };
  const hidden = narrow(hiddenBase, expertSize);
  return {
    // With two sums for each neuron a thread has half as many of them.
    hidden: gated
      ? {
          ...hidden,
          columns: Math.max(8, hidden.columns / 2),
          threadColumns: 4,
          threadRows: Math.min(hidden.threadRows, 8),
        }
      : hidden,
    output: narrow(outputBase, dOut),
  };
}

/** The most rows that the call's buffers may have for a device's bindings; a multiple of 64 or all rows. */
export function rowsOfBlock({ dIn, dOut, experts }: ExpertShape, bindingBytes: number): number {
  const bytesOfRow = Math.max(dIn * 4, dOut * 4, experts * 8);
  return Math.max(64, Math.min(MOST_ROWS, Math.floor(bindingBytes / bytesOfRow / 64) * 64));
}

/** The most (row, expert) pairs of a block whose products find their rows themselves. */
const MOST_DIRECT = 2 ** 14;

/** Whether a block's products find their rows themselves: each (row, expert) pair then has a place, selected or not. */
export function isDirect(shape: ExpertShape, rows: number, bindingBytes: number): boolean {
  const pairs = rows * shape.experts;
  return pairs <= MOST_DIRECT && rows <= MOST_FOUND_ROWS && pairs <= mostPairs(shape, bindingBytes);
}

/**
 * The workgroups of one expert for each column of tiles, where they find its rows themselves: as many as it is expected to
 * have tiles, since those without any cost more than a second tile for a few.
 */
export function slotsOf(rows: number, density: number, tileRows: number): number {
  return Math.max(1, Math.min(Math.ceil(rows / tileRows), Math.ceil((rows * density) / tileRows)));
}

/** The pairs that buffers have room for. */
function mostPairs({ dOut, expertSize }: ExpertShape, bindingBytes: number): number {
  const bytesOfPair = Math.max(pitchOf(dOut), pitchOf(expertSize)) * 4;
  return Math.floor(Math.min(bindingBytes, WINDOW_BYTES) / bytesOfPair);
}

/** Cuts `rows` rows up, which are grouped by expert beforehand. */
export function planMany(
  shape: ExpertShape,
  rows: number,
  tileRows: number,
  bindingBytes: number,
): ManyPlan {
  const { experts } = shape;
  const all = rows * experts;
  const tiles = Math.min(
    experts * Math.ceil(rows / tileRows),
    Math.floor(all / tileRows) + experts,
  );
  const room = mostPairs(shape, bindingBytes);
  if (all <= room) return { tiles, windows: 1, tileRoom: tiles, pairRoom: all };
  const tileRoom = Math.max(1, Math.floor(room / tileRows));
  return { tiles, windows: Math.ceil(tiles / tileRoom), tileRoom, pairRoom: tileRoom * tileRows };
}

/** Workgroups that start at least where there is expected to be work, so that all of a card has some. */
const LEAST_WORKGROUPS = 1024;

/** The same where none is expected: most find none indeed. */
const LEAST_UNEXPECTED = 128;

/** How many more tiles than expected find a workgroup of their own. */
const SLACK = 1.25;

/**
 * The workgroups in x of a window's dispatches: of tiles of a part with a share of the experts, and of rows.
 *
 * How many pairs there are is known to the device alone. As many workgroups as there might be tiles would mostly find
 * none, and indirect dispatches have Dawn check each in a dispatch and a buffer of its own; so as many start as the
 * expected share of the pairs needs, and go on to further tiles where there are more.
 */
export function workgroupsOf(
  { tiles, tileRoom }: ManyPlan,
  experts: number,
  density: number,
  window: number,
) {
  // Each expert's last tile may be a small one.
  const expected = Math.min(tiles, Math.ceil(tiles * density * SLACK) + experts);
  const inWindow = Math.min(Math.max(expected - window * tileRoom, 0), tileRoom);
  const least = inWindow > 0 || window === 0 ? LEAST_WORKGROUPS : LEAST_UNEXPECTED;
  const atLeast = (columns: number) => Math.ceil(least / columns);
  return {
    tiles: (share: number, columns: number): number =>
      Math.min(
        Math.max(Math.min(inWindow, Math.ceil(expected * share)), atLeast(columns)),
        Math.min(Math.ceil(tiles * share), tileRoom, MOST_WORKGROUPS),
      ),
    rows: (rows: number, columns: number): number =>
      inWindow > 0 || window === 0 ? rows : Math.min(rows, atLeast(columns)),
  };
}
