import { D2DMoEError } from '@d2dmoe/core';
import {
  dynamicKExperts,
  packExperts,
  type PackedExperts,
  predictNorms,
  selectExperts,
  type SelectionRule,
} from '@d2dmoe/kernels';
import * as tf from '@tensorflow/tfjs-core';
import { dynamicConfig } from './dynamic-config.js';
import type { Model } from './model.js';
import type { Site } from './site.js';

/** Options of {@link dynamicSubstitute}. */
export interface DynamicOptions {
  /** How experts are chosen: one rule, or one for each site. */
  rule: SelectionRule | ((site: Site) => SelectionRule);
  /**
   * Sees each converted site's selection, bool [N, n] in the backend's form, and the predicted norms [N, n] that it
   * was made from.
   */
  onSelection?: (site: Site, selection: tf.Tensor2D, predictedNorms: tf.Tensor2D) => void;
}

/** A `substitute` for ForwardOptions; `dispose` frees the packed experts that it keeps. */
export interface DynamicSubstitute {
  (site: Site, x: tf.Tensor2D): tf.Tensor2D | undefined;
  dispose(): void;
}

/**
 * Runs a converted model's FFNs by their selected experts (Szatkowski et al. 2024, section 3.4): router, selection,
 * expert op. Sites without a router stay dense. The experts are packed at a site's first use and kept, so make a new
 * one after the model's weights have changed.
 *
 * @throws D2DMoEError `ROUTER_MISSING` if the model is dense
 */
export function dynamicSubstitute(model: Model, options: DynamicOptions): DynamicSubstitute {
  const dynamic = dynamicConfig(model);
  if (dynamic === undefined || model.routers.size === 0) {
    throw new D2DMoEError(
      'ROUTER_MISSING',
      'The model has no routers: convert it first, or run it without a substitute.',
    );
  }
  const { rule, onSelection } = options;
  const packed = new Map<string, PackedExperts>();
  const kept: tf.Tensor[] = [];

  const expertsOf = (site: Site, expertSize: number): PackedExperts => {
    let experts = packed.get(site.name);
    if (experts === undefined) {
      const weights = model.weights(site);
      for (const tensor of Object.values(weights)) {
        // The model's own variables are shared; the transposes are ours.
        if (tensor instanceof tf.Tensor && !(tensor instanceof tf.Variable)) {
          kept.push(tf.keep(tensor));
        }
      }
      experts = packExperts(weights, expertSize);
      packed.set(site.name, experts);
    }
    return experts;
  };

  const substitute = (site: Site, x: tf.Tensor2D): tf.Tensor2D | undefined => {
    const router = model.routers.get(site.name);
    const entry = dynamic.sites[site.name];
    if (router === undefined || entry === undefined) return undefined;
    const norms = predictNorms(x, router);
    const selection = selectExperts(norms, typeof rule === 'function' ? rule(site) : rule);
    onSelection?.(site, selection, norms);
    return dynamicKExperts(x, selection, expertsOf(site, entry.expert_size));
  };
  const dispose = () => {
    tf.dispose(kept);
    kept.length = 0;
    packed.clear();
  };
  return Object.assign(substitute, { dispose });
}
