import { D2DMoEError } from '@d2dmoe/core';
import * as tf from '@tensorflow/tfjs-core';
import {
  type Activation,
  type DenseShape,
  denseProductSource,
  type Tile,
} from '../../../kernels/webgpu/index.js';
import { encode } from './encode.js';
import { LEAST_WORKGROUP_BYTES, tilingOf } from './many-plan.js';
import { bufferOf, openBackend } from './open-backend.js';
import { remember } from './pipelines.js';

/** A plain FFN, neuron-major as in @d2dmoe/kernels. */
export interface DenseFeedForward {
  /** [hidden, dIn] */
  up: tf.Tensor2D;
  /** [hidden] */
  upBias: tf.Tensor1D;
  /** [hidden, dOut] */
  down: tf.Tensor2D;
  /** [dOut] */
  downBias: tf.Tensor1D;
  /** Of the hidden neurons. */
  activation: Activation;
}

const sourceOf = remember(
  ({ shape, tile }: { shape: DenseShape; tile: Tile }) =>
    [...Object.values(shape), shape.activation === undefined, ...Object.values(tile)].join(),
  ({ shape, tile }) => denseProductSource(shape, tile),
);

/**
 * The dense FFN through the tiles that the expert op has: what the op is measured against. The webgpu backend must be
 * the current one.
 *
 * @param x [N, dIn]; widths must be multiples of 4.
 * @returns [N, dOut]
 * @throws D2DMoEError `SHAPE_MISMATCH` if a width is no multiple of 4.
 */
export function denseFeedForward(x: tf.Tensor2D, ffn: DenseFeedForward): tf.Tensor2D {
  const [rows, dIn] = x.shape;
  const [hidden, dOut] = ffn.down.shape;
  for (const width of [dIn, hidden, dOut]) {
    if (width % 4 !== 0) {
      throw new D2DMoEError(
        'SHAPE_MISMATCH',
        `The dense FFN takes widths that are multiples of 4, not ${width}.`,
      );
    }
  }
  if (rows === 0) return tf.zeros([0, dOut]);
  return tf.tidy(() => {
    const activated = layer(x, ffn.up, ffn.upBias, {
      inner: dIn,
      columns: hidden,
      activation: ffn.activation,
      storage: 'float32',
    });
    const out = { inner: hidden, columns: dOut, storage: 'float32' } as const;
    return layer(activated, ffn.down, ffn.downBias, out);
  });
}

function layer(
  x: tf.Tensor2D,
  weights: tf.Tensor2D,
  bias: tf.Tensor1D,
  shape: DenseShape,
): tf.Tensor2D {
  const backend = openBackend(tf.backend());
  const [rows] = x.shape;
  const { columns } = shape;
  // All rows of one expert of all neurons.
  const { output: tile } = tilingOf(
    {
      dIn: shape.inner,
      dOut: columns,
      experts: 1,
      expertSize: columns,
      activation: 'relu',
      gated: false,
      storage: 'float32',
    },
    rows,
    1,
    // Its tiles are fastest where they are smaller than the experts', kernels/webgpu/README.md.
    LEAST_WORKGROUP_BYTES,
  );
  const out = backend.makeTensorInfo([rows, columns], 'float32');
  encode(backend, 'DenseFeedForward', [x, weights, bias, out], (encoder) => {
    encoder.dispatch(
      sourceOf({ shape, tile }),
      [x, weights, bias, out]
        .map((tensor) => bufferOf(backend, tensor))
        .concat(encoder.uniform(`${rows}`, () => Uint32Array.of(rows, 0, 0, 0).buffer)),
      [Math.ceil(rows / tile.rows), Math.ceil(columns / tile.columns)],
    );
  });
  return tf.engine().makeTensorFromTensorInfo(out) as tf.Tensor2D;
}
