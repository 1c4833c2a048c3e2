import { activate, linear } from '@d2dmoe/kernels';
import type { Model, Site } from '@d2dmoe/models';
import * as tf from '@tensorflow/tfjs-core';
import type { BaselineCurve } from './baseline.js';
import { exceeding, magnitudeCurve, type MagnitudeBaselineOptions } from './magnitudes.js';
import type { PartialSite } from './measure-sites.js';

/**
 * Contextual thresholding as in CATS (Lee et al. 2024, arXiv 2404.08763), without its fine-tuning: of each FFN the
 * neurons whose activation is at most the layer's threshold in magnitude are skipped for the token. The threshold is
 * the quantile of the layer's activations on calibration data at the target sparsity.
 *
 * What decides has to be computed in full: the gate of a GLU, of which the up and down projections of active neurons
 * remain; the up projection of a plain FFN, of which the down projection remains, so at least half of it always runs.
 *
 * @param options.values Target sparsities.
 * @throws D2DMoEError `EVALUATION_SPARSITY` for one outside [0, 1]; `EVALUATION_EMPTY` and `EVALUATION_LABELS` as
 * `evaluateDense`.
 */
export async function catsBaseline(
  options: MagnitudeBaselineOptions,
  name: 'cats' | 'catsDense' = 'cats',
): Promise<BaselineCurve> {
  const { model } = options;
  const curve = await magnitudeCurve(
    name,
    options,
    (site, { activation }) => ({ [site.name]: activation }),
    (site, thresholds) => catsSite(model, site, thresholds[site.name] as number),
  );
  return {
    ...curve,
    label: name === 'cats' ? 'CATS' : 'CATS, original model',
    description: `Neurons whose activation falls below a threshold of their layer are skipped (Lee et al. 2024), on the ${name === 'cats' ? 'sparsified' : 'original dense'} model.`,
  };
}

function catsSite(model: Model, site: Site, threshold: number): PartialSite {
  const { name, dIn, dOut, hidden, gated } = site;
  const units = { name, count: hidden, cost: (gated ? dIn : 0) + dOut };
  return {
    site,
    fixed: hidden * dIn,
    units: [units],
    run: (x, observe) => {
      const { up, upBias, gate, gateBias, down, downBias, activation } = model.weights(site);
      const preActivation = gate ? linear(x, gate, gateBias) : linear(x, up, upBias);
      const { kept, thinned } = exceeding(activate(preActivation, activation), threshold);
      observe(units, kept);
      const product = gate ? tf.mul<tf.Tensor2D>(thinned, linear(x, up, upBias)) : thinned;
      return linear(product, down, downBias, { transposed: true });
    },
  };
}
