import { Random } from '@d2dmoe/core';
import { contributionNorms } from '@d2dmoe/kernels';
import type { Model, Site } from '@d2dmoe/models';
import { loadModel, saveModel } from '@d2dmoe/models/node';
import {
  createRouter,
  RouterTrainer,
  type RouterSample,
  type TrainableRouter,
} from '@d2dmoe/routing';
import * as tf from '@tensorflow/tfjs-core';
import type { Batches, LabelledBatch } from '../batches/batches.js';
import { deviceKey } from '../device.js';
import { routerWidth } from './router-width.js';
import { runSteps } from './run-steps.js';
import { projectionsOf, splitSites } from './sites.js';
import {
  hashCheckpoint,
  requireOwnOutput,
  runStage,
  type StageOptions,
  type StageRecord,
} from './stage.js';

/** Settings of {@link route}. */
export interface RouteSettings {
  /** Hidden width of an FFN's router; a projection's is narrower, see {@link routerWidth}. */
  width: number;
  steps: number;
  batchSize: number;
  learningRate: number;
  /** Whether images are cropped and flipped at random. */
  augment: boolean;
}

/**
 * Trains a router for every split FFN and replaced projection (method section 4): the model runs densely, and each router learns to predict
 * the norm of every expert's output from the layer's own input.
 */
export async function route(
  options: StageOptions,
  data: { batches: Batches; hash: string },
  settings: RouteSettings,
): Promise<StageRecord> {
  await requireOwnOutput(options.input, options.output);
  const sites = await splitSites(options.input);
  const inputs = { checkpoint: await hashCheckpoint(options.input), data: data.hash };
  return runStage(
    'route',
    options,
    inputs,
    { ...settings, device: deviceKey() },
    async (resume) => {
      const model = await loadModel(options.input);
      const random = new Random(options.seed).fork('routers');
      const routers = new Map<string, TrainableRouter>();
      const experts = new Map<string, Experts>();
      const ffn = model.site('layers.0.ffn');
      const widthOf = (site: Site) => routerWidth(site, ffn, settings.width);
      for (const { site, entry } of sites) {
        const { dIn, hidden, name } = site;
        const count = hidden / entry.expert_size;
        routers.set(
          name,
          createRouter({ dIn, width: widthOf(site), experts: count, random: random.fork(name) }),
        );
        experts.set(name, { down: keepDown(model, site), expertSize: entry.expert_size });
      }
      const { steps, learningRate } = settings;
      const trainer = new RouterTrainer({ routers, learningRate, steps });
      try {
        if (resume.steps > 0) {
          const state = resume.takeTensors();
          trainer.restore(resume.steps, state);
          tf.dispose([...state.values()]);
        }
        const metrics = await runSteps(
          'route',
          steps,
          resume,
          options,
          () => trainer.state(),
          async (step) => {
            const batch = await data.batches.train(step);
            const samples = record(model, batch, experts);
            tf.dispose(batch.batch as unknown as tf.TensorContainer);
            const loss = trainer.step(samples);
            for (const { input, target } of samples.values()) tf.dispose([input, target]);
            return { loss };
          },
        );
        for (const [name, router] of routers) model.routers.set(name, router);
        model.config['d2dmoe'] = {
          format_version: 1,
          tau: 0,
          ...projectionsOf(model),
          sites: Object.fromEntries(
            sites.map(({ site, entry }) => [
              site.name,
              { expert_size: entry.expert_size, router_width: widthOf(site) },
            ]),
          ),
        };
        await saveModel(model, options.output, { copyFrom: options.input });
        return metrics;
      } finally {
        for (const { down } of experts.values()) down.dispose();
        trainer.dispose();
        model.dispose();
      }
    },
  );
}

/** What the norms of a layer's experts are computed from. */
interface Experts {
  /** [hidden, dOut] */
  down: tf.Tensor2D;
  /** Neurons per expert. */
  expertSize: number;
}

/** A copy of a site's down projection, neuron-major. */
function keepDown(model: Model, site: Site): tf.Tensor2D {
  return tf.tidy(() => tf.keep(tf.clone(model.weights(site).down)));
}

/** Runs the model densely and returns each site's inputs and its experts' output norms, padding left out. */
function record(
  model: Model,
  { batch, rows }: LabelledBatch,
  experts: ReadonlyMap<string, Experts>,
): Map<string, RouterSample> {
  const samples = new Map<string, RouterSample>();
  tf.tidy(() => {
    const index = rows && tf.tensor1d(rows, 'int32');
    const tokens = (x: tf.Tensor2D) => (index ? tf.gather(x, index) : tf.clone(x));
    model.forward(batch, {
      tap: ({ name }, { input, hidden }) => {
        const layer = experts.get(name);
        if (layer === undefined || hidden === undefined) return;
        samples.set(name, {
          input: tf.keep(tokens(input)),
          target: tf.keep(contributionNorms(tokens(hidden), layer.down, layer.expertSize)),
        });
      },
    });
  });
  return samples;
}
