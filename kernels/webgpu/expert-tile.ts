import { type Tile, tileThreads } from './tiled-product.js';

/**
 * A kernel over one part's tiles of one window, but for what it declares. Each workgroup takes a tile and the next ones at
 * the distance of all workgroups: how many tiles there are is known to the device alone, and workgroups that find none
 * cost time. `body` has `tile`, whose pair is the window's, `expert`, of the part, and `firstColumn`; its first write to
 * workgroup memory has to be behind a barrier.
 */
export const expertTile = (tile: Tile, body: string) => `
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
`;
