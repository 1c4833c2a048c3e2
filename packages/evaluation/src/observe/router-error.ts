import { D2DMoEError } from '@d2dmoe/core';
import {
  contributionNorms,
  expertGrams,
  predictNorms,
  type RouterWeights,
  selectExperts,
  type SelectionRule,
} from '@d2dmoe/kernels';
import { type DynamicSite, dynamicConfig, type Model, type Site } from '@d2dmoe/models';
import * as tf from '@tensorflow/tfjs-core';
import type { EvaluationBatches } from '../run-batches.js';
import { executedPerRow } from './executed-by-token.js';
import { type ObserveOptions, observeBatches } from './observe-batches.js';

/** How well one site's router knows its experts' contributions. */
export interface RouterError {
  /** The site's name. */
  site: string;
  /** Root of the squared errors of the predicted norms over that of the squared true norms; 0 is perfect. */
  relativeError: number;
  /** Share of the sum of true norms that the selected experts hold. */
  captured: number;
  /** The share that as many experts per token hold where they are chosen by their true norms: the bound. */
  attainable: number;
}

/**
 * Holds each router's predictions against the experts' true contribution norms (Szatkowski et al. 2024, section 3.3),
 * on the inputs that the layers see while the model runs dense, as the routers were trained.
 *
 * @param rule The selection whose captured share is measured.
 * @returns One per converted site, in the order of execution.
 * @throws D2DMoEError `ROUTER_MISSING` where the model is dense; `EVALUATION_EMPTY` where there is no token.
 */
export async function routerError(
  model: Model,
  batches: EvaluationBatches,
  rule: SelectionRule | ((site: Site) => SelectionRule),
  options: ObserveOptions = {},
): Promise<RouterError[]> {
  const experts = expertsBySite(model);
  const sums = new Map(Array.from(experts.keys(), (site) => [site, [0, 0, 0, 0, 0]]));
  const order = [...experts.keys()];
  try {
    await observeBatches(
      model,
      batches,
      (batch, mask) => {
        const bySite = new Map<string, tf.Tensor1D>();
        model.forward(batch, {
          tap: (site, { input, hidden }) => {
            const own = experts.get(site.name);
            if (!own || !hidden) return;
            const router = model.routers.get(site.name) as RouterWeights;
            const predicted = predictNorms(input, router);
            const selection = selectExperts(
              predicted,
              typeof rule === 'function' ? rule(site) : rule,
            );
            const norms = contributionNorms(hidden, own.down, own.expertSize, own.grams);
            bySite.set(site.name, siteSums(predicted, norms, selection, mask));
          },
        });
        return order.map((site) => bySite.get(site) as tf.Tensor1D);
      },
      (values) => {
        for (const [i, site] of order.entries()) {
          const total = sums.get(site) as number[];
          for (const [j, value] of (values[i] as Float32Array).entries()) {
            total[j] = (total[j] as number) + value;
          }
        }
      },
      options,
    );
  } finally {
    for (const { down, grams } of experts.values()) tf.dispose([down, grams]);
  }
  return order.map((site) => {
    const [error, square, captured, attainable, total] = sums.get(site) as [
      number,
      number,
      number,
      number,
      number,
    ];
    if (total === 0) {
      throw new D2DMoEError('EVALUATION_EMPTY', 'The data hold no token to compare routers on.');
    }
    return {
      site,
      relativeError: Math.sqrt(error / square),
      captured: captured / total,
      attainable: attainable / total,
    };
  });
}

interface SiteExperts {
  expertSize: number;
  /** [hidden, dOut] */
  down: tf.Tensor2D;
  /** [n, e, e] */
  grams: tf.Tensor3D;
}

/** What the true norms of each converted site's experts are computed from. */
function expertsBySite(model: Model): Map<string, SiteExperts> {
  const dynamic = dynamicConfig(model);
  const routed = model.sites.filter(({ name }) => model.routers.has(name));
  if (dynamic === undefined || routed.length === 0) {
    throw new D2DMoEError(
      'ROUTER_MISSING',
      'The model has no routers: convert it before their error is measured.',
    );
  }
  return new Map(
    routed.map((site) => {
      const { expert_size: expertSize } = dynamic.sites[site.name] as DynamicSite;
      const { down, grams } = tf.tidy(() => {
        const weights = model.weights(site);
        return { down: tf.clone(weights.down), grams: expertGrams(weights.down, expertSize) };
      });
      return [site.name, { expertSize, down, grams }];
    }),
  );
}

/** [5]: squared errors, squared norms, norms captured, attainable and in all; over the real tokens' experts. */
function siteSums(
  predicted: tf.Tensor2D,
  norms: tf.Tensor2D,
  selection: tf.Tensor2D,
  mask: tf.Tensor1D,
): tf.Tensor1D {
  const [, experts] = norms.shape;
  const real = tf.reshape<tf.Rank.R2>(mask, [-1, 1]);
  const sum = (values: tf.Tensor2D) => tf.reshape<tf.Rank.R1>(tf.sum(tf.mul(values, real)), [1]);
  // Of the norms in falling order, the first k are the most that k experts can hold.
  const sorted = tf.topk(norms, experts).values;
  const places = tf.reshape(tf.range(0, experts), [1, experts]);
  const first = tf.less(places, tf.reshape(executedPerRow(selection), [-1, 1]));
  return tf.concat1d([
    sum(tf.square(tf.sub(predicted, norms))),
    sum(tf.square(norms)),
    sum(tf.mul(norms, tf.cast(selection, 'float32'))),
    sum(tf.mul(sorted, tf.cast(first, 'float32'))),
    sum(norms),
  ]);
}
