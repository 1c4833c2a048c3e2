export {
  imitationError,
  type ImitationGradients,
  imitationGradients,
  type SparsityTerm,
} from './imitation.js';
export {
  type ImitationFigures,
  type ImitationSample,
  type ImitationStep,
  ImitationTrainer,
} from './imitation-trainer.js';
export { type Moments, OutputMoments } from './output-moments.js';
export {
  createReplacement,
  type ReplacementSettings,
  type TrainableReplacement,
} from './replacement.js';
export { replacementWidth, type ReplacementWidthOptions } from './replacement-width.js';
export { type SymmetricEigen, symmetricEigen } from './symmetric-eigen.js';
