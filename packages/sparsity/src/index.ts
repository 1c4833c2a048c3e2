export { clampedPreactivation } from './clamped-preactivation.js';
export { clampedPreactivationHoyer } from './clamped-preactivation-hoyer.js';
export { distillationLoss } from './distillation.js';
export { l1 } from './l1.js';
export { type RegularizerEntry, type RegularizerName, regularizers } from './registry.js';
export type { Regularizer, RegularizerOptions } from './regularizer.js';
export {
  constant,
  linear,
  linearWarmup,
  type Schedule,
  type ScheduleName,
  schedules,
} from './schedules.js';
export { squareHoyer } from './square-hoyer.js';
export {
  type ActivationStatistics,
  activationStatistics,
  SparsityStatistics,
} from './statistics.js';
