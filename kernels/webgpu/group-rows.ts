import { paramsBinding, storageBuffers } from './binding.js';

/*
 * Grouping rows by expert, in four dispatches. A pair is a row and one of its experts; pairs are numbered row by row, and
 * in a row by expert. What the pairs give is kept until the rows sum it up, so rows are taken in windows of at most so
 * many pairs as there is room for; where a window begins is known to the device only.
 *
 *   count   selection              → starts[row]: pairs of the row
 *   scan    starts                 → starts[row]: pairs before the row; the windows' first rows behind them
 *   list    selection, starts      → list: of each expert and window, its (row, pair of the window), in any order
 *   tile    how long the lists are → tiles of up to `tileRows` rows of one expert
 *
 * A few hundred rows are grouped in one dispatch, whose workgroup does all four.
 *
 * Lists are in no fixed order, as atomics fill them, but what comes out for a row does not depend on its place.
 */

const LANES = 32;
/** Rows of one workgroup of the count and list kernels. */
export const GROUP_ROWS = 8;
/** Threads of the scan and tile kernels, which are one workgroup (a window). */
const SCAN_THREADS = 256;

const rowOfLane = `
  let row = group.x * ${GROUP_ROWS}u + thread / LANES;
  let lane = thread % LANES;
  let isRow = row < params.rows;
  // Each lane has neighbouring experts, so that lanes in order have experts in order.
  let first = min(lane * SHARE, EXPERTS);
  let last = min(first + SHARE, EXPERTS);
  var own = 0u;
  if (isRow) {
    for (var i = first; i < last; i++) {
      own += u32(selection[row * EXPERTS + i] != 0);
    }
  }
  counts[thread] = own;
  workgroupBarrier();`;

const rowConstants = (experts: number) => `
const EXPERTS = ${experts}u;
const LANES = ${LANES}u;
const SHARE = ${Math.ceil(experts / LANES)}u;
var<workgroup> counts: array<u32, ${LANES * GROUP_ROWS}>;`;

/** How many experts each row runs. @param experts n */
export function countRowsSource(experts: number): string {
  return `// Group rows: count
${storageBuffers([
  ['selection', 'i32', 'read'],
  ['starts', 'u32', 'read_write'],
])}${paramsBinding(2)}${rowConstants(experts)}

@compute @workgroup_size(${LANES * GROUP_ROWS})
fn main(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(local_invocation_index) thread: u32,
) {${rowOfLane}
  if (isRow && lane == 0u) {
    var count = 0u;
    for (var i = 0u; i < LANES; i++) {
      count += counts[thread + i];
    }
    starts[row] = count;
  }
}
`;
}

/**
 * Exclusive prefix sums over a workgroup's threads: of each thread's own value what is before it. With subgroups, which are
 * neighbouring threads, it takes two barriers in place of seventeen.
 */
const prefixSums = (subgroup: number) =>
  subgroup > 1
    ? `
var<workgroup> sums: array<u32, THREADS / ${subgroup}u>;
fn before(thread: u32, own: u32) -> u32 {
  let inside = subgroupExclusiveAdd(own);
  if (thread % ${subgroup}u == ${subgroup - 1}u) {
    sums[thread / ${subgroup}u] = inside + own;
  }
  workgroupBarrier();
  var all = inside;
  for (var i = 0u; i < thread / ${subgroup}u; i++) {
    all += sums[i];
  }
  workgroupBarrier();
  return all;
}`
    : `
var<workgroup> sums: array<u32, THREADS>;
fn before(thread: u32, own: u32) -> u32 {
  sums[thread] = own;
  workgroupBarrier();
  for (var step = 1u; step < THREADS; step *= 2u) {
    var more = 0u;
    if (thread >= step) {
      more = sums[thread - step];
    }
    workgroupBarrier();
    sums[thread] += more;
    workgroupBarrier();
  }
  return sums[thread] - own;
}`;

const enableSubgroups = (subgroup: number) => (subgroup > 1 ? 'enable subgroups;\n' : '');

/**
 * Counts to starts, in place, with the total behind them; then the first row of each window and of the one after the
 * last. Zeroes the lists' lengths.
 *
 * @param experts n
 * @param subgroup Threads of a subgroup; 0 for none.
 */
