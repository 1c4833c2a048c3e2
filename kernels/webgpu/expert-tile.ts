import { NO_RANK, rankedBits } from './ranked-bits.js';
import { type Tile, tileThreads } from './tiled-product.js';

/**
 * Where a workgroup has its tiles of one expert's rows from. A kernel's body has `tile`: the expert, a place that is the
 * source's own, the tile's rows and the place of its pairs.
 */
interface TileSource {
  /** Buffers, bound before the results, that it reads or writes. */
  buffers: readonly (readonly [name: string, type: string, access: 'read' | 'read_write'])[];
  /** The expression for the place in `hidden` of the pair of row `row` of the tile. */
  pair: (row: string) => string;
  /**
   * The kernel over one part's tiles, but for what it declares. `body` has `tile`, `expert`, of the part, and
   * `firstColumn`; its first write to workgroup memory has to be behind a barrier.
   */
  kernel: (tile: Tile, experts: number, body: string) => string;
}

/** Tiles of the hidden product. */
export interface RowTiles extends TileSource {
  /** The expression for the row of x of row `row` of the tile. */
  row: (row: string) => string;
}

/** Tiles of the output product. */
export interface PairTiles extends TileSource {
  /** The expression for the place in `outputs` of the pair of row `row` of the tile. */
  result: (row: string) => string;
}

/**
 * Tiles of one window that kernels before have listed. Each workgroup takes a tile and the next ones at the distance of
 * all workgroups: how many tiles there are is known to the device alone, and workgroups that find none cost time. A pair
 * lies where its window has it.
 */
const listed: TileSource = {
  buffers: [['tiles', 'vec4<u32>', 'read']],
  pair: (row) => `(tile.w + ${row})`,
  kernel: (tile, _, body) => `
@compute @workgroup_size(${tileThreads(tile)})
fn main(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(local_invocation_index) thread: u32,
) {
  let firstColumn = group.y * ${tile.columns}u;
  let part = tiles[params.tiles + params.part];
  let windowTile = params.window * params.tileRoom;
  let windowPair = tiles[windowTile].w;
  let lastTile = min(part.y, windowTile + params.tileRoom);
  for (var i = max(part.x, windowTile) + group.x; i < lastTile; i += groups.x) {
  let tile = tiles[i] - vec4<u32>(0u, 0u, 0u, windowPair);
  let expert = tile.x - params.firstExpert;${body}
  }
}
`,
};

/** {@link listed} with the rows of x, for the hidden product. */
export const listedTiles: RowTiles = {
  ...listed,
  buffers: [['list', 'u32', 'read'], ...listed.buffers],
  row: (row) => `list[tile.y + ${row}]`,
};

/** {@link listed} for the output product. */
export const listedPairs: PairTiles = { ...listed, result: listed.pair };

/** The most rows that {@link foundTiles} has room for. */
export const MOST_FOUND_ROWS = 1024;

const WORDS = MOST_FOUND_ROWS / 32;

/** Workgroup (x, y) of a kernel whose experts have workgroups of their own. */
const ownExpert = ({ columns }: Tile) => `
  let firstColumn = group.y * ${columns}u;
  let perExpert = groups.x / params.experts;
  let expert = group.x / perExpert;
  let ofAll = params.firstExpert + expert;`;

const foundPair = (row: string) => `(tile.w + tile.y + ${row})`;

/** Bytes of workgroup memory that {@link foundTiles} takes beside the tile's own. */
export const foundTilesBytes = ({ rows }: Tile): number => 4 * (WORDS + rows + 1);

/**
 * Tiles that each workgroup finds itself, from the selection of its expert: the rows' bits in workgroup memory say how
 * many selected rows are before each, and so whether it is in the tile. Every expert has the same number of workgroups,
 * and each goes on to the expert's tiles at their distance, so that any density is right. The pairs of one expert are
 * neighbours and begin where they would if all rows had them. `list` gets the row of each, and behind the places of all
 * pairs how many each expert has, for {@link foundPairs}.
 */
export const foundTiles: RowTiles = {
  buffers: [
    ['selection', 'i32', 'read'],
    ['list', 'u32', 'read_write'],
  ],
  row: (row) => `tileRows[${row}]`,
  pair: foundPair,
  kernel: (tile, experts, body) => `
const EXPERTS = ${experts}u;
const THREADS = ${tileThreads(tile)}u;
const TILE_ROWS = ${tile.rows}u;
// A bit for each row that the expert has.${rankedBits(WORDS)}
var<workgroup> rowCount: u32;
var<workgroup> tileRows: array<u32, TILE_ROWS>;

// Lists the rows of the tile that begins at the expert's row number \`first\`, and all of them where they are asked for.
fn listRows(first: u32, thread: u32, all: bool, firstPair: u32) {
  for (var row = thread; row < params.rows; row += THREADS) {
    let rank = rankOf(row);
    if (rank != ${NO_RANK}) {
      if (rank >= first && rank < first + TILE_ROWS) {
        tileRows[rank - first] = row;
      }
      if (all) {
        list[firstPair + rank] = row;
      }
    }
  }
}

@compute @workgroup_size(THREADS)
fn main(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(local_invocation_index) thread: u32,
) {${ownExpert(tile)}
  let firstPair = ofAll * params.rows;
  for (var row = thread; row < params.rows; row += THREADS) {
    if (selection[row * EXPERTS + ofAll] != 0) {
      setBit(row);
    }
  }
  workgroupBarrier();
  var first = group.x % perExpert * TILE_ROWS;
  let isFirst = first == 0u && firstColumn == 0u;
  listRows(first, thread, isFirst, firstPair);
  if (thread == THREADS - 1u) {
    let all = countBits((params.rows + 31u) / 32u);
    rowCount = all;
    if (isFirst) {
      list[EXPERTS * params.rows + ofAll] = all;
    }
  }
  let count = workgroupUniformLoad(&rowCount);
  while (first < count) {
  let tile = vec4<u32>(ofAll, first, min(TILE_ROWS, count - first), firstPair);${body}
  first += perExpert * TILE_ROWS;
  if (first < count) {
    workgroupBarrier();
    listRows(first, thread, false, firstPair);
    workgroupBarrier();
  }
  }
}
`,
};

/** The same tiles of the output product, whose results lie where all rows of an expert would have them. */
export const foundPairs: PairTiles = {
  buffers: [['list', 'u32', 'read']],
  pair: foundPair,
  result: (row) => `(tile.w + list[tile.w + tile.y + ${row}])`,
  kernel: (tile, experts, body) => `
@compute @workgroup_size(${tileThreads(tile)})
fn main(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(local_invocation_index) thread: u32,
) {${ownExpert(tile)}
  let count = list[${experts}u * params.rows + ofAll];
  for (var first = group.x % perExpert * ${tile.rows}u; first < count; first += perExpert * ${tile.rows}u) {
  let tile = vec4<u32>(ofAll, first, min(${tile.rows}u, count - first), ofAll * params.rows);${body}
  }
}
`,
};
