import { D2DMoEError, Random } from '@d2dmoe/core';
import { contributionNorms, type PackedExperts, packExperts } from '@d2dmoe/kernels';
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
import { runSteps } from './run-steps.js';
import { hashCheckpoint, runStage, type StageOptions, type StageRecord } from './stage.js';

/** Settings of {@link route}. */
export interface RouteSettings {
  /** Hidden width of each router. */
  width: number;
  steps: number;
  batchSize: number;
  learningRate: number;
}

/**
 * Trains a router for every split FFN (method section 4): the model runs densely, and each router learns to predict
 * the norm of every expert's output from the layer's own input.
 */
export async function route(
  options: StageOptions,
  data: { batches: Batches; hash: string },
  settings: RouteSettings,
): Promise<StageRecord> {
  const inputs = { checkpoint: await hashCheckpoint(options.input), data: data.hash };
  return runStage(
    'route',
    options,
    inputs,
    { ...settings, device: tf.getBackend() },
    async (resume) => {
      const model = await loadModel(options.input);
      const sites = convertedSites(model, options.input);
      const random = new Random(options.seed).fork('routers');
      const routers = new Map<string, TrainableRouter>();
      const experts = new Map<string, PackedExperts>();
      for (const { site, expertSize } of sites) {
        const { dIn, hidden, name } = site;
        const count = hidden / expertSize;
        routers.set(
          name,
          createRouter({ dIn, width: settings.width, experts: count, random: random.fork(name) }),
        );
        experts.set(name, keepAll(packExperts(model.weights(site), expertSize)));
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
          sites: Object.fromEntries(
            sites.map(({ site, expertSize }) => [
              site.name,
              { expert_size: expertSize, router_width: settings.width },
            ]),
          ),
        };
        await saveModel(model, options.output, { copyFrom: options.input });
        return metrics;
      } finally {
        trainer.dispose();
        model.dispose();
      }
    },
  );
}

/** The sites that the split stage has cut into experts. */
function convertedSites(model: Model, input: string): { site: Site; expertSize: number }[] {
  const converted = model.config['d2dmoe'] as
    | { sites: Record<string, { expert_size: number }> }
    | undefined;
  const sites = model.sites.flatMap((site) => {
    const entry = converted?.sites[site.name];
    return entry ? [{ site, expertSize: entry.expert_size }] : [];
  });
  if (sites.length > 0) return sites;
  throw new D2DMoEError(
    'NOT_SPLIT',
    `The checkpoint ${input} has no experts: run d2dmoe split on it before routers are trained.`,
  );
}

function keepAll(experts: PackedExperts): PackedExperts {
  for (const value of Object.values(experts)) if (value instanceof tf.Tensor) tf.keep(value);
  return experts;
}

/** Runs the model densely and returns each site's inputs and its experts' output norms, padding left out. */
function record(
  model: Model,
  { batch, rows }: LabelledBatch,
  experts: ReadonlyMap<string, PackedExperts>,
): Map<string, RouterSample> {
  const samples = new Map<string, RouterSample>();
  tf.tidy(() => {
    const index = rows && tf.tensor1d(rows, 'int32');
    const tokens = (x: tf.Tensor2D) => (index ? tf.gather(x, index) : tf.clone(x));
    model.forward(batch, {
      tap: ({ name }, { input, hidden }) => {
        const packed = experts.get(name);
        if (packed === undefined || hidden === undefined) return;
        samples.set(name, {
          input: tf.keep(tokens(input)),
          target: tf.keep(contributionNorms(tokens(hidden), packed)),
        });
      },
    });
  });
  return samples;
}