export function scanRowsSource(experts: number, subgroup = 0): string {
  return `// Group rows: scan
${enableSubgroups(subgroup)}${storageBuffers([
  ['starts', 'u32', 'read_write'],
  ['lengths', 'u32', 'read_write'],
])}${paramsBinding(2)}
const EXPERTS = ${experts}u;
const THREADS = ${SCAN_THREADS}u;
${prefixSums(subgroup)}

@compute @workgroup_size(${SCAN_THREADS})
fn main(@builtin(local_invocation_index) thread: u32) {
  for (var i = thread; i < params.windows * EXPERTS; i += THREADS) {
    lengths[i] = 0u;
  }
  let windowRows = params.rows + 1u;
  for (var i = thread; i <= params.windows; i += THREADS) {
    starts[windowRows + i] = select(params.rows, 0u, i == 0u);
  }
  storageBarrier();
  let share = (params.rows + THREADS - 1u) / THREADS;
  let first = min(thread * share, params.rows);
  let last = min(first + share, params.rows);
  var own = 0u;
  for (var row = first; row < last; row++) {
    own += starts[row];
  }
  var start = before(thread, own);
  for (var row = first; row < last; row++) {
    let count = starts[row];
    starts[row] = start;
    // A row belongs to the window that its first pair lies in.
    let next = (start + count) / params.stride;
    if (next != start / params.stride && row + 1u < params.rows) {
      starts[windowRows + next] = row + 1u;
    }
    start += count;
  }
  if (thread == THREADS - 1u) {
    starts[params.rows] = start;
  }
}
`;
}

/**
 * Lists each expert's rows. An expert's list has room for all rows; a window's part of it begins at the window's first
 * row.
 *
 * @param experts n
 */
export function listRowsSource(experts: number): string {
  return `// Group rows: list
${storageBuffers([
  ['selection', 'i32', 'read'],
  ['starts', 'u32', 'read'],
  ['lengths', 'atomic<u32>', 'read_write'],
  ['list', 'vec2<u32>', 'read_write'],
])}${paramsBinding(4)}${rowConstants(experts)}

@compute @workgroup_size(${LANES * GROUP_ROWS})
fn main(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(local_invocation_index) thread: u32,
) {${rowOfLane}
  if (!isRow) {
    return;
  }
  let start = starts[row];
  let window = start / params.stride;
  let firstRow = starts[params.rows + 1u + window];
  var pair = start - starts[firstRow];
  for (var i = thread - lane; i < thread; i++) {
    pair += counts[i];
  }
  for (var expert = first; expert < last; expert++) {
    if (selection[row * EXPERTS + expert] != 0) {
      let place = atomicAdd(&lengths[window * EXPERTS + expert], 1u);
      list[expert * params.rows + firstRow + place] = vec2<u32>(row, pair);
      pair++;
    }
  }
}
`;
}

/** What the tile kernel needs to know about the kernels that go through tiles. */
export interface TileSizes {
  /** n */
  experts: number;
  /** Most rows of a tile. */
  tileRows: number;
}

/** The most parts that a call's experts may be split into. */
export const MOST_PARTS = 63;

/** Where each part's tiles begin, and the function that writes it down behind a window's tiles. */
const partRanges = `
var<workgroup> partTiles: array<u32, ${MOST_PARTS + 1}>;

fn writeParts(thread: u32, window: u32) {
  for (var part = thread; part < params.parts; part += THREADS) {
    let at = params.windows * params.tileRoom + window * params.parts + part;
    tiles[at] = vec4<u32>(partTiles[part], partTiles[part + 1u] - partTiles[part], 0u, 0u);
  }
}
`;

/**
 * Cuts the lists into tiles, a workgroup a window: tile = (expert, its first place in list, its rows, the place of its
 * first hidden activations), and behind all tiles, of each window's parts, the first tile and the number of tiles.
 */
