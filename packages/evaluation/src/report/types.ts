import type { CurvePoint, DenseEvaluation } from '../evaluate.js';
import type { ExecutedByToken } from '../observe/executed-by-token.js';
import type { RouterError } from '../observe/router-error.js';
import type { Timing } from '../observe/time-forward.js';

/**
 * Everything that a report shows, as plain data. What is left out leaves out its section; nothing is made up for it.
 */
export interface ReportData {
  /** How the converted model is called, e.g. its folder's name. */
  name: string;
  /** The data that all figures but the operating points' choice come from, e.g. `the test split of emotion`. */
  data: string;
  /** The dense model's score and cost on these data, which everything is relative to. */
  dense: DenseEvaluation;
  /** The method's own curve. */
  dynamicK: readonly ReportPoint[];
  /** What it is compared with, on the same data and cost model. */
  baselines: readonly ReportCurve[];
  /** Points that the checkpoint was calibrated for; the first is the report's headline. */
  operatingPoints: readonly OperatingPoint[];
  /** Thresholds by layer against one for all, at budgets. */
  gains?: readonly ThresholdGain[];
  /** Experts executed per token at the headline's operating point, by site. */
  executed?: readonly ExecutedByToken[];
  /** Activations of the dense and of the sparsified model, by site. */
  sparsity?: readonly ActivationSparsity[];
  /** The routers' errors at the headline's operating point, by site. */
  routers?: readonly RouterError[];
  /** Pictures and where the model spent its experts on them, at the headline's operating point. */
  images?: readonly ImageSample[];
  /** Texts and where the model spent its experts on them, at the headline's operating point. */
  texts?: readonly TextSample[];
  /** How long forward passes take, dense and converted. */
  wallClock?: WallClock;
  /** How the model came about, stage by stage, and how it was evaluated. */
  settings: readonly ReportSettings[];
}

/** What the report needs of a curve's point; those of `sweep` and of the baselines have it. */
export type ReportPoint = Pick<CurvePoint, 'score' | 'cost' | 'convertedCost'> & {
  tau?: number;
  /** What the method was set to. */
  value?: number;
};

/** A baseline's curve. */
export interface ReportCurve {
  /** Short and unique, for file names and selectors: `moefication`. */
  name: string;
  /** What people call it: `MoEfication, fixed k`. */
  label: string;
  /** One sentence on what it does. */
  description: string;
  /** Whether it is a bound that no method can reach, which is shown but beats nobody. */
  isBound?: boolean;
  /** What each point's `value` sets, e.g. `target sparsity`. */
  knob?: string;
  /** Measured on the report's data. */
  points: readonly ReportPoint[];
}

/** A point on the test data and how it was found. */
export interface OperatingPoint {
  /** `keep-0.99`, `half the cost`. */
  name: string;
  /** Completes "its threshold was …": `chosen on the validation split to keep 99 % of the accuracy`. */
  chosen: string;
  /** Score and cost on the test data. */
  point: ReportPoint;
}

/** Two calibrations for one budget, both measured on the test data. */
export interface ThresholdGain {
  /** `99 % of the accuracy`, `0.6 of the cost`. */
  budget: string;
  /** One threshold for all layers. */
  global: ReportPoint;
  /** A threshold for each layer. */
  perLayer: ReportPoint;
}

/** Shares of a site's activations that do nothing or little, before the sparsifying fine-tuning and after it. */
export interface ActivationSparsity {
  /** The name of the site, as in `layers.0.ffn`. */
  site: string;
  /** Of the dense model. */
  before: SparsityShares;
  /** Of the model that was fine-tuned for sparsity. */
  after: SparsityShares;
}

/** Shares of a layer's activations, in [0, 1]. */
export interface SparsityShares {
  /** Exactly 0. */
  zero: number;
  /** Below a hundredth of their token's greatest; zeros are. */
  belowHundredth: number;
}

/** One picture and its experts. */
export interface ImageSample {
  /** The picture as a `data:` URL. */
  image: string;
  /** Patches of a row. */
  columns: number;
  /** Patches of a column. */
  rows: number;
  /** Share of experts executed by each patch, row by row. */
  executed: readonly number[];
  /** The true class's name. */
  label: string;
  /** The name of the class that the model gave. */
  predicted: string;
}

/** One text and its experts. */
export interface TextSample {
  /** The text's tokens as they read, in order. */
  tokens: readonly string[];
  /** Share of experts executed by each token. */
  executed: readonly number[];
  /** The true class's name; a classifier's only. */
  label?: string;
  /** The name of the class that a classifier gave. */
  predicted?: string;
}

/** Forward passes timed on the device that the evaluation ran on. */
export interface WallClock {
  /** `wasm: relaxed SIMD, 1 thread; Node 20.19.0 on Linux x64`. */
  device: string;
  /** What one pass runs: `64 samples, 1,472 tokens`. */
  batch: string;
  /** Passes of the dense model. */
  dense: Timing;
  /** Passes of the converted model, at one threshold each. */
  converted: readonly {
    /** `τ = 0.2` */
    label: string;
    /** Multiply-adds relative to dense, on the evaluation's data. */
    cost: number;
    timing: Timing;
  }[];
}

/** What one stage was told. */
export interface ReportSettings {
  /** Its name, as in `sparsify`. */
  stage: string;
  /** Of its random numbers; absent where it draws none. */
  seed?: number;
  /** How long it took. */
  seconds?: number;
  /** Values by the option's name. */
  settings: Readonly<Record<string, unknown>>;
}
