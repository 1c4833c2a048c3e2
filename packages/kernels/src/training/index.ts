export { Adam, type AdamOptions } from './adam.js';
export { softmaxCrossEntropy } from './cross-entropy.js';
export { layerNorm, rmsNorm } from './layer-norm.js';
export { linear } from './linear.js';