export function tileRowsSource(sizes: TileSizes, subgroup = 0): string {
  return `// Group rows: tile
${enableSubgroups(subgroup)}${storageBuffers([
  ['starts', 'u32', 'read'],
  ['lengths', 'u32', 'read'],
  ['tiles', 'vec4<u32>', 'read_write'],
])}${paramsBinding(3)}
const EXPERTS = ${sizes.experts}u;
const TILE_ROWS = ${sizes.tileRows}u;
const THREADS = ${SCAN_THREADS}u;
const SHARE = ${Math.ceil(sizes.experts / SCAN_THREADS)}u;
${prefixSums(subgroup)}
${partRanges}
@compute @workgroup_size(${SCAN_THREADS})
fn main(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(local_invocation_index) thread: u32,
) {
  let window = group.x;
  let first = min(thread * SHARE, EXPERTS);
  let last = min(first + SHARE, EXPERTS);
  var ownRows = 0u;
  var ownTiles = 0u;
  for (var expert = first; expert < last; expert++) {
    let length = lengths[window * EXPERTS + expert];
    ownRows += length;
    ownTiles += (length + TILE_ROWS - 1u) / TILE_ROWS;
  }
  var hidden = before(thread, ownRows);
  workgroupBarrier();
  var tile = before(thread, ownTiles);
  let firstRow = starts[params.rows + 1u + window];
  for (var expert = first; expert < last; expert++) {
    if (expert % params.partExperts == 0u) {
      partTiles[expert / params.partExperts] = tile;
    }
    let length = lengths[window * EXPERTS + expert];
    for (var done = 0u; done < length; done += TILE_ROWS) {
      let rows = min(TILE_ROWS, length - done);
      tiles[window * params.tileRoom + tile] =
        vec4<u32>(expert, expert * params.rows + firstRow + done, rows, hidden);
      tile++;
      hidden += rows;
    }
  }
  if (thread == THREADS - 1u) {
    partTiles[params.parts] = tile;
  }
  workgroupBarrier();
  writeParts(thread, window);
}
`;
}

/** The most experts that {@link groupRowsSource} has room for. */
export const MOST_GROUPED_EXPERTS = 1024;

/**
 * All four steps in one workgroup, for rows that take one window: a thread has every {@link SCAN_THREADS}-th row, and an
 * expert's list grows in the order in which threads get to it.
 */
export function groupRowsSource(sizes: TileSizes, subgroup = 0): string {
  return `// Group rows: all at once
${enableSubgroups(subgroup)}${storageBuffers([
  ['selection', 'i32', 'read'],
  ['starts', 'u32', 'read_write'],
  ['list', 'vec2<u32>', 'read_write'],
  ['tiles', 'vec4<u32>', 'read_write'],
])}${paramsBinding(4)}
const EXPERTS = ${sizes.experts}u;
const TILE_ROWS = ${sizes.tileRows}u;
const THREADS = ${SCAN_THREADS}u;
const SHARE = ${Math.ceil(sizes.experts / SCAN_THREADS)}u;
${prefixSums(subgroup)}
var<workgroup> places: array<atomic<u32>, EXPERTS>;
${partRanges}
@compute @workgroup_size(${SCAN_THREADS})
fn main(@builtin(local_invocation_index) thread: u32) {
  for (var expert = thread; expert < EXPERTS; expert += THREADS) {
    atomicStore(&places[expert], 0u);
  }
  let share = (params.rows + THREADS - 1u) / THREADS;
  let firstRow = min(thread * share, params.rows);
  let lastRow = min(firstRow + share, params.rows);
  var own = 0u;
  for (var i = firstRow * EXPERTS; i < lastRow * EXPERTS; i++) {
    own += u32(selection[i] != 0);
  }
  var pair = before(thread, own);
  for (var row = firstRow; row < lastRow; row++) {
    starts[row] = pair;
    for (var expert = 0u; expert < EXPERTS; expert++) {
      if (selection[row * EXPERTS + expert] != 0) {
        let place = atomicAdd(&places[expert], 1u);
        list[expert * params.rows + place] = vec2<u32>(row, pair);
        pair++;
      }
    }
  }
  if (thread == THREADS - 1u) {
    starts[params.rows] = pair;
    starts[params.rows + 1u] = 0u;
    starts[params.rows + 2u] = params.rows;
  }
  workgroupBarrier();
  let first = min(thread * SHARE, EXPERTS);
  let last = min(first + SHARE, EXPERTS);
  var ownRows = 0u;
  var ownTiles = 0u;
  for (var expert = first; expert < last; expert++) {
    let length = atomicLoad(&places[expert]);
    ownRows += length;
    ownTiles += (length + TILE_ROWS - 1u) / TILE_ROWS;
  }
  var hidden = before(thread, ownRows);
  workgroupBarrier();
  var tile = before(thread, ownTiles);
  for (var expert = first; expert < last; expert++) {
    if (expert % params.partExperts == 0u) {
      partTiles[expert / params.partExperts] = tile;
    }
    let length = atomicLoad(&places[expert]);
    for (var done = 0u; done < length; done += TILE_ROWS) {
      let rows = min(TILE_ROWS, length - done);
      tiles[tile] = vec4<u32>(expert, expert * params.rows + done, rows, hidden);
      tile++;
      hidden += rows;
    }
  }
  if (thread == THREADS - 1u) {
    partTiles[params.parts] = tile;
  }
  workgroupBarrier();
  writeParts(thread, 0u);
}
`;
}
