import { D2DMoEError } from '@d2dmoe/core';
import {
  dynamicKExperts,
  type PackedExperts,
  packExperts,
  selectExperts,
  type SelectionRule,
} from '@d2dmoe/kernels';
import type { Model, Site } from '@d2dmoe/models';
import * as tf from '@tensorflow/tfjs-core';
import { convertedSiteCost } from '../site-cost.js';
import type { PartialSite } from './measure-sites.js';

/** A layer that has a router, and the sizes that cost and training need. */
export interface RoutedSite {
  site: Site;
  /** Number of experts n. */
  count: number;
  /** Neurons per expert. */
  expertSize: number;
  /** Hidden width of the site's router. */
  routerWidth: number;
}

/** A routed layer with its experts. */
export interface ExpertSite extends RoutedSite {
  experts: PackedExperts;
}

/**
 * The layers of a converted model that have a router.
 *
 * @throws D2DMoEError `EVALUATION_NOT_CONVERTED` where none has.
 */
export function routedSites(model: Model): RoutedSite[] {
  const sites = Array.from(model.routers, ([name, { output }]): RoutedSite => {
    const [count, routerWidth] = output.shape;
    const site = model.site(name);
    return { site, count, expertSize: site.hidden / count, routerWidth };
  });
  if (sites.length > 0) return sites;
  throw new D2DMoEError(
    'EVALUATION_NOT_CONVERTED',
    'No layer of this model has a router, so it has no experts to choose from; convert it first.',
  );
}

/**
 * The same with their experts.
 *
 * @returns The caller frees them by {@link disposeExperts}.
 * @throws D2DMoEError as {@link routedSites}.
 */
export function expertSites(model: Model): ExpertSite[] {
  const sites: ExpertSite[] = [];
  // Packed experts outlive the tidy; transposes that they were made from do not.
  tf.tidy(() => {
    for (const routed of routedSites(model)) {
      const experts = packExperts(model.weights(routed.site), routed.expertSize);
      sites.push({ ...routed, experts });
    }
  });
  return sites;
}

/** Frees the experts of {@link expertSites}. */
export function disposeExperts(sites: readonly ExpertSite[]): void {
  for (const { experts } of sites) experts.dispose();
}

/**
 * A site that runs the experts a rule selects by scores of any origin. It costs what it would with our router,
 * wherever the scores come from.
 *
 * @param scores [N, n] from the site's input, at least 0.
 */
export function selectedExperts(
  { site, experts, expertSize, routerWidth }: ExpertSite,
  rule: SelectionRule,
  scores: (x: tf.Tensor2D) => tf.Tensor2D,
): PartialSite {
  const cost = convertedSiteCost(site, expertSize, routerWidth);
  const units = { name: site.name, count: cost.experts, cost: cost.perExpert };
  return {
    site,
    fixed: cost.router,
    units: [units],
    run: (x, observe) => {
      const selection = selectExperts(scores(x), rule);
      observe(units, selection);
      return dynamicKExperts(x, selection, experts);
    },
  };
}
