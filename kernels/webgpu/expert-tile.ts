import { type Tile, tileThreads } from './tiled-product.js';

/**
 * Where a workgroup has its tiles of one expert's rows from. A kernel's body has `tile`: the expert, a place that is the
 * source's own, the tile's rows and the place of its pairs.
 */
export interface TileSource {
  /** Buffers, bound before the results, that the kernel of a product reads whose left-hand rows are x's or the pairs'. */
  buffers: (left: 'x' | 'pairs') => (readonly [name: string, type: string, access: 'read'])[];
  /** The expression for the row of x of row `row` of the tile. */
  row: (row: string) => string;
  /** The expression for the place of that row's pair in `hidden` and `outputs`. */
  pair: (row: string) => string;
  /**
   * The kernel over one part's tiles, but for what it declares. `body` has `tile`, `expert`, of the part, and
   * `firstColumn`; its first write to workgroup memory has to be behind a barrier.
   */
  kernel: (tile: Tile, experts: number, body: string) => string;
}

/**
 * Tiles of one window that kernels before have listed. Each workgroup takes a tile and the next ones at the distance of
 * all workgroups: how many tiles there are is known to the device alone, and workgroups that find none cost time. A pair
 * lies where its window has it.
 */
export const listedTiles: TileSource = {
  buffers: (left) => [
    ...(left === 'x' ? [['list', 'u32', 'read'] as const] : []),
    ['tiles', 'vec4<u32>', 'read'],
  ],
  row: (row) => `list[tile.y + ${row}]`,
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

/** The most rows that {@link foundTiles} has room for. */
export const MOST_FOUND_ROWS = 1024;

const WORDS = MOST_FOUND_ROWS / 32;

/** Bytes of workgroup memory that {@link foundTiles} takes beside the tile's own. */
export const foundTilesBytes = ({ rows }: Tile): number => 4 * (WORDS + rows + 1);

/**
 * Tiles that each workgroup finds itself, from the selection of its expert: the rows' bits in workgroup memory say how
 * many selected rows are before each, and so whether it is in the tile. Every expert has the same number of workgroups,
 * and each goes on to the expert's tiles at their distance, so that any density is right. The pairs of one expert are
 * neighbours and lie where all rows would have them.
 */
export const foundTiles: TileSource = {
  buffers: () => [['selection', 'i32', 'read']],
  row: (row) => `tileRows[${row}]`,
  pair: (row) => `(tile.w + tileRows[${row}])`,
  kernel: (tile, experts, body) => `
const EXPERTS = ${experts}u;
const THREADS = ${tileThreads(tile)}u;
const TILE_ROWS = ${tile.rows}u;
// A bit for each row that the expert has.
var<workgroup> rowBits: array<atomic<u32>, ${WORDS}>;
var<workgroup> rowCount: u32;
var<workgroup> tileRows: array<u32, TILE_ROWS>;

// Lists the rows of the tile that begins at the expert's row number \`first\`.
fn listRows(first: u32, thread: u32) {
  for (var row = thread; row < params.rows; row += THREADS) {
    let bits = atomicLoad(&rowBits[row / 32u]);
    let bit = 1u << (row % 32u);
    if ((bits & bit) != 0u) {
      var rank = countOneBits(bits & (bit - 1u));
      for (var word = 0u; word < row / 32u; word++) {
        rank += countOneBits(atomicLoad(&rowBits[word]));
      }
      if (rank >= first && rank < first + TILE_ROWS) {
        tileRows[rank - first] = row;
      }
    }
  }
}

@compute @workgroup_size(THREADS)
fn main(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(local_invocation_index) thread: u32,
) {
  let firstColumn = group.y * ${tile.columns}u;
  let perExpert = groups.x / params.experts;
  let expert = group.x / perExpert;
  let ofAll = params.firstExpert + expert;
  for (var row = thread; row < params.rows; row += THREADS) {
    if (selection[row * EXPERTS + ofAll] != 0) {
      atomicOr(&rowBits[row / 32u], 1u << (row % 32u));
    }
  }
  workgroupBarrier();
  var first = group.x % perExpert * TILE_ROWS;
  listRows(first, thread);
  if (thread == THREADS - 1u) {
    var sum = 0u;
    for (var word = 0u; word < (params.rows + 31u) / 32u; word++) {
      sum += countOneBits(atomicLoad(&rowBits[word]));
    }
    rowCount = sum;
  }
  let count = workgroupUniformLoad(&rowCount);
  while (first < count) {
  let tile = vec4<u32>(ofAll, first, min(TILE_ROWS, count - first), ofAll * params.rows);${body}
  first += perExpert * TILE_ROWS;
  if (first < count) {
    workgroupBarrier();
    listRows(first, thread);
    workgroupBarrier();
  }
  }
}
`,
};
