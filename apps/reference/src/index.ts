export { loadModel } from '@d2dmoe/models/node';
export {
  type Classification,
  classify,
  type ClassifyOptions,
  type ClassifyResult,
} from './classify.js';
export { type Conversion, convert, type ConvertOptions } from './convert.js';
export { type ConvertSettings, defaultSettings, defaultTaus } from './defaults.js';
export { demo, type DemoOptions, type DemoResult } from './demo/demo.js';
export { type Device, deviceNames, type DeviceName, useDevice } from './device.js';
export { evaluate, type EvaluateOptions, rulesOf } from './evaluate.js';
export { resolveCheckpoint, resolveDataset, type ResolveOptions } from './hub/index.js';
export { generate, type GenerateOptions, type GenerateResult } from './generate.js';
export { type Plan } from './plan.js';
export { attention, type AttentionSettings } from './stages/attention.js';
export { calibrate, type CalibrateSettings } from './stages/calibrate.js';
export { finetune, type FinetuneSettings } from './stages/finetune.js';
export { type DataOptions, type PreparedData, prepareData } from './stages/prepare.js';
export { route, type RouteSettings } from './stages/route.js';
export { sparsify, type SparsifySettings } from './stages/sparsify.js';
export { split, type SplitSettings } from './stages/split.js';
export type { Metrics, StageOptions, StageRecord } from './stages/stage.js';
