import { contributionNorms, expertGrams, hiddenActivations } from '@d2dmoe/kernels';
import type { Model } from '@d2dmoe/models';
import * as tf from '@tensorflow/tfjs-core';
import type { BaselineCurve } from './baseline.js';
import {
  disposeExperts,
  type ExpertSite,
  expertSites,
  type RoutedSite,
  selectedExperts,
} from './expert-sites.js';
import type { ConvertedBaselineOptions } from './fixed-rules.js';
import { measureSites, type PartialSite } from './measure-sites.js';
import { sweepValues } from './sweep-values.js';

/** The thresholds of the curve; norms that are known exactly allow higher ones than predicted norms. */
const thresholds = [0, 0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.6, 0.8];

/**
 * Dynamic-k selection by the true norms of the experts' outputs in place of predicted ones: what a router that makes
 * no error would reach with these experts. Among all ways to run as many experts for a token, this one keeps the
 * greatest sum of norms. The norms are computed densely, but what is counted is our routers' cost: the curve bounds
 * routers of that size, and at equal experts executed it costs what ours costs.
 *
 * @param options.values Thresholds τ.
 * @throws D2DMoEError `EVALUATION_NOT_CONVERTED` where no site has a router; `EVALUATION_EMPTY` and
 * `EVALUATION_LABELS` as `evaluateDense`.
 */
export async function oracleBaseline(options: ConvertedBaselineOptions): Promise<BaselineCurve> {
  const { model, batches, values = thresholds, onProgress, signal } = options;
  const sites = expertSites(model);
  const grams = sites.map((site) => siteGrams(model, site));
  try {
    const points = await sweepValues('oracle', values, onProgress, (tau, onBatch) => {
      const oracles = sites.map((site, i) => oracleSite(model, site, tau, grams[i] as tf.Tensor3D));
      return measureSites(model, batches(), oracles, { onBatch, signal });
    });
    return {
      name: 'oracle',
      label: 'Oracle',
      description:
        'Dynamic-k by the true norms of the experts’ outputs, at the cost of our routers: the bound for any router.',
      knob: 'τ',
      points,
      settings: {},
    };
  } finally {
    tf.dispose(grams);
    disposeExperts(sites);
  }
}

/** What {@link oracleSite} computes norms from; the caller disposes it. */
export function siteGrams(model: Model, { site, expertSize }: RoutedSite): tf.Tensor3D {
  return tf.tidy(() => expertGrams(model.weights(site).down, expertSize));
}

/** A site whose experts are selected by their true norms. */
export function oracleSite(
  model: Model,
  expertSite: ExpertSite,
  tau: number,
  grams: tf.Tensor3D,
): PartialSite {
  const { site, expertSize } = expertSite;
  return selectedExperts(expertSite, { rule: 'threshold', value: tau }, (x) =>
    tf.tidy(() => {
      const weights = model.weights(site);
      return contributionNorms(hiddenActivations(x, weights), weights.down, expertSize, grams);
    }),
  );
}
