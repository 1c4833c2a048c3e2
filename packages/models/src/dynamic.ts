import { D2DMoEError } from '@d2dmoe/core';
import {
  dynamicKExperts,
  type ExpertStorage,
  packExperts,
  type PackedExperts,
  type PackedRouter,
  packRouter,
  predictNorms,
  type RouterWeights,
  routedExperts,
  selectExperts,
  type SelectionRule,
} from '@d2dmoe/kernels';
import * as tf from '@tensorflow/tfjs-core';
import { type DynamicConfig, dynamicConfig } from './dynamic-config.js';
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
  /**
   * Share of (token, expert) pairs that a site is expected to execute, in [0, 1]: a hint by which a backend may choose
   * among its kernels. The result does not depend on it.
   */
  expectedDensity?: (site: Site) => number | undefined;
  /** How experts are stored that {@link packModel} has not packed before; float32 by default. */
  storage?: ExpertStorage;
}

/** A `substitute` for ForwardOptions; `dispose` frees what it has packed itself. */
export interface DynamicSubstitute {
  /** The site's output [N, dOut] by its selected experts; undefined where it has no router and stays dense. */
  (site: Site, x: tf.Tensor2D): tf.Tensor2D | undefined;
  /** Frees what this substitute has packed, not what {@link packModel} has. */
  dispose(): void;
}

/**
 * Makes a converted model ready to run, and only that: every FFN that has a router is packed for the current backend,
 * and its dense weights are freed before the next is packed, so that the model takes no more memory than the dense one.
 *
 * @param options.storage How the experts are stored, float32 by default.
 * @throws D2DMoEError `ROUTER_MISSING` if the model is dense, and what packExperts throws
 */
export function packModel(
  model: Model,
  { storage = 'float32' }: { storage?: ExpertStorage } = {},
): void {
  const { sites } = routed(model);
  for (const [name, { expert_size }] of Object.entries(sites)) {
    if (!model.routers.has(name) || model.experts.has(name)) continue;
    const site = model.site(name);
    model.experts.set(name, pack(model, site, expert_size, storage));
    model.releaseWeights(site);
  }
}

/**
 * Runs a converted model's FFNs by their selected experts (Szatkowski et al. 2024, section 3.4): router, selection,
 * expert op. Sites without a router stay dense. What {@link packModel} has not packed is packed at a site's first use
 * and kept beside the dense weights, so make a new one after those have changed.
 *
 * @throws D2DMoEError `ROUTER_MISSING` if the model is dense
 */
export function dynamicSubstitute(model: Model, options: DynamicOptions): DynamicSubstitute {
  const dynamic = routed(model);
  const { rule, onSelection, expectedDensity, storage = 'float32' } = options;
  const own = new Map<string, PackedExperts>();
  const routers = new Map<string, PackedRouter>();

  const expertsOf = (site: Site, expertSize: number): PackedExperts => {
    let experts = model.experts.get(site.name) ?? own.get(site.name);
    if (experts === undefined) {
      experts = pack(model, site, expertSize, storage);
      own.set(site.name, experts);
    }
    return experts;
  };

  const routerOf = (site: Site, weights: RouterWeights, experts: PackedExperts): PackedRouter => {
    let router = routers.get(site.name);
    if (router === undefined) {
      router = packRouter(weights, experts);
      routers.set(site.name, router);
    }
    return router;
  };

  const substitute = (site: Site, x: tf.Tensor2D): tf.Tensor2D | undefined => {
    const router = model.routers.get(site.name);
    const entry = dynamic.sites[site.name];
    if (router === undefined || entry === undefined) return undefined;
    const experts = expertsOf(site, entry.expert_size);
    const density = expectedDensity?.(site);
    const expected = density === undefined ? {} : { expectedDensity: density };
    const siteRule = typeof rule === 'function' ? rule(site) : rule;
    if (onSelection === undefined) {
      // In one launch, where the backend has that.
      return routedExperts(x, routerOf(site, router, experts), siteRule, experts, expected);
    }
    const norms = predictNorms(x, router);
    const selection = selectExperts(norms, siteRule);
    onSelection(site, selection, norms);
    return dynamicKExperts(x, selection, experts, expected);
  };
  const dispose = () => {
    for (const packed of [...own.values(), ...routers.values()]) packed.dispose();
    own.clear();
    routers.clear();
  };
  return Object.assign(substitute, { dispose });
}

function routed(model: Model): DynamicConfig {
  const dynamic = dynamicConfig(model);
  if (dynamic === undefined || model.routers.size === 0) {
    throw new D2DMoEError(
      'ROUTER_MISSING',
      'The model has no routers: convert it first, or run it without a substitute.',
    );
  }
  return dynamic;
}

function pack(model: Model, site: Site, expertSize: number, storage: ExpertStorage): PackedExperts {
  let experts: PackedExperts | undefined;
  // Frees the transposes that model.weights makes.
  tf.tidy(() => {
    experts = packExperts(model.weights(site), expertSize, { storage });
  });
  return experts as unknown as PackedExperts;
}
