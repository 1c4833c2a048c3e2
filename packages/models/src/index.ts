export type {
  Architecture,
  Batch,
  ForwardResult,
  ImageBatch,
  ModelShape,
  Task,
  TextBatch,
} from './architecture.js';
export { readArchitecture } from './architectures.js';
export { type KeysAndValues, KeyValueCache } from './cache.js';
export type { ModelType } from './config.js';
export { createModel, initModel, type StoredTensor } from './create.js';
export {
  type DynamicOptions,
  type DynamicSubstitute,
  dynamicSubstitute,
  packModel,
} from './dynamic.js';
export {
  type DynamicConfig,
  type DynamicSite,
  dynamicConfig,
  type ReplacedProjection,
  replacementNames,
  routerNames,
} from './dynamic-config.js';
export { generate, type GenerateOptions } from './generate.js';
export { Model } from './model.js';
export type { SamplingOptions } from './sampling.js';
export type { ForwardOptions, Site, SiteValues, SiteWidths } from './site.js';
export type { StoredCalibration, StoredPoint, Thresholds } from './stored-calibration.js';
