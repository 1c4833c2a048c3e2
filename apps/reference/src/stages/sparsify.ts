import { Adam } from '@d2dmoe/kernels';
import { loadModel, saveModel } from '@d2dmoe/models/node';
import { type RegularizerName, regularizers, type ScheduleName, schedules } from '@d2dmoe/sparsity';
import type { Batches } from '../batches/batches.js';
import { deviceKey } from '../device.js';
import { learningRateAt } from './learning-rate.js';
import { runSteps } from './run-steps.js';
import {
  hashCheckpoint,
  requireOwnOutput,
  runStage,
  type StageOptions,
  type StageRecord,
} from './stage.js';
import { restoreTraining, trainStep } from './train-step.js';

/** Settings of {@link sparsify}. */
export interface SparsifySettings {
  regularizer: RegularizerName;
  /** Weight of the sparsity term. */
  alpha: number;
  schedule: ScheduleName;
  steps: number;
  batchSize: number;
  /** Peak learning rate of Adam: linear warm-up over a twentieth of the steps, then a cosine to a tenth. */
  learningRate: number;
  /** Share of the loss that is the distance of the predictions to the dense model's, in [0, 1]. */
  distill: number;
  /** Whether images are cropped and flipped at random, and mixed where `distill` is 1. */
  augment: boolean;
}

/**
 * Fine-tunes a dense checkpoint on its own task with a sparsity term on its FFN activations (method section 2). For a
 * term on activations the model's activation is first replaced by ReLU.
 */
export async function sparsify(
  options: StageOptions,
  data: { batches: Batches; hash: string },
  settings: SparsifySettings,
): Promise<StageRecord> {
  await requireOwnOutput(options.input, options.output);
  const inputs = { checkpoint: await hashCheckpoint(options.input), data: data.hash };
  return runStage(
    'sparsify',
    options,
    inputs,
    { ...settings, device: deviceKey() },
    async (resume) => {
      const model = await loadModel(options.input);
      const { on, term } = regularizers[settings.regularizer];
      if (on === 'activation') model.relufy();
      const adam = new Adam(model.params);
      const teacher = settings.distill > 0 ? await loadModel(options.input) : undefined;
      const distillation = teacher && { teacher, weight: settings.distill };
      try {
        restoreTraining(model, adam, resume.steps, resume.takeTensors());
        const alphaAt = schedules[settings.schedule](settings.alpha, settings.steps);
        const metrics = await runSteps(
          'sparsify',
          settings.steps,
          resume,
          options,
          () => new Map([...model.params, ...adam.state()]),
          async (step) => {
            const batch = await data.batches.train(step);
            const rate = learningRateAt(step, settings.steps, settings.learningRate);
            return trainStep(model, adam, batch, rate, {
              sparsity: { on, term, alpha: alphaAt(step) },
              ...(distillation && { distillation }),
            });
          },
        );
        await saveModel(model, options.output, { copyFrom: options.input });
        return metrics;
      } finally {
        adam.dispose();
        teacher?.dispose();
        model.dispose();
      }
    },
  );
}
