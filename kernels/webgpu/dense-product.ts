import { type Activation, activationSource } from './activation.js';
import { readWeights, storageBuffers, weightType, type WeightStorage } from './binding.js';
import {
  eachSum,
  productBody,
  productDeclarations,
  type Tile,
  tileThreads,
  type TiledProduct,
} from './tiled-product.js';

/** A dense layer: out = act(x·wᵀ + bias), or without `activation` out = x·w + bias. */
export interface DenseShape {
  /** Columns of x; a multiple of 4. */
  inner: number;
  /** Columns of out; a multiple of 4. */
  columns: number;
  /** Neuron-major weights [columns, inner] and an activation; without, weights [inner, columns]. */
  activation?: Activation;
  storage: WeightStorage;
}

/**
 * A dense layer by the same tiles as the experts': what they are measured against. x [N, inner], weights, bias
 * [columns] → out [N, columns]; params.x is N.
 */
export function denseProductSource(shape: DenseShape, tile: Tile): string {
  const { inner, columns, activation, storage } = shape;
  const product: TiledProduct = {
    tile,
    inner,
    right: ['weights'],
    rightInner: activation !== undefined,
    prepareLeft: (row, suffix) => `
  let left${suffix} = min(firstRow + ${row}, params.x - 1u) * ${inner / 4}u;`,
    left: (suffix, k) => `x[left${suffix} + ${k} / 4u]`,
    prepareRight: (_, column, suffix) =>
      activation === undefined
        ? `
  let right${suffix} = min((firstColumn + ${column}) / 4u, ${columns / 4 - 1}u);`
        : `
  let right${suffix} = min(firstColumn + ${column}, ${columns - 1}u) * ${inner / 4}u;`,
    readRight: (matrix, suffix, k) =>
      activation === undefined
        ? readWeights(matrix, `right${suffix} + ${k} * ${columns / 4}u`, storage)
        : readWeights(matrix, `right${suffix} + ${k} / 4u`, storage),
  };
  const sum = (i: number, j: number) => `sum0_${i}_${j} + bias[(firstColumn + column_${j}) / 4u]`;
  return `// Dense layer: ${activation ?? 'no activation'}, ${storage}
${storageBuffers([
  ['x', 'vec4<f32>', 'read'],
  ['weights', weightType(storage), 'read'],
  ['bias', 'vec4<f32>', 'read'],
  ['out', 'vec4<f32>', 'read_write'],
])}
@group(0) @binding(4) var<uniform> params: vec4<u32>;
${productDeclarations(product)}
${activation === undefined ? '' : activationSource(activation)}

@compute @workgroup_size(${tileThreads(tile)})
fn main(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(local_invocation_index) thread: u32,
) {
  let firstRow = group.x * ${tile.rows}u;
  let firstColumn = group.y * ${tile.columns}u;${productBody(product)}
${eachSum(
  tile,
  (i, body) => `
  if (firstRow + row_${i} < params.x) {
    let at = (firstRow + row_${i}) * ${columns / 4}u;${body}
  }`,
  (i, j) => `
    if (firstColumn + column_${j} < ${columns}u) {
      out[at + (firstColumn + column_${j}) / 4u] = ${activation === undefined ? sum(i, j) : `activate(${sum(i, j)})`};
    }`,
)}
}
`;
}
