import {
  cheapestWithin,
  type CurvePoint,
  curveToJson,
  type DenseEvaluation,
  evaluateDense,
  type EvaluationBatches,
  type EvaluationOptions,
  sweep,
} from '@d2dmoe/evaluation';
import { loadModel, saveModel } from '@d2dmoe/models/node';
import { writeFileAtomic } from '@d2dmoe/safetensors/node';
import * as tf from '@tensorflow/tfjs-core';
import { basename, join } from 'node:path';
import type { Batches } from '../batches/batches.js';
import { routedSites } from './sites.js';
import {
  hashCheckpoint,
  requireOwnOutput,
  runStage,
  type StageOptions,
  type StageRecord,
} from './stage.js';

/** Settings of {@link calibrate}. */
export interface CalibrateSettings {
  /** Share of the dense validation score to keep; a loss may grow by 1 − keep. */
  keep: number;
  /** Thresholds to try. */
  taus: readonly number[];
  /** At most this many validation samples. */
  samples?: number;
}

/**
 * Chooses the threshold on the validation split: the cheapest τ that keeps `keep` of the dense model's score, or the
 * best-scoring one where none does (the record's metrics say which). The threshold goes into config.json as the one
 * to run with; the validation curve into `validation-curve.json`.
 *
 * @param dense folder of the dense checkpoint that the score is compared with
 */
export async function calibrate(
  options: StageOptions,
  dense: string,
  data: { batches: Batches; hash: string },
  settings: CalibrateSettings,
): Promise<StageRecord> {
  await requireOwnOutput(options.input, options.output);
  await routedSites(options.input);
  const inputs = {
    checkpoint: await hashCheckpoint(options.input),
    dense: await hashCheckpoint(dense),
    data: data.hash,
  };
  return runStage(
    'calibrate',
    options,
    inputs,
    { ...settings, device: tf.getBackend() },
    async () => {
      const reporting = reportingAs(options, 'calibrate');
      const batches = () => data.batches.evaluation('validation', settings.samples);
      const reference = await evaluateFolder(dense, batches(), reporting);
      const model = await loadModel(options.input);
      try {
        const points = await sweep({ model, batches, taus: settings.taus, ...reporting });
        const kept = cheapestWithin(points, { keep: settings.keep, dense: reference.score });
        const chosen = kept ?? best(points);
        const figures = {
          tau: chosen.tau as number,
          [chosen.score.name]: chosen.score.value,
          cost: chosen.cost,
        };
        options.onProgress?.({
          status: 'progress',
          name: 'calibrate',
          progress: 100,
          metrics: figures,
        });
        const converted = model.config['d2dmoe'] as Record<string, unknown>;
        model.config['d2dmoe'] = { ...converted, tau: chosen.tau };
        await saveModel(model, options.output, { copyFrom: options.input });
        const curve = curveToJson({
          name: basename(options.output),
          model,
          dense: reference,
          points,
        });
        await writeFileAtomic(
          join(options.output, 'validation-curve.json'),
          `${JSON.stringify(curve, undefined, 2)}\n`,
        );
        return [
          {
            ...figures,
            reached: kept ? 'yes' : 'no',
            [`dense ${reference.score.name}`]: reference.score.value,
          },
        ];
      } finally {
        model.dispose();
      }
    },
  );
}

function best(points: readonly CurvePoint[]): CurvePoint {
  const [first] = [...points].sort((a, b) =>
    a.score.higherIsBetter ? b.score.value - a.score.value : a.score.value - b.score.value,
  );
  return first as CurvePoint;
}

/** The score of a dense checkpoint folder. */
export async function evaluateFolder(
  directory: string,
  batches: EvaluationBatches,
  reporting: EvaluationOptions,
): Promise<DenseEvaluation> {
  const model = await loadModel(directory);
  try {
    return await evaluateDense(model, batches, reporting);
  } finally {
    model.dispose();
  }
}

/** A stage's signal, and its progress callback under the stage's name, as the evaluation package takes them. */
export function reportingAs(
  { onProgress, signal }: Pick<StageOptions, 'onProgress' | 'signal'>,
  name: string,
): Pick<StageOptions, 'onProgress' | 'signal'> {
  return {
    ...(onProgress && {
      onProgress: (event) => {
        if (event.status === 'progress') onProgress({ ...event, name });
      },
    }),
    ...(signal && { signal }),
  };
}
