import type { Model } from '@d2dmoe/models';
import { CostModel, type CostSummary } from './cost-model.js';
import { matrixParameters } from './dense-cost.js';

/** What was generated. */
export interface Generated {
  /** Tokens that were given, run in one pass; at least 1. */
  promptTokens: number;
  /** At least 1; the last one is chosen but not run through the model. */
  newTokens: number;
  /** By site name: (token, expert) pairs executed; absent where the model ran dense. */
  executed?: ReadonlyMap<string, number>;
}

/**
 * The cost of generating one text with a key/value cache: a pass over the prompt, then one over each new token but the
 * last. A new token's attention is counted over the positions up to its own, the prompt's over all its pairs.
 *
 * @throws D2DMoEError `EVALUATION_COUNTS` where the counts are not those of the passes; `EVALUATION_NOT_CONVERTED`
 *   where there are counts but no routers
 */
export function generationCost(
  model: Pick<Model, 'shape' | 'sites' | 'routers'>,
  { promptTokens, newTokens, executed }: Generated,
): Pick<CostSummary, 'total' | 'dense' | 'relativeTotal'> {
  const { layers, heads, headDim } = model.shape;
  const tokens = promptTokens + newTokens - 1;
  let pairs = promptTokens ** 2;
  for (let seen = promptTokens + 1; seen <= tokens; seen++) pairs += seen;
  const dense = tokens * matrixParameters(model.shape).total + layers * 2 * pairs * heads * headDim;
  if (executed === undefined) return { total: dense, dense, relativeTotal: 1 };
  // What the converted layers save does not depend on how attention is counted.
  const atOnce = new CostModel(model).cost({ lengths: [tokens], executed });
  const total = dense - (atOnce.dense - atOnce.total);
  return { total, dense, relativeTotal: total / dense };
}
