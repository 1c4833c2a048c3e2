import { D2DMoEError } from '@d2dmoe/core';
import type { ExpertStorage, SelectionRule } from '@d2dmoe/kernels';
import { dynamicConfig, type Model } from '@d2dmoe/models';

/** Options of every command that runs a model. */
export const selectionOptions = [
  {
    flag: 'tau',
    type: 'number',
    min: 0,
    max: 1,
    description:
      'threshold of a converted checkpoint, 0 for all experts (default: what the checkpoint says)',
  },
] as const;

/** How the experts of a converted model are to be selected. */
export interface SelectionArguments {
  /** A threshold in place of the one that the checkpoint says. */
  tau?: number | undefined;
  /** How experts are kept in memory; float32 by default. */
  storage?: ExpertStorage | undefined;
}

/**
 * The rule by which a model's experts are selected; undefined for a dense model.
 *
 * @throws D2DMoEError `NOT_CONVERTED` where a dense model is asked for a threshold
 */
export function selectionOf({ tau }: SelectionArguments, model: Model): SelectionRule | undefined {
  const dynamic = dynamicConfig(model);
  if (dynamic !== undefined && model.routers.size > 0) {
    return { rule: 'threshold', value: tau ?? dynamic.tau };
  }
  if (tau !== undefined) {
    throw new D2DMoEError(
      'NOT_CONVERTED',
      'The checkpoint has no routers, so there is nothing for a threshold to select: run d2dmoe convert on it first, or leave tau out.',
    );
  }
  return undefined;
}
