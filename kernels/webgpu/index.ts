export type { Activation } from './activation.js';
export { PARAMS_STRIDE, pitchOf, type WeightStorage } from './binding.js';
export { type DenseShape, denseProductSource } from './dense-product.js';
export { type ExpertShape, expertHiddenSource } from './expert-hidden.js';
export { expertOutputSource } from './expert-output.js';
export { foundPairs, foundTiles, foundTilesBytes, MOST_FOUND_ROWS } from './expert-tile.js';
export { FEW_NEURONS, fewHiddenSource } from './few-hidden.js';
export { FEW_COLUMNS, fewOutputSource } from './few-output.js';
export {
  GROUP_ROWS,
  listRowsSource,
  MOST_PARTS,
  type TileSizes,
  tileRowsSource,
} from './group-rows.js';
export { PACK_THREADS, packWeightsSource } from './pack-weights.js';
export { type Rule, SELECT_ROWS_X, selectExpertsSource } from './select-experts.js';
export { SUM_COLUMNS, sumPairsSource } from './sum-pairs.js';
export { sumRowsSource } from './sum-rows.js';
export { type Tile, tileBytes, tileThreads } from './tiled-product.js';
