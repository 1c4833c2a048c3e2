import type { Tensor, Tensor1D, Tensor2D } from '@tensorflow/tfjs-core';

/** Activation of an FFN's hidden neurons. `gelu` is the exact (erf) form, `gelu_tanh` its tanh approximation. */
export type Activation = 'relu' | 'gelu' | 'gelu_tanh' | 'silu';

/**
 * The weights of one FFN, neuron-major: row j of `up`, `gate` and `down` and element j of the hidden biases belong to
 * hidden neuron j. Computes, for a row x of dModel numbers,
 * `down(act(up·x + upBias)) + downBias`, or with a gate `down(act(gate·x + gateBias) ⊙ (up·x + upBias)) + downBias`.
 */
export interface FeedForwardWeights {
  /** [hidden, dIn] */
  up: Tensor2D;
  /** [hidden] */
  upBias?: Tensor1D;
  /** [hidden, dIn]; present in a gated FFN (GLU) only. */
  gate?: Tensor2D;
  /** [hidden] */
  gateBias?: Tensor1D;
  /** [hidden, dOut]: the transpose of a PyTorch Linear's weight. */
  down: Tensor2D;
  /** [dOut], added once, whatever experts run. */
  downBias?: Tensor1D;
  /** Of the hidden neurons; of the gate where there is one. */
  activation: Activation;
}

/**
 * How packed weights are stored: `int8` has one scale per neuron in each matrix, and takes a quarter of the memory;
 * `float16` and `bfloat16` take half.
 */
export type ExpertStorage = 'float32' | 'float16' | 'bfloat16' | 'int8';

/**
 * An FFN split into experts and laid out for the expert op: expert i is the neurons i·expertSize …
 * (i + 1)·expertSize − 1. Made by {@link packExperts}; owns its tensors, which outlive tf.tidy, until
 * {@link PackedExperts.dispose}.
 */
export interface PackedExperts {
  /** Width of the rows that the experts take. */
  dIn: number;
  /** Width of the rows that they give. */
  dOut: number;
  /** Neurons per expert; divides the hidden width. */
  expertSize: number;
  /** Number of experts, hidden / expertSize. */
  experts: number;
  /** Of the hidden neurons; of the gate where there is one. */
  activation: Activation;
  /** In what form the weights are kept; what `packExperts` was asked for. */
  storage: ExpertStorage;
  /** The backend in whose own layout the tensors are; absent where they are neuron-major {@link FeedForwardWeights}. */
  backend?: string;
  /** What the backend's kernel reads, by the names that it reads them by. */
  tensors: Readonly<Record<string, Tensor>>;
  /** Frees the tensors. */
  dispose(): void;
}

/** A router: x → |output · relu(hidden · x)|, no biases (method of Szatkowski et al. 2024, section 3.3). */
export interface RouterWeights {
  /** [width, dIn] */
  hidden: Tensor2D;
  /** [experts, width] */
  output: Tensor2D;
}

/**
 * How a token's experts are chosen from its predicted norms R.
 * - `threshold`: expert i runs where Rᵢ ≥ value · max R; value τ in [0, 1].
 * - `topK`: the `value` experts of greatest R.
 * - `cumulativeShare`: the smallest set, greatest R first, whose R sum to at least the share `value` of the total.
 *
 * At least one expert always runs; ties go to the lower number.
 */
export type SelectionRule =
  | { rule: 'threshold'; value: number }
  | { rule: 'topK'; value: number }
  | { rule: 'cumulativeShare'; value: number };
