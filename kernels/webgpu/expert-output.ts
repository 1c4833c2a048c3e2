import { paramsBinding, pitchOf, readWeights, storageBuffers, weightType } from './binding.js';
import type { ExpertShape } from './expert-hidden.js';
import { listedPairs, type PairTiles } from './expert-tile.js';
import {
  eachSum,
  productBody,
  productDeclarations,
  type Tile,
  type TiledProduct,
} from './tiled-product.js';

/**
 * What each pair adds to its row: hidden·down of its expert, tile by tile of rows and `tile.columns` of the output's
 * columns.
 */
export function expertOutputSource(
  shape: ExpertShape,
  tile: Tile,
  tiles: PairTiles = listedPairs,
): string {
  const { dOut, experts, expertSize, storage } = shape;
  const inner = pitchOf(expertSize);
  const pitch = pitchOf(dOut) / 4;
  const product: TiledProduct = {
    tile,
    inner,
    right: ['down'],
    rightInner: false,
    prepareLeft: (row, suffix) => `
  let left${suffix} = ${tiles.pair(`min(${row}, tile.z - 1u)`)} * ${inner / 4}u;`,
    left: (suffix, k) => `hidden[left${suffix} + ${k} / 4u]`,
    prepareRight: (_, column, suffix) => `
  let right${suffix} = expert * ${expertSize * pitch}u + min((firstColumn + ${column}) / 4u, ${pitch - 1}u);`,
    // Behind an expert's last neuron hidden is 0, but the next expert's weights need not be finite.
    readRight: (matrix, suffix, k) => {
      const neuron = expertSize % 4 === 0 ? k : `min(${k}, ${expertSize - 1}u)`;
      return readWeights(matrix, `right${suffix} + ${neuron} * ${pitch}u`, storage);
    },
  };
  const writeSums = eachSum(
    tile,
    (i, columns) => `
  if (row_${i} < tile.z) {
    let at = ${tiles.result(`row_${i}`)} * ${pitch}u;${columns}
  }`,
    (i, j) => `
    if (firstColumn + column_${j} < ${pitch * 4}u) {
      outputs[at + (firstColumn + column_${j}) / 4u] = sum0_${i}_${j};
    }`,
  );
  return `// Expert FFN, output: ${storage}
${storageBuffers([
  ['hidden', 'vec4<f32>', 'read'],
  ['down', weightType(storage), 'read'],
  ...tiles.buffers,
  ['outputs', 'vec4<f32>', 'read_write'],
])}${paramsBinding(tiles.buffers.length + 3)}
${productDeclarations(product)}
${tiles.kernel(tile, experts, productBody(product) + writeSums)}`;
}
