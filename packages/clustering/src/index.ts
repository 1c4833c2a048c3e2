export { assignBalanced } from './assign-balanced.js';
export { type BalancedKMeansOptions, balancedKMeans } from './balanced-k-means.js';
export { type CoActivationSplitOptions, coActivationSplit } from './co-activation-split.js';
export { type RandomSplitOptions, randomSplit } from './random-split.js';
export type { Split } from './split.js';
export { expertCount } from './validation.js';
