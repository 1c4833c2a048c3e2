import { paramsBinding, storageBuffers } from './binding.js';

/*
 * Grouping rows by expert, in two dispatches. A pair is a row and one of its experts; pairs are numbered by expert, and
 * in an expert as its list has them.
 *
 *   list   selection  → list: each expert's rows, in any order; pairs: of each row, its experts in their order and its
 *                       place in their lists; counts: how many those are; lengths: of the lists
 *   tile   lengths    → firsts: each expert's first pair, the number of pairs behind them; tiles of up to `tileRows` rows
 *                       of one expert
 *
 * What the pairs give is kept until the rows sum it up, so tiles are taken in windows of so many as there is room for.
 * Up to a thousand rows are not grouped at all: the kernels of their products find an expert's rows themselves.
 *
 * Lists are in no fixed order, as atomics fill them, but what comes out for a row does not depend on its place.
 */

const LANES = 32;
/** Rows of one workgroup of the list kernel. */
export const GROUP_ROWS = 8;
/** Threads of the tile kernel, which is one workgroup. */
const TILE_THREADS = 256;

/**
 * Lists each expert's rows; an expert's list has room for all of them. `lengths` has to be 0 before.
 *
 * @param experts n
 */
export function listRowsSource(experts: number): string {
  return `// Group rows: list
${storageBuffers([
  ['selection', 'i32', 'read'],
  ['lengths', 'atomic<u32>', 'read_write'],
  ['list', 'u32', 'read_write'],
  ['pairs', 'vec2<u32>', 'read_write'],
  ['counts', 'u32', 'read_write'],
])}${paramsBinding(5)}
const EXPERTS = ${experts}u;
const LANES = ${LANES}u;
const SHARE = ${Math.ceil(experts / LANES)}u;
var<workgroup> laneCounts: array<u32, ${LANES * GROUP_ROWS}>;

@compute @workgroup_size(${LANES * GROUP_ROWS})
fn main(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(local_invocation_index) thread: u32,
) {
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
  laneCounts[thread] = own;
  workgroupBarrier();
  if (!isRow) {
    return;
  }
  var rank = 0u;
  for (var i = thread - lane; i < thread; i++) {
    rank += laneCounts[i];
  }
  for (var expert = first; expert < last; expert++) {
    if (selection[row * EXPERTS + expert] != 0) {
      let place = atomicAdd(&lengths[expert], 1u);
      list[expert * params.rows + place] = row;
      pairs[row * EXPERTS + rank] = vec2<u32>(expert, place);
      rank++;
    }
  }
  if (lane == LANES - 1u) {
    counts[row] = rank;
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
 * The function of a workgroup that cuts the lists into tiles: tile = (expert, its first place in list, its rows, its
 * first pair), and behind all of them, of each part, its first tile and the one after its last.
 */
const cutTiles = ({ experts, tileRows }: TileSizes, subgroup: number) => `
const EXPERTS = ${experts}u;
const TILE_ROWS = ${tileRows}u;
const THREADS = ${TILE_THREADS}u;
const SHARE = ${Math.ceil(experts / TILE_THREADS)}u;
${prefixSums(subgroup)}
var<workgroup> partTiles: array<u32, ${MOST_PARTS + 1}>;

fn cutTiles(thread: u32) {
  let first = min(thread * SHARE, EXPERTS);
  let last = min(first + SHARE, EXPERTS);
  var ownPairs = 0u;
  var ownTiles = 0u;
  for (var expert = first; expert < last; expert++) {
    let length = lengths[expert];
    ownPairs += length;
    ownTiles += (length + TILE_ROWS - 1u) / TILE_ROWS;
  }
  var pair = before(thread, ownPairs);
  var tile = before(thread, ownTiles);
  for (var expert = first; expert < last; expert++) {
    if (expert % params.partExperts == 0u) {
      partTiles[expert / params.partExperts] = tile;
    }
    firsts[expert] = pair;
    let length = lengths[expert];
    for (var done = 0u; done < length; done += TILE_ROWS) {
      let rows = min(TILE_ROWS, length - done);
      tiles[tile] = vec4<u32>(expert, expert * params.rows + done, rows, pair);
      tile++;
      pair += rows;
    }
  }
  if (thread == THREADS - 1u) {
    firsts[EXPERTS] = pair;
    partTiles[params.parts] = tile;
  }
  workgroupBarrier();
  for (var part = thread; part < params.parts; part += THREADS) {
    tiles[params.tiles + part] = vec4<u32>(partTiles[part], partTiles[part + 1u], 0u, 0u);
  }
}
`;

/** Cuts the lists into tiles, in one workgroup, and leaves their lengths 0 for the next call. */
export function tileRowsSource(sizes: TileSizes, subgroup = 0): string {
  return `// Group rows: tile
${enableSubgroups(subgroup)}${storageBuffers([
  ['lengths', 'u32', 'read_write'],
  ['firsts', 'u32', 'read_write'],
  ['tiles', 'vec4<u32>', 'read_write'],
])}${paramsBinding(3)}${cutTiles(sizes, subgroup)}
@compute @workgroup_size(${TILE_THREADS})
fn main(@builtin(local_invocation_index) thread: u32) {
  cutTiles(thread);
  storageBarrier();
  for (var expert = thread; expert < EXPERTS; expert += THREADS) {
    lengths[expert] = 0u;
  }
}
`;
}
