import { hiddenActivations, linear } from '@d2dmoe/kernels';
import type { Model, Site } from '@d2dmoe/models';
import type { BaselineCurve } from './baseline.js';
import {
  exceeding,
  magnitudeCurve,
  type MagnitudeBaselineOptions,
  type Thresholds,
} from './magnitudes.js';
import type { PartialSite } from './measure-sites.js';

/**
 * Input sparsity as in TEAL (Liu et al. 2025, arXiv 2408.14690): what an FFN's matrices are multiplied with is set to
 * 0 where it is at most a threshold in magnitude, and a matrix's columns for those inputs are skipped for the token.
 * Each matrix product's threshold is the quantile of its inputs on calibration data at the target sparsity, the same
 * for all: TEAL's search for a sparsity of each matrix is left out, as are the attention projections.
 *
 * @param options.values Target sparsities.
 * @throws D2DMoEError `EVALUATION_SPARSITY` for one outside [0, 1]; `EVALUATION_EMPTY` and `EVALUATION_LABELS` as
 * `evaluateDense`.
 */
export async function tealBaseline(
  options: MagnitudeBaselineOptions,
  name: 'teal' | 'tealDense' = 'teal',
): Promise<BaselineCurve> {
  const { model } = options;
  const curve = await magnitudeCurve(
    name,
    options,
    (site, { input, hidden }) => ({ [inputOf(site)]: input, [hiddenOf(site)]: hidden }),
    (site, thresholds) => tealSite(model, site, thresholds),
  );
  return {
    ...curve,
    label: name === 'teal' ? 'TEAL' : 'TEAL, original model',
    description: `Inputs of the FFNs’ matrices below a threshold are skipped (Liu et al. 2025), on the ${name === 'teal' ? 'sparsified' : 'original dense'} model.`,
  };
}

const inputOf = ({ name }: Site) => `${name}.input`;
const hiddenOf = ({ name }: Site) => `${name}.hidden`;

function tealSite(model: Model, site: Site, thresholds: Thresholds): PartialSite {
  const { dIn, dOut, hidden, gated } = site;
  const inputs = { name: inputOf(site), count: dIn, cost: (gated ? 2 : 1) * hidden };
  const neurons = { name: hiddenOf(site), count: hidden, cost: dOut };
  return {
    site,
    fixed: 0,
    units: [inputs, neurons],
    run: (x, observe) => {
      const weights = model.weights(site);
      const input = exceeding(x, thresholds[inputs.name] as number);
      observe(inputs, input.kept);
      const activations = hiddenActivations(input.thinned, weights);
      const product = exceeding(activations, thresholds[neurons.name] as number);
      observe(neurons, product.kept);
      return linear(product.thinned, weights.down, weights.downBias, { transposed: true });
    },
  };
}
