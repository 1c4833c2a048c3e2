import type { TensorInfo } from '@tensorflow/tfjs-core';
import type { HalfType } from '../tensor-data.js';

/** Activation of an FFN's hidden neurons, as packages/kernels names them; the kernels number them in this order. */
export const ACTIVATIONS = ['relu', 'gelu', 'gelu_tanh', 'silu'] as const;
export type Activation = (typeof ACTIVATIONS)[number];

/** How packed weights lie on the device. */
export const STORAGES = ['float32', 'float16', 'bfloat16', 'int8'] as const;
export type Storage = (typeof STORAGES)[number];

/** The type of 16 bits that x and results have beside weights in a storage of that type. */
export const HALF_OF = {
  float32: undefined,
  float16: 'fp16',
  bfloat16: 'bf16',
  int8: undefined,
} as const satisfies Record<Storage, HalfType | undefined>;

/** Bytes of one weight. */
export const WEIGHT_BYTES: Record<Storage, number> = {
  float32: 4,
  float16: 2,
  bfloat16: 2,
  int8: 1,
};

/** Elements from one packed row of `width` weights to the next: rows begin at 16 bytes. */
export function pitchOf(width: number, storage: Storage): number {
  const aligned = 16 / WEIGHT_BYTES[storage];
  return Math.ceil(width / aligned) * aligned;
}

/** Bytes of a neuron's packed rows: of up, of gate in a gated layer, and of down. */
export function neuronBytes(
  { dIn, dOut, storage }: Pick<ExpertsCall, 'dIn' | 'dOut' | 'storage'>,
  isGated: boolean,
): number {
  const weights = pitchOf(dIn, storage) * (isGated ? 2 : 1) + pitchOf(dOut, storage);
  return weights * WEIGHT_BYTES[storage];
}

/** Density to plan for where the caller names none. */
const USUAL_DENSITY = 0.5;

/** The share of (row, expert) pairs to plan a call for, from 0 to 1, whatever the caller has said. */
export function plannedDensity({ density = USUAL_DENSITY }: Pick<ExpertsCall, 'density'>): number {
  return Number.isNaN(density) ? USUAL_DENSITY : Math.min(1, Math.max(0, density));
}

/** The same for what has to hold whatever is selected: all pairs, where the caller has not said. */
export function promisedDensity(call: Pick<ExpertsCall, 'density'>): number {
  return call.density === undefined ? 1 : plannedDensity(call);
}

/** The share of sets of `pairs` pairs of which at least one is selected, where each is with a probability of `density`. */
export const anyOf = (pairs: number, density: number): number => 1 - (1 - density) ** pairs;

/** One run of the expert op. Addresses are the device's; matrices are neuron-major with rows of {@link pitchOf}. */
export interface ExpertsCall {
  /** N. */
  readonly rows: number;
  readonly dIn: number;
  readonly dOut: number;
  readonly experts: number;
  readonly expertSize: number;
  /** experts · expertSize. */
  readonly hidden: number;
  readonly activation: Activation;
  readonly storage: Storage;
  /** Share of (row, expert) pairs that the caller expects to be selected; undefined where it does not say. */
  readonly density: number | undefined;
  /** float32 [N, dIn], in whatever form it is on the device. */
  readonly x: TensorInfo;
  /** bool [N, experts] */
  readonly selection: TensorInfo;
  /** [hidden, dIn] */
  readonly up: number;
  /** [hidden, dIn]; 0 in a plain FFN. */
  readonly gate: number;
  /** [hidden, dOut] */
  readonly down: number;
  /** float32 [hidden]; zeros where the FFN has none. */
  readonly upBias: number;
  /** float32 [hidden]; zeros where the FFN has none. */
  readonly gateBias: number;
  /** float32 [dOut]; zeros where the FFN has none. */
  readonly downBias: number;
  /** int8: float32 scales of up's, gate's and down's rows, `hidden` each; ones otherwise. */
  readonly scales: number;
  /** What launches on these experts keep between them: 16 bytes of counters, zeros at first. */
  readonly state: number;
}
