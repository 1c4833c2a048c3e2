import { type Activation, dynamicKExperts, referenceDynamicKExperts } from '@d2dmoe/kernels';
import * as tf from '@tensorflow/tfjs-core';
import * as fc from 'fast-check';
import {
  booleans,
  errorOf,
  ffnKinds,
  type LayerShape,
  matrix,
  packOf,
  randomLayer,
} from '../../../packages/kernels/testing/random-experts.js';

/** What ran, for a test to see that something did. */
export interface OpReport {
  runs: number;
  /** The greatest error, as `errorOf` measures it. */
  worst: number;
}

/** FFNs of every kind, experts of the sizes that the op is made for, few rows and many. */
const layers: fc.Arbitrary<LayerShape> = fc.record({
  rows: fc.oneof(fc.constantFrom(0, 1, 197), fc.integer({ min: 2, max: 40 })),
  dIn: fc.integer({ min: 1, max: 40 }),
  dOut: fc.integer({ min: 1, max: 40 }),
  experts: fc.integer({ min: 1, max: 6 }),
  expertSize: fc.constantFrom(4, 6, 32, 128),
  density: fc.constantFrom(0, 0.2, 0.5, 1),
  ...ffnKinds,
});

const activations: Activation[] = ['relu', 'gelu', 'gelu_tanh', 'silu'];

/** Each size with each kind of FFN and N = 0, 1, 197, whatever fast-check draws. */
const always: LayerShape[] = [0, 1, 197].flatMap((rows) =>
  [4, 6, 32, 128].flatMap((expertSize, i) =>
    [false, true].map((gated, j) => ({
      rows,
      dIn: 24,
      dOut: 17,
      experts: 5,
      expertSize,
      activation: activations[(i + j) % 4] as Activation,
      gated,
      biases: !gated,
      density: 0.4,
      seed: rows + expertSize,
    })),
  ),
);

/** The relative error that a storage may cost. */
const tolerances = { float32: 1e-5, float16: 2e-3 };
type Storage = keyof typeof tolerances;

/**
 * Compares the current backend's expert op with the float64 reference.
 *
 * @param numRuns how many FFNs fast-check draws, besides those that always run
 * @throws where the error is above 1e-5 (2e-3 where weights are stored in float16), or a tensor is left behind
 */
export async function checkOp(numRuns: number, storage: Storage = 'float32'): Promise<OpReport> {
  const report: OpReport = { runs: 0, worst: 0 };
  const check = async (shape: LayerShape) => {
    report.worst = Math.max(report.worst, await checkLayer(shape, storage));
    report.runs++;
  };
  for (const shape of always) await check(shape);
  await fc.assert(fc.asyncProperty(layers, check), { numRuns });
  return report;
}

/** @returns the error */
async function checkLayer(shape: LayerShape, storage: Storage): Promise<number> {
  const { rows, dIn, experts } = shape;
  const layer = randomLayer(shape);
  const { x, ffn, selection } = layer;
  const before = tf.memory().numTensors;
  const packed = packOf(ffn, storage);
  const output = tf.tidy(() =>
    dynamicKExperts(matrix(x, rows, dIn), booleans(selection, rows, experts), packed),
  );
  const actual = await output.data<'float32'>();
  output.dispose();
  packed.dispose();
  const left = tf.memory().numTensors - before;
  if (left !== 0) throw new Error(`${left} tensors are left of ${JSON.stringify(shape)}`);
  const error = errorOf(layer, actual, referenceDynamicKExperts(x, selection, ffn));
  if (!(error <= tolerances[storage])) {
    throw new Error(`an error of ${error} for ${JSON.stringify(shape)}`);
  }
  return error;
}
