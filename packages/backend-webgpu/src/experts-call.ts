import type { TensorInfo } from '@tensorflow/tfjs-core';
import type { Activation, ExpertShape, WeightStorage } from '../../../kernels/webgpu/index.js';

/** Attributes of PackExperts, as @d2dmoe/kernels hands them over. */
export interface PackAttrs {
  expertSize: number;
  storage: string;
}

/** Attributes of DynamicKExperts. */
export interface ExpertsAttrs {
  activation: Activation;
  expertSize: number;
  dOut: number;
  storage: WeightStorage;
  expectedDensity?: number;
}

/** Some experts whose weights share buffers. */
export interface Part {
  /** The number of its first expert. */
  firstExpert: number;
  experts: number;
  /** [experts · expertSize, pitchOf(dIn)] */
  up: TensorInfo;
  /** As `up`, of a gated FFN. */
  gate?: TensorInfo;
  /** [experts · expertSize, pitchOf(dOut)] */
  down: TensorInfo;
}

/** One run of the expert op. */
export interface ExpertsCall {
  shape: ExpertShape;
  /** N. */
  rows: number;
  /** float32 [N, dIn] */
  x: TensorInfo;
  /** bool [N, n], which tfjs keeps as int32. */
  selection: TensorInfo;
  /** float32 [1 or 2, hidden]: upBias, gateBias; zeros where the FFN has none. */
  biases: TensorInfo;
  /** float32 [pitchOf(dOut)] */
  downBias: TensorInfo;
  parts: readonly Part[];
  /** Experts of every part but perhaps the last. */
  partExperts: number;
  /** Share of the pairs that the caller expects to be selected. */
  density: number;
}
