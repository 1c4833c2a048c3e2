import type { BudgetTarget } from '@d2dmoe/evaluation';
import type { ModelShape, ModelType } from '@d2dmoe/models';
import type { RouteSettings } from './stages/route.js';
import type { SparsifySettings } from './stages/sparsify.js';
import type { SplitSettings } from './stages/split.js';

/** Settings of the stages of a conversion. */
export interface ConvertSettings {
  sparsify: SparsifySettings;
  split: SplitSettings;
  route: RouteSettings;
  /** Thresholds of the curve. */
  taus: readonly number[];
  /** What thresholds are found for on the validation split; the first is what the checkpoint then runs at. */
  budgets: readonly BudgetTarget[];
  /** Whether thresholds may differ by layer. */
  perLayer: boolean;
  /** At most this many samples of the validation and of the test split. */
  samples?: number;
}

/** What differs between architectures: found on small checkpoints, with step budgets that fit an hour of CPU. */
const byType: Record<
  ModelType,
  Pick<SparsifySettings, 'alpha' | 'steps' | 'batchSize' | 'learningRate'>
> = {
  vit: { alpha: 1e-2, steps: 600, batchSize: 64, learningRate: 3e-4 },
  bert: { alpha: 1e-3, steps: 1000, batchSize: 64, learningRate: 1e-4 },
  gpt2: { alpha: 1e-3, steps: 200, batchSize: 8, learningRate: 3e-4 },
  gemma: { alpha: 4e-3, steps: 200, batchSize: 8, learningRate: 3e-4 },
};

/** The thresholds of a curve: fine where they matter, near 0. */
export const defaultTaus: readonly number[] = [
  0, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.15, 0.2, 0.3, 0.4, 0.6,
];

/** The shares of the dense score at which conversions are compared. */
export const defaultBudgets: readonly BudgetTarget[] = [
  { keep: 0.99 },
  { keep: 0.97 },
  { keep: 0.95 },
];

/** The settings of a conversion where nothing else is said. */
export function defaultSettings(type: ModelType, shape: ModelShape): ConvertSettings {
  const { batchSize, steps } = byType[type];
  return {
    sparsify: { regularizer: 'squareHoyer', schedule: 'linearWarmup', ...byType[type] },
    split: { expertSize: defaultExpertSize(shape.hidden) },
    route: {
      width: Math.max(8, Math.round(shape.dModel / 4)),
      steps,
      batchSize,
      learningRate: 3e-3,
    },
    taus: defaultTaus,
    budgets: defaultBudgets,
    perLayer: true,
  };
}

/** The divisor of the hidden width that comes closest to 128 experts: small experts give the better curve. */
function defaultExpertSize(hidden: number): number {
  let best = 1;
  for (let size = 1; size <= hidden; size++) {
    if (hidden % size === 0 && Math.abs(hidden / size - 128) < Math.abs(hidden / best - 128))
      best = size;
  }
  return best;
}
