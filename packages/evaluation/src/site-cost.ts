import { D2DMoEError } from '@d2dmoe/core';
import type { Site } from '@d2dmoe/models';

/** Multiply-adds per token of one site's dense layer: an FFN's matrices, or a projection's single matrix. */
export function siteCost(site: Pick<Site, 'kind' | 'dIn' | 'dOut' | 'hidden' | 'gated'>): number {
  if (site.kind === 'projection') return site.dIn * site.dOut;
  return site.hidden * neuronCost(site);
}

/** Multiply-adds per token of a converted site. */
export interface ConvertedSiteCost {
  /** Number of experts n, hidden / expertSize. */
  experts: number;
  /** One expert, executed for one token. */
  perExpert: number;
  /** The router, which runs for every token. */
  router: number;
}

/**
 * Multiply-adds per token of a converted site: an expert of e neurons costs e·(dIn + dOut), gated e·(2·dIn + dOut);
 * a router of width w over n experts costs w·(dIn + n).
 *
 * @throws D2DMoEError `EVALUATION_EXPERT_SIZE` where the expert size does not divide the hidden width.
 */
export function convertedSiteCost(
  site: Pick<Site, 'dIn' | 'dOut' | 'hidden' | 'gated'>,
  expertSize: number,
  routerWidth: number,
): ConvertedSiteCost {
  const experts = site.hidden / expertSize;
  if (!Number.isInteger(experts) || !Number.isInteger(expertSize) || expertSize < 1) {
    throw new D2DMoEError(
      'EVALUATION_EXPERT_SIZE',
      `An expert size of ${expertSize} does not divide the hidden width ${site.hidden}; choose a divisor of it.`,
    );
  }
  return {
    experts,
    perExpert: expertSize * neuronCost(site),
    router: routerWidth * (site.dIn + experts),
  };
}

/** Multiply-adds of one hidden neuron: its rows of the input matrices and its column of the output matrix. */
function neuronCost(site: Pick<Site, 'dIn' | 'dOut' | 'gated'>): number {
  return (site.gated ? 2 : 1) * site.dIn + site.dOut;
}
