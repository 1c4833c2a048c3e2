import { D2DMoEError } from '@d2dmoe/core';
import type { Model, Site, SiteValues } from '@d2dmoe/models';
import * as tf from '@tensorflow/tfjs-core';
import { eachBatch, type EvaluationBatch, type EvaluationBatches } from '../run-batches.js';
import type { BaselineCurve, BaselineName, BaselineOptions } from './baseline.js';
import { measureSites, type PartialSite } from './measure-sites.js';
import { sweepValues } from './sweep-values.js';
import { realRows } from './training.js';

/** Options of the baselines that skip what is small. */
export interface MagnitudeBaselineOptions extends BaselineOptions {
  /** Any model, sparsified or not; it runs without its routers, if it has some. */
  model: Model;
  /** Opens the data on which thresholds are chosen: not those that are scored. */
  calibration: () => EvaluationBatches;
}

/** Target sparsities: the share of values that fall below the threshold on the calibration data. */
const targetSparsities: readonly number[] = [0, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95];

/** Tokens whose values are kept; each has as many values as a layer is wide, which pin its quantiles down. */
const calibrationTokens = 2048;
/** At most this many of them from one batch, evenly spaced: a batch may hold texts of one length. */
const tokensPerBatch = 256;

/** The values of a site that have a threshold each, by its name. */
type PickValues = (
  site: Site,
  values: SiteValues,
) => Readonly<Record<string, tf.Tensor2D | undefined>>;

/** Thresholds by name. */
export type Thresholds = Readonly<Record<string, number>>;

/**
 * A curve over target sparsities: thresholds are the quantiles of the picked values' magnitudes on the calibration
 * data.
 *
 * @param partial How a site runs under thresholds.
 * @throws D2DMoEError `EVALUATION_SPARSITY` for a target outside [0, 1]; `EVALUATION_EMPTY` and `EVALUATION_LABELS` as
 * `evaluateDense`.
 */
export async function magnitudeCurve(
  name: BaselineName,
  options: MagnitudeBaselineOptions,
  pick: PickValues,
  partial: (site: Site, thresholds: Thresholds) => PartialSite,
): Promise<Omit<BaselineCurve, 'label' | 'description'>> {
  const { model, batches, values = targetSparsities, onProgress, signal } = options;
  const sorted = await sortedMagnitudes(options, pick);
  const thresholds: Thresholds[] = [];
  const points = await sweepValues(name, values, onProgress, (sparsity, onBatch) => {
    const found = Object.fromEntries(
      Array.from(sorted, ([value, magnitudes]) => [value, thresholdFor(magnitudes, sparsity)]),
    );
    thresholds.push(found);
    const sites = model.sites
      .filter(({ kind }) => kind === 'feedForward')
      .map((site) => partial(site, found));
    return measureSites(model, batches(), sites, { onBatch, signal });
  });
  return { name, knob: 'target sparsity', points, settings: { thresholds } };
}

/**
 * The distribution of some of the FFNs' values, as magnitudes in rising order, over 2,048 real tokens from the first
 * batches of the calibration data, at most 256 of each; the model runs densely.
 *
 * @param pick The values of a site by the names under which they come back.
 * @throws D2DMoEError `EVALUATION_EMPTY` where the data hold no token.
 */
async function sortedMagnitudes(
  { model, calibration, signal }: MagnitudeBaselineOptions,
  pick: PickValues,
): Promise<Map<string, Float32Array>> {
  const parts = new Map<string, Float32Array[]>();
  let left = calibrationTokens;
  for await (const data of eachBatch(calibration(), signal)) {
    const rows = evenlySpaced(await realRows(model, data), Math.min(left, tokensPerBatch));
    left -= rows.length;
    for (const [name, values] of await magnitudes(model, data, rows, pick)) {
      parts.set(name, [...(parts.get(name) ?? []), values]);
    }
    if (left === 0) break;
  }
  if (parts.size === 0) {
    throw new D2DMoEError('EVALUATION_EMPTY', 'The calibration data hold no token.');
  }
  return new Map(Array.from(parts, ([name, some]) => [name, concatenate(some).sort()] as const));
}

/** The magnitudes of one batch's values, read back. */
async function magnitudes(
  model: Model,
  { batch }: EvaluationBatch,
  rows: Int32Array,
  pick: PickValues,
): Promise<[string, Float32Array][]> {
  const picked: [string, tf.Tensor2D][] = [];
  tf.tidy(() => {
    const index = tf.tensor1d(rows, 'int32');
    model.forward(batch, {
      tap: (site, values) => {
        if (site.kind !== 'feedForward') return;
        for (const [name, tensor] of Object.entries(pick(site, values))) {
          if (tensor) picked.push([name, tf.keep(tf.abs(tf.gather(tensor, index)))]);
        }
      },
    });
  });
  try {
    return await Promise.all(
      picked.map(async ([name, tensor]) => [name, (await tensor.data()) as Float32Array] as const),
    ).then((read) => read.map(([name, values]): [string, Float32Array] => [name, values]));
  } finally {
    tf.dispose(picked.map(([, tensor]) => tensor));
  }
}

function evenlySpaced(rows: Int32Array, count: number): Int32Array {
  if (rows.length <= count) return rows;
  return Int32Array.from(
    { length: count },
    (_, i) => rows[Math.floor((i * rows.length) / count)] as number,
  );
}

function concatenate(parts: readonly Float32Array[]): Float32Array {
  const all = new Float32Array(parts.reduce((sum, { length }) => sum + length, 0));
  let start = 0;
  for (const part of parts) {
    all.set(part, start);
    start += part.length;
  }
  return all;
}

/**
 * The least threshold at or below which a share of the magnitudes lies; 0 for a share of 0. Where more than that share
 * are exactly 0, as after a ReLU, it is 0: skipping zeros changes nothing.
 *
 * @param sorted Magnitudes in rising order.
 * @param sparsity In [0, 1].
 */
export function thresholdFor(sorted: Float32Array, sparsity: number): number {
  if (!(sparsity >= 0 && sparsity <= 1)) {
    throw new D2DMoEError(
      'EVALUATION_SPARSITY',
      `A target sparsity must be a number from 0 to 1, not ${sparsity}.`,
    );
  }
  const below = Math.round(sparsity * sorted.length);
  return below === 0 ? 0 : (sorted[below - 1] as number);
}

/** Which values exceed a threshold in magnitude, and the values with all others set to 0. */
export function exceeding(
  values: tf.Tensor2D,
  threshold: number,
): { kept: tf.Tensor2D; thinned: tf.Tensor2D } {
  const kept = tf.greater<tf.Tensor2D>(tf.abs(values), threshold);
  return { kept, thinned: tf.mul(values, tf.cast(kept, 'float32')) };
}
