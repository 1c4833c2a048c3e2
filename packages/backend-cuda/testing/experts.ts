import type { Random } from '@d2dmoe/core';
import { type ExpertStorage, referenceDynamicKExperts } from '@d2dmoe/kernels';
import * as tf from '@tensorflow/tfjs-core';
import {
  booleans,
  errorOf,
  type Layer,
  type LayerShape,
  matrix,
  randomLayer,
  withExperts,
} from '../../kernels/testing/random-experts.js';
import type { CudaBackend } from '../src/index.js';
import type { ExpertsCall } from '../src/experts/call.js';
import { callOf, type PackedInputs } from '../src/experts/dynamic-k-experts.js';

/** A {@link LayerShape} whose kind may be left to {@link exactLayer}. */
export type ExactShape = Pick<
  LayerShape,
  'rows' | 'dIn' | 'dOut' | 'experts' | 'expertSize' | 'density'
> &
  Partial<LayerShape>;

/** Normal draws with the 8 bits of bf16, which fp16 holds as well. */
function coarse(count: number, random: Random, deviation = 1): Float64Array {
  const value = new Float32Array(1);
  const bits = new Uint32Array(value.buffer);
  return Float64Array.from({ length: count }, () => {
    value[0] = random.normal() * deviation;
    bits[0] = (bits[0] ?? 0) & 0xffff0000;
    return value[0] ?? 0;
  });
}

/**
 * A layer, plain with ReLU and biases where the shape does not say, whose values 16 bits hold exactly: what is left is
 * the kernels' own rounding.
 */
export function exactLayer(shape: ExactShape): Layer {
  const seed = shape.rows + shape.experts;
  return randomLayer({ activation: 'relu', gated: false, biases: true, seed, ...shape }, coarse);
}

/** A router's norms, |output · relu(hidden · x)|, in float64. */
export function exactNorms(
  x: Float64Array,
  router: { hidden: Float64Array; output: Float64Array },
  { rows, dIn, experts }: Pick<LayerShape, 'rows' | 'dIn' | 'experts'>,
): Float64Array {
  const width = router.hidden.length / dIn;
  const product = (a: Float64Array, b: Float64Array, depth: number, columns: number) =>
    Float64Array.from({ length: rows * columns }, (_, i) => {
      const [row, column] = [Math.floor(i / columns), i % columns];
      let sum = 0;
      for (let k = 0; k < depth; k++)
        sum += (a[row * depth + k] ?? 0) * (b[column * depth + k] ?? 0);
      return sum;
    });
  const activations = product(x, router.hidden, dIn, width).map((v) => Math.max(0, v));
  return product(activations, router.output, width, experts).map(Math.abs);
}

/** Runs `use` with a layer's call of the op, its experts packed in a storage, in a tf.tidy, and frees all. */
export function withCall(
  backend: CudaBackend,
  { x, ffn, selection }: Layer,
  { storage, expectedDensity }: { storage: ExpertStorage; expectedDensity?: number | undefined },
  use: (call: ExpertsCall) => void,
): void {
  const { dIn, dOut, experts, expertSize, activation } = ffn;
  const rows = x.length / dIn;
  withExperts(
    ffn,
    ({ tensors }) => {
      const call = callOf(
        backend,
        tensors as unknown as PackedInputs,
        {
          activation,
          expertSize,
          dOut,
          storage,
          ...(expectedDensity !== undefined && { expectedDensity }),
        },
        {
          x: matrix(x, rows, dIn),
          selection: booleans(selection, rows, experts),
          experts,
        },
      );
      use(call);
    },
    storage,
  );
}

/** What a path gives for a drawn layer, twice, what float64 does, and how far the first is from that. */
export function runTwice(
  backend: CudaBackend,
  shape: LayerShape,
  packing: { storage: ExpertStorage; expectedDensity?: number | undefined },
  run: (call: ExpertsCall) => tf.TensorInfo,
) {
  const layer = randomLayer(shape);
  const runs: ArrayLike<number>[] = [];
  withCall(backend, layer, packing, (call) => {
    for (let turn = 0; turn < 2; turn++) {
      runs.push(tf.engine().makeTensorFromTensorInfo(run(call)).dataSync().slice());
    }
  });
  const expected = referenceDynamicKExperts(layer.x, layer.selection, layer.ffn);
  const actual = runs[0] ?? [];
  return { actual, again: runs[1], expected, error: errorOf(layer, actual, expected) };
}
