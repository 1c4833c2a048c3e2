import { paramsBinding, pitchOf, readWeights, storageBuffers, weightType } from './binding.js';
import type { ExpertShape } from './expert-hidden.js';
import { expertTile } from './expert-tile.js';
import {
  eachSum,
  productBody,
  productDeclarations,
  type Tile,
  type TiledProduct,
} from './tiled-product.js';

/**
 * What each pair of one window adds to its row: hidden·down of its expert, tile by tile of rows and `tile.columns` of the
 * output's columns. `outputs` has the pairs in their order.
 */
export function expertOutputSource(shape: ExpertShape, tile: Tile): string {
  const { dOut, expertSize, storage } = shape;
  const inner = pitchOf(expertSize);
  const pitch = pitchOf(dOut) / 4;
  const product: TiledProduct = {
    tile,
    inner,
    right: ['down'],
    rightInner: false,
    prepareLeft: (row, suffix) => `
  let left${suffix} = (tile.w + min(${row}, tile.z - 1u)) * ${inner / 4}u;`,
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
    let at = (tile.w + row_${i}) * ${pitch}u;${columns}
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
  ['tiles', 'vec4<u32>', 'read'],
  ['outputs', 'vec4<f32>', 'read_write'],
])}${paramsBinding(4)}
${productDeclarations(product)}
${expertTile(tile, productBody(product) + writeSums)}`;
}
