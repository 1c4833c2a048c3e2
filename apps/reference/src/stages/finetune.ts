import { Random } from '@d2dmoe/core';
import { Adam, contributionNorms, maskExperts, predictNorms, selectExperts } from '@d2dmoe/kernels';
import type { ForwardOptions, Model } from '@d2dmoe/models';
import { loadModel, saveModel } from '@d2dmoe/models/node';
import { type RouterSample, RouterTrainer, type TrainableRouter } from '@d2dmoe/routing';
import { regularizers } from '@d2dmoe/sparsity';
import * as tf from '@tensorflow/tfjs-core';
import type { Batches } from '../batches/batches.js';
import { deviceKey } from '../device.js';
import { learningRateAt } from './learning-rate.js';
import { runSteps } from './run-steps.js';
import { projectionsOf, routedSites, type SplitSite } from './sites.js';
import {
  hashCheckpoint,
  requireOwnOutput,
  runStage,
  type StageOptions,
  type StageRecord,
} from './stage.js';
import { restoreTraining, trainStep } from './train-step.js';

/** Settings of {@link finetune}. */
export interface FinetuneSettings {
  steps: number;
  batchSize: number;
  /** Peak learning rate of the model: linear warm-up over a twentieth of the steps, then a cosine to a tenth. */
  learningRate: number;
  /** Peak learning rate of the routers. */
  routerLearningRate: number;
  /** Weight of the sparsity term, square Hoyer; constant, as it was at the end of the sparsify stage. */
  alpha: number;
  /** The highest threshold that is trained for. */
  tau: number;
  /** Share of the loss that is the distance of the predictions to the dense model's, in [0, 1]. */
  distill: number;
  /** Whether images are cropped and flipped at random, and mixed where `distill` is 1. */
  augment: boolean;
}

/**
 * Trains a converted model as it will run, through the experts that its routers select, so that it makes up for what the
 * others would have added. Thresholds are drawn for every step and layer, uniformly from 0 to `tau`: one model serves all
 * of them. A selection is a constant to the gradient. Meanwhile the routers go on learning the norms of all experts'
 * outputs, which change.
 *
 * @param dense folder of the dense checkpoint, the teacher
 */
export async function finetune(
  options: StageOptions,
  dense: string,
  data: { batches: Batches; hash: string },
  settings: FinetuneSettings,
): Promise<StageRecord> {
  await requireOwnOutput(options.input, options.output);
  const sites = await routedSites(options.input);
  const inputs = {
    checkpoint: await hashCheckpoint(options.input),
    dense: await hashCheckpoint(dense),
    data: data.hash,
  };
  return runStage(
    'finetune',
    options,
    inputs,
    { ...settings, device: deviceKey() },
    async (resume) => {
      const { steps, learningRate, routerLearningRate, alpha, distill } = settings;
      const model = await loadModel(options.input);
      const teacher = distill > 0 ? await loadModel(dense) : undefined;
      const adam = new Adam(model.params);
      const routers = trainableRouters(model);
      const trainer = new RouterTrainer({ routers, learningRate: routerLearningRate, steps });
      const draws = new Random(options.seed).fork('finetune');
      try {
        if (resume.steps > 0) {
          const state = resume.takeTensors();
          trainer.restore(resume.steps, state);
          for (const name of trainer.state().keys()) state.get(name)?.dispose();
          restoreTraining(model, adam, resume.steps, state);
        }
        const metrics = await runSteps(
          'finetune',
          steps,
          resume,
          options,
          () => new Map([...model.params, ...adam.state(), ...trainer.state()]),
          async (step) => {
            const batch = await data.batches.train(step);
            const rate = learningRateAt(step, steps, learningRate);
            const random = draws.fork(step);
            const taus = sites.map(
              ({ site }) => [site.name, settings.tau * random.uniform()] as const,
            );
            const samples = new Map<string, RouterSample>();
            const figures = await trainStep(model, adam, batch, rate, {
              sparsity: { ...regularizers.squareHoyer, alpha },
              ...(teacher && { distillation: { teacher, weight: distill } }),
              edit: selecting(model, sites, new Map(taus), batch.rows, samples),
            });
            const router = trainer.step(samples);
            for (const { input, target } of samples.values()) tf.dispose([input, target]);
            return { ...figures, router };
          },
        );
        model.config['d2dmoe'] = {
          format_version: 1,
          tau: 0,
          ...projectionsOf(model),
          sites: Object.fromEntries(sites.map(({ site, entry }) => [site.name, entry])),
        };
        await saveModel(model, options.output, { copyFrom: options.input });
        return metrics;
      } finally {
        trainer.dispose();
        adam.dispose();
        teacher?.dispose();
        model.dispose();
      }
    },
  );
}

/** A model's routers, which are variables where it was loaded from a checkpoint. */
function trainableRouters(model: Model): Map<string, TrainableRouter> {
  const variable = (tensor: tf.Tensor2D) => tensor as tf.Variable<tf.Rank.R2>;
  return new Map(
    Array.from(model.routers, ([name, { hidden, output }]) => [
      name,
      { hidden: variable(hidden), output: variable(output) },
    ]),
  );
}

/** Sets the activations of experts to 0 that are not selected, and records what the routers are trained on. */
function selecting(
  model: Model,
  sites: readonly SplitSite[],
  taus: ReadonlyMap<string, number>,
  rows: Int32Array | undefined,
  samples: Map<string, RouterSample>,
): NonNullable<ForwardOptions['edit']> {
  const sizes = new Map(sites.map(({ site, entry }) => [site.name, entry.expert_size]));
  return (site, x, hidden) => {
    const expertSize = sizes.get(site.name);
    const router = model.routers.get(site.name);
    if (expertSize === undefined || router === undefined) return undefined;
    // Neither these samples nor the selection have a path of gradients to the loss.
    tf.tidy(() => {
      const index = rows && tf.tensor1d(rows, 'int32');
      const tokens = (all: tf.Tensor2D) => (index ? tf.gather(all, index) : tf.clone(all));
      const { down } = model.weights(site);
      samples.set(site.name, {
        input: tf.keep(tokens(x)),
        target: tf.keep(contributionNorms(tokens(hidden), down, expertSize)),
      });
    });
    const value = taus.get(site.name) as number;
    return maskExperts(
      hidden,
      selectExperts(predictNorms(x, router), { rule: 'threshold', value }),
    );
  };
}
