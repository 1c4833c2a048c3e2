import { D2DMoEError } from '@d2dmoe/core';
import type { Model, ModelShape } from '@d2dmoe/models';
import { denseCost, matrixParameters } from './dense-cost.js';
import { type ConvertedSiteCost, convertedSiteCost, siteCost } from './site-cost.js';

/** What was executed over a data set. Padding counts nowhere in it. */
export interface ExecutionCounts {
  /** Length of every sample in tokens. */
  lengths: Iterable<number>;
  /** By site name: how many (token, expert) pairs were executed. */
  executed: ReadonlyMap<string, number>;
}

/** A data set's cost, summed over its samples. */
export interface CostSummary {
  /** Multiply-adds of the converted model, routers included. */
  total: number;
  /** Multiply-adds of the dense model on the same samples. */
  dense: number;
  /** total / dense. */
  relativeTotal: number;
  /** The same ratio for the converted layers alone: routers and executed experts over the dense layers. */
  convertedRelative: number;
  /** Parameters read for one token, see {@link ParametersRead}. */
  parametersRead: ParametersRead;
}

/**
 * Parameters of weight matrices that one token's pass reads, each matrix once: all outside the converted layers, the
 * routers, and the experts weighted by how often they were executed. Biases, norms and looked-up embeddings are left
 * out, as in the multiply-adds.
 */
export interface ParametersRead {
  /** Mean over the data set's tokens. */
  perToken: number;
  /** The dense model. */
  dense: number;
  /** perToken / dense. */
  relative: number;
}

/** One converted layer's part in the cost. */
export interface CostedSite extends ConvertedSiteCost {
  /** The site's name, as in `layers.0.ffn`. */
  name: string;
  /** Multiply-adds per token of the dense layer that it replaces. */
  dense: number;
}

/**
 * The cost of a converted model (Szatkowski et al. 2024): everything outside the experts, routers
 * included, plus each executed (token, expert) pair's own cost.
 */
export class CostModel {
  /** The model's, which the dense cost follows from. */
  readonly shape: ModelShape;
  /** The layers that have a router, in the model's order. */
  readonly sites: readonly CostedSite[];

  /** @throws D2DMoEError `EVALUATION_NOT_CONVERTED` where no site of the model has a router. */
  constructor(model: Pick<Model, 'shape' | 'sites' | 'routers'>) {
    this.shape = model.shape;
    this.sites = model.sites.flatMap((site) => {
      const router = model.routers.get(site.name);
      if (!router) return [];
      const [experts, routerWidth] = router.output.shape;
      const cost = convertedSiteCost(site, site.hidden / experts, routerWidth);
      return [{ name: site.name, dense: siteCost(site), ...cost }];
    });
    if (this.sites.length === 0) {
      throw new D2DMoEError(
        'EVALUATION_NOT_CONVERTED',
        'No layer of this model has a router, so it has no dynamic cost; convert it first, or evaluate it dense.',
      );
    }
  }

  /**
   * Multiply-adds of the samples, dense and as they were executed.
   *
   * @throws D2DMoEError `EVALUATION_COUNTS` where a converted site has no count, or one that its tokens cannot have
   * made; `EVALUATION_EMPTY` where there is no sample.
   */
  cost({ lengths, executed }: ExecutionCounts): CostSummary {
    let tokens = 0;
    let dense = 0;
    for (const length of lengths) {
      tokens += length;
      dense += denseCost(this.shape, length).total;
    }
    if (tokens === 0) {
      throw new D2DMoEError('EVALUATION_EMPTY', 'There is no sample to take the cost of.');
    }
    let converted = 0;
    let replaced = 0;
    for (const site of this.sites) {
      const pairs = executed.get(site.name);
      if (pairs === undefined || !(pairs >= 0 && pairs <= tokens * site.experts)) {
        throw new D2DMoEError(
          'EVALUATION_COUNTS',
          `Site ${site.name} counts ${pairs ?? 'no'} executed (token, expert) pairs; ${tokens} tokens and ` +
            `${site.experts} experts allow 0 to ${tokens * site.experts}.`,
        );
      }
      converted += tokens * site.router + pairs * site.perExpert;
      replaced += tokens * site.dense;
    }
    const total = dense - replaced + converted;
    // A weight of a converted layer takes part in one multiply-add per token, so these counts are parameters too.
    const denseParameters = matrixParameters(this.shape).total;
    const perToken = denseParameters - (replaced - converted) / tokens;
    return {
      total,
      dense,
      relativeTotal: total / dense,
      convertedRelative: converted / replaced,
      parametersRead: { perToken, dense: denseParameters, relative: perToken / denseParameters },
    };
  }
}
