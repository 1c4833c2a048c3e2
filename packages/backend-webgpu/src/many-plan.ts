import { type ExpertShape, pitchOf, type Tile } from '../../../kernels/webgpu/index.js';

/** The tiles of both products; their rows are the same. */
export interface Tiling {
  hidden: Tile;
  output: Tile;
}

/** How a block of rows is cut up. */
export interface ManyPlan {
  /** Most windows that the rows may take. */
  windows: number;
  /** Pairs from one window's first to the next one's. */
  stride: number;
  /** Pairs that a window may have. */
  pairRoom: number;
  /** Tiles that a window may have. */
  tileRoom: number;
}

/** Bytes that the pairs of a window may take in one buffer, where the device allows it. */
const WINDOW_BYTES = 256 * 2 ** 20;

/** The most workgroups that a dispatch takes in one direction. */
const MOST_WORKGROUPS = 65535;

/** The most rows that one dispatch takes. */
const MOST_ROWS = 65472;

// The fastest of those timed on an H200, kernels/webgpu/README.md.
const large = { rows: 64, columns: 64, depth: 16, threadRows: 8, threadColumns: 8 };
const small = { rows: 32, columns: 64, depth: 16, threadRows: 4, threadColumns: 4 };

/** Tiles for this many rows. */
export function tilingOf(
  { experts, expertSize, dOut, gated }: ExpertShape,
  rows: number,
  density: number,
): Tiling {
  const isLarge = rows * density >= 128 && rows * density * experts * expertSize >= 2 ** 17;
  const base = isLarge ? large : small;
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
  const hidden = narrow(base, expertSize);
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
    output: narrow(base, dOut),
  };
}

/** The most rows that the call's buffers may have for a device's bindings; a multiple of 64 or all rows. */
export function rowsOfBlock({ dIn, dOut, experts }: ExpertShape, bindingBytes: number): number {
  const bytesOfRow = Math.max(dIn * 4, dOut * 4, experts * 8);
  return Math.max(64, Math.min(MOST_ROWS, Math.floor(bindingBytes / bytesOfRow / 64) * 64));
}

/** Cuts `rows` rows up. */
export function planMany(
  { dOut, experts, expertSize }: ExpertShape,
  rows: number,
  tileRows: number,
  bindingBytes: number,
): ManyPlan {
  const bytesOfPair = Math.max(pitchOf(dOut), pitchOf(expertSize)) * 4;
  const all = rows * experts;
  const room = Math.floor(Math.min(bindingBytes, WINDOW_BYTES) / bytesOfPair);
  const dispatched = (MOST_WORKGROUPS - experts) * tileRows;
  const pairRoom = Math.min(all, dispatched, Math.max(room, 2 * experts));
  const stride = pairRoom === all ? all : pairRoom - experts;
  return {
    // The last row that has a window of its own begins `experts` pairs before the end.
    windows: pairRoom === all ? 1 : Math.floor((all - experts) / stride) + 1,
    stride,
    pairRoom,
    tileRoom: Math.floor(pairRoom / tileRows) + experts,
  };
}
