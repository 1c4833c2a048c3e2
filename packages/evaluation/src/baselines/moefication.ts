import {
  createRouter,
  moeficationGradients,
  moeficationScores,
  moeficationTargets,
  type RouterSample,
  RouterTrainer,
  type TrainableRouter,
} from '@d2dmoe/routing';
import * as tf from '@tensorflow/tfjs-core';
import { type BaselineCurve, selectedShares } from './baseline.js';
import { disposeExperts, expertSites, routedSites, selectedExperts } from './expert-sites.js';
import { type ConvertedBaselineOptions, shareOfExperts } from './fixed-rules.js';
import { measureSites } from './measure-sites.js';
import { sweepValues } from './sweep-values.js';
import { realRows, type TrainingOptions, trainSteps } from './training.js';

/**
 * Trains MoEfication's routers (Zhang et al. 2022) for the experts of a converted model, which runs densely: tanh
 * networks of our routers' widths, cross-entropy to each expert's summed positive activations over the batch's
 * maximum. For a GLU the activations are the gate's.
 *
 * @returns The routers by site name; the caller disposes them.
 * @throws D2DMoEError `EVALUATION_NOT_CONVERTED` where the model has no routers whose experts could be learnt.
 */
export async function trainMoeficationRouters(
  options: TrainingOptions,
): Promise<Map<string, TrainableRouter>> {
  const { model, steps, learningRate, random } = options;
  const sites = routedSites(model);
  const expertSizes = new Map(sites.map(({ site, expertSize }) => [site.name, expertSize]));
  const routers = new Map(
    sites.map(({ site: { name, dIn }, count, routerWidth: width }) => [
      name,
      createRouter({ dIn, width, experts: count, random: random.fork(name) }),
    ]),
  );
  const trainer = new RouterTrainer({
    routers,
    steps,
    objective: moeficationGradients,
    ...(learningRate !== undefined && { learningRate }),
  });
  try {
    await trainSteps('moefication routers', options, async (data) => {
      const rows = await realRows(model, data);
      let loss = 0;
      tf.tidy(() => {
        const index = tf.tensor1d(rows, 'int32');
        const samples = new Map<string, RouterSample>();
        model.forward(data.batch, {
          tap: ({ name }, { input, activation }) => {
            const expertSize = expertSizes.get(name);
            if (expertSize === undefined || activation === undefined) return;
            const target = moeficationTargets(tf.gather(activation, index), expertSize);
            samples.set(name, { input: tf.gather(input, index), target });
          },
        });
        loss = trainer.step(samples);
      });
      return loss;
    });
  } catch (error) {
    disposeRouters(routers);
    throw error;
  } finally {
    trainer.dispose();
  }
  return routers;
}

/**
 * MoEfication (Zhang et al. 2022) on the same experts: its own routers, and the same k for every token.
 *
 * @param options.values Shares of a layer's experts; k is the share of n, rounded, at least 1.
 * @throws D2DMoEError as {@link trainMoeficationRouters}; `EVALUATION_EMPTY` and `EVALUATION_LABELS` as
 * `evaluateDense`.
 */
export async function moeficationBaseline(
  options: ConvertedBaselineOptions & TrainingOptions,
): Promise<BaselineCurve> {
  const { model, batches, values = selectedShares, onProgress, signal } = options;
  const routers = await trainMoeficationRouters(options);
  const sites = expertSites(model);
  try {
    const points = await sweepValues('moefication', values, onProgress, (share, onBatch) => {
      const selected = sites.map((site) => {
        const router = routers.get(site.site.name) as TrainableRouter;
        const rule = shareOfExperts(share, site.count);
        // The logits' order, but at least 0.
        return selectedExperts(site, rule, (x) => tf.sigmoid(moeficationScores(x, router)));
      });
      return measureSites(model, batches(), selected, { onBatch, signal });
    });
    return {
      name: 'moefication',
      label: 'MoEfication',
      description:
        'MoEfication’s routers (Zhang et al. 2022), trained on the same experts for as many steps; the same number of experts for every token.',
      knob: 'share of experts, k/n',
      points,
      settings: { steps: options.steps, learningRate: options.learningRate ?? 1e-3 },
    };
  } finally {
    disposeRouters(routers);
    disposeExperts(sites);
  }
}

function disposeRouters(routers: ReadonlyMap<string, TrainableRouter>): void {
  for (const { hidden, output } of routers.values()) tf.dispose([hidden, output]);
}
