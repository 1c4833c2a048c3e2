import type { BudgetTarget } from '@d2dmoe/evaluation';
import type { ModelShape, ModelType } from '@d2dmoe/models';
import type { AttentionSettings } from './stages/attention.js';
import type { FinetuneSettings } from './stages/finetune.js';
import type { RouteSettings } from './stages/route.js';
import type { SparsifySettings } from './stages/sparsify.js';
import type { SplitSettings } from './stages/split.js';

/** Settings of the stages of a conversion. */
export interface ConvertSettings {
  sparsify: SparsifySettings;
  /** No stage where `projections` is empty; experts are as large as those of FFNs. */
  attention: Omit<AttentionSettings, 'expertSize'>;
  split: SplitSettings;
  route: RouteSettings;
  finetune: FinetuneSettings;
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
  vit: { alpha: 1e-2, steps: 400, batchSize: 64, learningRate: 3e-4 },
  bert: { alpha: 1e-3, steps: 600, batchSize: 64, learningRate: 1e-4 },
  gpt2: { alpha: 1e-3, steps: 140, batchSize: 8, learningRate: 5e-5 },
  gemma: { alpha: 4e-3, steps: 140, batchSize: 8, learningRate: 5e-5 },
};

/** The dense model's predictions say more than labels do, in each of the four. */
const distill = 1;

/**
 * The highest threshold of fine-tuning through the selected experts: one that leaves a tenth to a sixth of them. The same
 * would leave a ViT 2 %, and training for so few costs it the score that it has with more.
 */
const finetuneTau: Record<ModelType, number> = { vit: 0.05, bert: 0.3, gpt2: 0.3, gemma: 0.3 };

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
  const { batchSize, steps, learningRate, alpha } = byType[type];
  return {
    sparsify: {
      regularizer: 'squareHoyer',
      schedule: 'linearWarmup',
      distill,
      augment: true,
      ...byType[type],
    },
    attention: {
      projections: '',
      steps,
      batchSize,
      learningRate: 3e-4,
      // Replacements start with every neuron at work, and few that matter: the term would only undo that.
      alpha: 0,
      schedule: 'linearWarmup',
    },
    split: { expertSize: defaultExpertSize(shape.hidden), by: 'coActivation' },
    route: {
      width: defaultRouterWidth(shape),
      steps,
      batchSize,
      learningRate: 3e-3,
      augment: true,
    },
    finetune: {
      steps: finetuneSteps(steps),
      batchSize,
      learningRate,
      routerLearningRate: 1e-3,
      alpha,
      tau: finetuneTau[type],
      distill,
      augment: true,
    },
    taus: defaultTaus,
    budgets: defaultBudgets,
    perLayer: true,
  };
}

/** Fine-tuning through the selected experts gets a third of the steps in which the model itself is trained. */
export function finetuneSteps(sparsifySteps: number): number {
  return Math.round(sparsifySteps / 2);
}

/** A router runs for every token: at about this share of its FFN's multiply-adds it costs less than it saves. */
const routerShare = 0.015;

/** The hidden width at which a router over the default number of experts has its share of the cost, at least 8. */
function defaultRouterWidth({ dModel, hidden, gated }: ModelShape): number {
  const feedForward = (gated ? 3 : 2) * dModel * hidden;
  const experts = hidden / defaultExpertSize(hidden);
  return Math.max(8, Math.round((routerShare * feedForward) / (dModel + experts)));
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
