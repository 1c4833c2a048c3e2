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
export type { ModelType } from './config.js';
export { createModel, initModel, type StoredTensor } from './create.js';
export { type DynamicOptions, type DynamicSubstitute, dynamicSubstitute } from './dynamic.js';
export {
  type DynamicConfig,
  type DynamicSite,
  dynamicConfig,
  routerNames,
} from './dynamic-config.js';
export { Model } from './model.js';
export type { ForwardOptions, Site, SiteValues } from './site.js';
