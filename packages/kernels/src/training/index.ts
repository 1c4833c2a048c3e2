export { Adam, type AdamOptions } from './adam.js';
export {
  attention,
  type AttentionMask,
  attentionMask,
  type AttentionMaskOptions,
  type AttentionOptions,
  byHead,
  packedAttention,
} from './attention.js';
export { clippingScale } from './clipping.js';
export { softmaxCrossEntropy } from './cross-entropy.js';
export { layerNorm, rmsNorm } from './layer-norm.js';
export { linear } from './linear.js';
export { maskExperts } from './mask-experts.js';
export {
  referenceAttention,
  type ReferenceAttentionOptions,
  type ReferenceProjections,
} from './reference-attention.js';
export { rotate, type Rotary, rotaryTables } from './rotary.js';
