import type { Model, Site } from '@d2dmoe/models';
import type { Tensor2D } from '@tensorflow/tfjs-core';
import { denseCost, matrixParameters } from '../dense-cost.js';
import { type EvaluationBatches, runBatches } from '../run-batches.js';
import { SelectionCounter } from '../selection-counter.js';
import { siteCost } from '../site-cost.js';
import type { MeasuredPoint } from './baseline.js';

/** Units of a site that a token may skip one by one: experts, neurons, input columns. */
export interface SkippableUnits {
  /** Unique within the model. */
  name: string;
  count: number;
  /** Multiply-adds of one unit, executed for one token. */
  cost: number;
}

/** An FFN that each token runs in part. */
export interface PartialSite {
  site: Site;
  /** Multiply-adds per token that are never skipped, e.g. a router's. */
  fixed: number;
  units: readonly SkippableUnits[];
  /**
   * The site's output [N, dOut] from its input [N, dIn]. Calls `observe` once for each of `units` with what the rows
   * execute of them, bool [N, count]. Runs inside a tidy.
   */
  run(x: Tensor2D, observe: (units: SkippableUnits, executed: Tensor2D) => void): Tensor2D;
}

/**
 * Scores a model whose sites run in part, and counts exactly what its real tokens execute, as the cost model of a
 * converted model does.
 *
 * @throws D2DMoEError `EVALUATION_EMPTY` and `EVALUATION_LABELS` as `evaluateDense`.
 */
export async function measureSites(
  model: Model,
  batches: EvaluationBatches,
  sites: readonly PartialSite[],
  { onBatch, signal }: { onBatch: () => void; signal?: AbortSignal | undefined },
): Promise<MeasuredPoint> {
  const counter = new SelectionCounter();
  const byName = new Map(sites.map((partial) => [partial.site.name, partial]));
  const substitute = ({ name }: Site, x: Tensor2D) => byName.get(name)?.run(x, counter.observe);
  const dynamic = { substitute, counter };
  const { score, lengths } = await runBatches(model, batches, dynamic, onBatch, signal);

  const tokens = lengths.reduce((sum, length) => sum + length, 0);
  const dense = lengths.reduce((sum, length) => sum + denseCost(model.shape, length).total, 0);
  let replaced = 0;
  let run = 0;
  const executed: Record<string, number> = {};
  for (const { site, fixed, units } of sites) {
    let skippable = 0;
    let notSkipped = 0;
    for (const { name, count, cost } of units) {
      skippable += tokens * count * cost;
      notSkipped += (counter.executed.get(name) as number) * cost;
    }
    replaced += tokens * siteCost(site);
    run += tokens * fixed + notSkipped;
    executed[site.name] = notSkipped / skippable;
  }
  // A weight of such a layer takes part in one multiply-add per token, so these counts are parameters read, too.
  const parameters = matrixParameters(model.shape).total;
  return {
    score,
    cost: (dense - replaced + run) / dense,
    convertedCost: run / replaced,
    parametersRead: 1 - (replaced - run) / tokens / parameters,
    executed,
  };
}
