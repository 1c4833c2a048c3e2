import { type Tile, tileThreads } from './tiled-product.js';

/** How a kernel over the tiles of one part of a window's experts begins: a workgroup finds its tile, or ends. */
export const expertTile = (tile: Tile) => `
@compute @workgroup_size(${tileThreads(tile)})
fn main(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(local_invocation_index) thread: u32,
) {
  let part = tiles[params.windows * params.tileRoom + params.window * params.parts + params.part];
  if (group.x >= part.y) {
    return;
  }
  let tile = tiles[params.window * params.tileRoom + part.x + group.x];
  let expert = tile.x - params.firstExpert;
  let firstColumn = group.y * ${tile.columns}u;`;
