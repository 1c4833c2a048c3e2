import { type Activation, activationSource } from './activation.js';
import {
  paramsBinding,
  pitchOf,
  readWeights,
  storageBuffers,
  weightType,
  type WeightStorage,
} from './binding.js';
import { listedTiles, type RowTiles } from './expert-tile.js';
import {
  eachSum,
  productBody,
  productDeclarations,
  type Tile,
  type TiledProduct,
} from './tiled-product.js';

/** An FFN's experts, as the kernels are generated for them. */
export interface ExpertShape {
  dIn: number;
  dOut: number;
  experts: number;
  expertSize: number;
  activation: Activation;
  gated: boolean;
  storage: WeightStorage;
}

/** Reading x: four numbers at a time where rows begin at a vec4. */
export function inputRows(dIn: number): {
  type: string;
  read: (base: string, k: string) => string;
} {
  if (dIn % 4 === 0) {
    return { type: 'vec4<f32>', read: (base, k) => `x[${base} / 4u + ${k} / 4u]` };
  }
  const one = (base: string, k: string, i: number) =>
    `select(0.0, x[min(${base} + ${k} + ${i}u, arrayLength(&x) - 1u)], ${k} + ${i}u < ${dIn}u)`;
  return {
    type: 'f32',
    read: (base, k) => `vec4<f32>(${[0, 1, 2, 3].map((i) => one(base, k, i)).join(', ')})`,
  };
}

/**
 * The hidden activations of the pairs, tile by tile of rows of one expert and `tile.columns` of its neurons:
 * act(up·x + upBias), or act(gate·x + gateBias) ⊙ (up·x + upBias). The rows are gathered as they are read; what comes out
 * lies where `tiles` has the pairs, rows of pitchOf(expertSize), zeros behind each.
 */
export function expertHiddenSource(
  shape: ExpertShape,
  tile: Tile,
  tiles: RowTiles = listedTiles,
): string {
  const { dIn, expertSize, experts, activation, gated, storage } = shape;
  const weights = weightType(storage);
  const input = inputRows(dIn);
  const matrices = gated ? ['up', 'gate'] : ['up'];
  const inner = pitchOf(dIn);
  const product: TiledProduct = {
    tile,
    inner,
    right: matrices,
    rightInner: true,
    prepareLeft: (row, suffix) => `
  let left${suffix} = ${tiles.row(`min(${row}, tile.z - 1u)`)} * ${dIn}u;`,
    left: (suffix, k) => input.read(`left${suffix}`, k),
    prepareRight: (_, column, suffix) => `
  let right${suffix} = (expert * ${expertSize}u + min(firstColumn + ${column}, ${expertSize - 1}u)) * ${inner / 4}u;`,
    readRight: (matrix, suffix, k) => readWeights(matrix, `right${suffix} + ${k} / 4u`, storage),
  };
  const bias = (name: string, j: number) => `read${name}(tile.x, firstColumn + column_${j})`;
  const biasReader = (name: string, offset: number) => `
fn read${name}(expert: u32, column: u32) -> vec4<f32> {
  let at = ${offset}u + expert * ${expertSize}u;
  let last = ${expertSize - 1}u;
  return vec4<f32>(
    biases[at + min(column, last)],
    biases[at + min(column + 1u, last)],
    biases[at + min(column + 2u, last)],
    biases[at + min(column + 3u, last)],
  );
}`;
  const value = (i: number, j: number) =>
    gated
      ? `activate(sum1_${i}_${j} + ${bias('GateBias', j)}) * (sum0_${i}_${j} + ${bias('UpBias', j)})`
      : `activate(sum0_${i}_${j} + ${bias('UpBias', j)})`;
  const isPadded = expertSize % 4 !== 0;
  const writeSums = eachSum(
    tile,
    (i, columns) => `
  if (row_${i} < tile.z) {
    let at = ${tiles.pair(`row_${i}`)} * ${pitchOf(expertSize) / 4}u;${columns}
  }`,
    (i, j) => `
    if (firstColumn + column_${j} < ${expertSize}u) {
      ${
        isPadded
          ? `let isNeuron = firstColumn + column_${j} + vec4<u32>(0u, 1u, 2u, 3u) < vec4<u32>(${expertSize}u);
      hidden[at + (firstColumn + column_${j}) / 4u] = select(vec4<f32>(0.0), ${value(i, j)}, isNeuron);`
          : `hidden[at + (firstColumn + column_${j}) / 4u] = ${value(i, j)};`
      }
    }`,
  );
  return `// Expert FFN, hidden activations: ${gated ? 'gated, ' : ''}${activation}, ${storage}
${storageBuffers([
  ['x', input.type, 'read'],
  ...matrices.map((name) => [name, weights, 'read'] as const),
  ['biases', 'f32', 'read'],
  ...tiles.buffers,
  ['hidden', 'vec4<f32>', 'read_write'],
])}${paramsBinding(matrices.length + tiles.buffers.length + 3)}
${productDeclarations(product)}
${activationSource(activation)}${biasReader('UpBias', 0)}${gated ? biasReader('GateBias', experts * expertSize) : ''}
${tiles.kernel(tile, experts, productBody(product) + writeSums)}`;
}
