import { Random } from '@d2dmoe/core';
import {
  type Activation,
  dynamicKExperts,
  type FeedForwardWeights,
  packExperts,
  type ReferenceExperts,
  referenceDynamicKExperts,
} from '@d2dmoe/kernels';
import * as tf from '@tensorflow/tfjs-core';
import * as fc from 'fast-check';

/** What ran, for a test to see that something did. */
export interface OpReport {
  runs: number;
  /** The greatest ‖actual − expected‖ / ‖expected‖. */
  worst: number;
}

const activations: Activation[] = ['relu', 'gelu', 'gelu_tanh', 'silu'];

interface Ffn {
  rows: number;
  dIn: number;
  dOut: number;
  experts: number;
  expertSize: number;
  activation: Activation;
  gated: boolean;
  biases: boolean;
  /** The share of (row, expert) pairs that is selected. */
  density: number;
  seed: number;
}

/** FFNs of every kind, experts of the sizes that the op is made for, few rows and many. */
const ffns: fc.Arbitrary<Ffn> = fc.record({
  rows: fc.oneof(fc.constantFrom(0, 1, 197), fc.integer({ min: 2, max: 40 })),
  dIn: fc.integer({ min: 1, max: 40 }),
  dOut: fc.integer({ min: 1, max: 40 }),
  experts: fc.integer({ min: 1, max: 6 }),
  expertSize: fc.constantFrom(4, 6, 32, 128),
  activation: fc.constantFrom(...activations),
  gated: fc.boolean(),
  biases: fc.boolean(),
  density: fc.constantFrom(0, 0.2, 0.5, 1),
  seed: fc.nat(),
});

/** Each size with each kind of FFN and N = 0, 1, 197, whatever fast-check draws. */
const always: Ffn[] = [0, 1, 197].flatMap((rows) =>
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
  const check = async (ffn: Ffn) => {
    report.worst = Math.max(report.worst, await errorOf(ffn, storage));
    report.runs++;
  };
  for (const ffn of always) await check(ffn);
  await fc.assert(fc.asyncProperty(ffns, check), { numRuns });
  return report;
}

async function errorOf(shape: Ffn, storage: Storage): Promise<number> {
  const { rows, dIn, dOut, experts, expertSize, activation, density } = shape;
  const random = new Random(shape.seed);
  const normals = (count: number, deviation = 1) =>
    Float64Array.from({ length: count }, () => Math.fround(random.normal() * deviation));
  const hidden = experts * expertSize;
  const ffn: ReferenceExperts = {
    dIn,
    dOut,
    experts,
    expertSize,
    activation,
    up: normals(hidden * dIn, 1 / Math.sqrt(dIn)),
    down: normals(hidden * dOut, 1 / Math.sqrt(hidden)),
  };
  if (shape.gated) ffn.gate = normals(hidden * dIn, 1 / Math.sqrt(dIn));
  if (shape.biases) {
    ffn.upBias = normals(hidden);
    ffn.downBias = normals(dOut);
    if (shape.gated) ffn.gateBias = normals(hidden);
  }
  const x = normals(rows * dIn);
  const selection = Uint8Array.from({ length: rows * experts }, () =>
    Number(random.uniform() < density),
  );
  const expected = referenceDynamicKExperts(x, selection, ffn);

  const before = tf.memory().numTensors;
  const weights = weightsOf(ffn);
  const packed = packExperts(weights, expertSize, { storage });
  for (const tensor of Object.values(weights)) {
    if (tensor instanceof tf.Tensor) tensor.dispose();
  }
  const output = tf.tidy(() =>
    dynamicKExperts(
      tf.tensor2d(Float32Array.from(x), [rows, dIn]),
      tf.tensor2d(selection, [rows, experts], 'bool'),
      packed,
    ),
  );
  const actual = await output.data<'float32'>();
  output.dispose();
  packed.dispose();
  if (tf.memory().numTensors !== before) {
    throw new Error(
      `${tf.memory().numTensors - before} tensors are left of ${JSON.stringify(shape)}`,
    );
  }
  if (actual.length !== expected.length) throw new Error(`${actual.length} values came out`);
  const difference = norm(expected.map((value, i) => (actual[i] as number) - value));
  const size = norm(expected);
  // The FFN's numbers are of the order of 1. An output far below that is what cancellation left of them.
  const tolerance = tolerances[storage];
  if (!(difference <= tolerance * (size + 0.1 * Math.sqrt(expected.length)))) {
    throw new Error(`an error of ${difference} in ${size} for ${JSON.stringify(shape)}`);
  }
  return size > 0.1 * Math.sqrt(expected.length) ? difference / size : 0;
}

function weightsOf(ffn: ReferenceExperts): FeedForwardWeights {
  const { dIn, dOut, experts, expertSize, activation, up, down } = ffn;
  const hidden = experts * expertSize;
  const matrix = (values: Float64Array, columns: number) =>
    tf.tensor2d(Float32Array.from(values), [hidden, columns]);
  const weights: FeedForwardWeights = { activation, up: matrix(up, dIn), down: matrix(down, dOut) };
  if (ffn.gate) weights.gate = matrix(ffn.gate, dIn);
  for (const name of ['upBias', 'gateBias', 'downBias'] as const) {
    const bias = ffn[name];
    if (bias) weights[name] = tf.tensor1d(Float32Array.from(bias));
  }
  return weights;
}

function norm(values: Float64Array): number {
  return Math.sqrt(values.reduce((sum, value) => sum + value * value, 0));
}
