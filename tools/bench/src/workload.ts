import { Random } from '@d2dmoe/core';

/** A product of two batches of matrices; the shapes are those of the operands as stored. */
export interface ProductWorkload {
  kind: 'product';
  a: readonly number[];
  b: readonly number[];
  transposeA?: boolean;
  transposeB?: boolean;
}

/** A ReLU FFN with biases, or a gated one without. */
export interface FeedForwardShape {
  rows: number;
  dModel: number;
  hidden: number;
  gated: boolean;
}

/** Every neuron of an FFN. */
export interface FeedForwardWorkload extends FeedForwardShape {
  kind: 'feedForward';
}

/** The share `fraction` of an FFN's experts, other ones in each row and from one run to the next. */
export interface ExpertsWorkload extends FeedForwardShape {
  kind: 'experts';
  expertSize: number;
  fraction: number;
}

/** A training step of the GPT-2 of {@link trainingConfig}. */
export interface TrainingWorkload {
  kind: 'trainingStep';
}

/** What is timed. Peers draw the same values for it, each in its own process. */
export type Workload = ProductWorkload | FeedForwardWorkload | ExpertsWorkload | TrainingWorkload;

/** What a workload gives, by name. */
export type Results = Record<string, Float32Array>;

/** `count` uniform numbers of the given deviation, exact in float32. */
function uniform(count: number, deviation: number, random: Random): Float32Array {
  const values = new Float32Array(count);
  const scale = (deviation * Math.sqrt(3)) / 2 ** 31;
  for (let i = 0; i < count; i++) values[i] = (random.uint32() - 2 ** 31) * scale;
  return values;
}

function size(shape: readonly number[]): number {
  return shape.reduce((product, length) => product * length, 1);
}

/** The operands of a product, row-major. */
export function productOperands({ a, b }: ProductWorkload): { a: Float32Array; b: Float32Array } {
  const random = new Random(1);
  return { a: uniform(size(a), 1, random), b: uniform(size(b), 1, random) };
}

/** An FFN's input and weights, neuron-major; a gate and no biases where it is gated. */
export interface FeedForwardValues {
  /** [rows, dModel] */
  x: Float32Array;
  /** [hidden, dModel] */
  up: Float32Array;
  /** [hidden] */
  upBias?: Float32Array;
  /** [hidden, dModel] */
  gate?: Float32Array;
  /** [hidden, dModel] */
  down: Float32Array;
  /** [dModel] */
  downBias?: Float32Array;
}

/** Values for which hidden activations and outputs are of the order of 1. */
export function feedForwardValues(shape: FeedForwardShape): FeedForwardValues {
  const { rows, dModel, hidden, gated } = shape;
  const random = new Random(2);
  const projection = () => uniform(hidden * dModel, 1 / Math.sqrt(dModel), random);
  return {
    x: uniform(rows * dModel, 1, random),
    up: projection(),
    down: uniform(hidden * dModel, 1 / Math.sqrt(hidden), random),
    ...(gated
      ? { gate: projection() }
      : { upBias: uniform(hidden, 1, random), downBias: uniform(dModel, 1, random) }),
  };
}

/**
 * The selections that runs go through in turn, each [rows, experts] of zeros and ones with exactly
 * round(fraction · experts) ones a row. One row has more of them, so that its runs do not keep reading the same weights.
 */
export function selectionMasks(workload: ExpertsWorkload): Uint8Array[] {
  const { rows, hidden, expertSize, fraction } = workload;
  const experts = hidden / expertSize;
  const selected = selectedExperts(workload);
  const random = new Random(3).fork(fraction);
  return Array.from({ length: rows === 1 ? 16 : 4 }, () => {
    const mask = new Uint8Array(rows * experts);
    for (let row = 0; row < rows; row++) {
      for (const expert of random.permutation(experts).subarray(0, selected)) {
        mask[row * experts + expert] = 1;
      }
    }
    return mask;
  });
}

/** How many experts run for each row. */
export function selectedExperts({ hidden, expertSize, fraction }: ExpertsWorkload): number {
  return Math.round((fraction * hidden) / expertSize);
}

/** The config.json of the model that is trained. */
export const trainingConfig = {
  model_type: 'gpt2',
  n_embd: 128,
  n_layer: 4,
  n_head: 4,
  vocab_size: 512,
  n_positions: 64,
};

/** Adam's settings for the training step. */
export const trainingAdam = { learningRate: 1e-3, beta1: 0.9, beta2: 0.999, epsilon: 1e-8 };

/** 16 sequences of 64 token ids, and for each of their tokens the one to predict. */
export function trainingBatch(): { shape: [number, number]; ids: Int32Array; labels: Int32Array } {
  const random = new Random(4);
  const shape: [number, number] = [16, trainingConfig.n_positions];
  const draw = () => random.integer(trainingConfig.vocab_size);
  return {
    shape,
    ids: Int32Array.from({ length: size(shape) }, draw),
    labels: Int32Array.from({ length: size(shape) }, draw),
  };
}
