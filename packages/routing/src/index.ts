export {
  predictNorms,
  type RouterWeights,
  type SelectionRule,
  selectExperts,
} from '@d2dmoe/kernels';
export { warmupCosine } from './learning-rate.js';
export {
  moeficationGradients,
  moeficationLoss,
  moeficationScores,
  moeficationTargets,
} from './moefication.js';
export {
  normRegressionGradients,
  normRegressionLoss,
  type RouterGradients,
} from './norm-regression.js';
export { relativeError } from './relative-error.js';
export { createRouter, type RouterSettings, type TrainableRouter } from './router.js';
export { type RouterSample, RouterTrainer, type RouterTrainerSettings } from './router-trainer.js';
export { tauFromReference } from './tau.js';
