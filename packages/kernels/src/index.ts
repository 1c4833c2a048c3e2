export { activate } from './activation.js';
export { contributionNorms, expertGrams } from './contribution.js';
export type { Device, DeviceReport } from './device.js';
export { deviceNames, listDevices, registerDevice, useDevice } from './device.js';
export type { DynamicKExpertsAttrs, DynamicKExpertsInputs } from './dynamic-k-experts.js';
export { DynamicKExperts, dynamicKExperts } from './dynamic-k-experts.js';
export { feedForward, hiddenActivations } from './feed-forward.js';
export type { PackExpertsAttrs } from './pack-experts.js';
export { PackExperts, packExperts } from './pack-experts.js';
export { predictNorms } from './predict-norms.js';
export type { PackedRouter, PackRouterAttrs } from './routed-experts.js';
export { PackRouter, packRouter, RoutedExperts, routedExperts } from './routed-experts.js';
export type { ReferenceExperts } from './reference.js';
export {
  referenceActivate,
  referenceContributionNorms,
  referenceDynamicKExperts,
  referenceExpertOutputs,
  referenceHiddenActivations,
  referenceSelectExperts,
} from './reference.js';
export type { SelectExpertsInputs } from './select-experts.js';
export { SelectExperts, selectExperts } from './select-experts.js';
export { checkSelectionRule } from './selection-rule.js';
export type * from './types.js';
export * from './training/index.js';
