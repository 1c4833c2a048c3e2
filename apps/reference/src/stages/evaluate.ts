import { readFile } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { type CurveJson, curveToJson, evaluateDense, sweep } from '@d2dmoe/evaluation';
import type { SelectionRule } from '@d2dmoe/kernels';
import { loadModel } from '@d2dmoe/models/node';
import { writeFileAtomic } from '@d2dmoe/safetensors/node';
import * as tf from '@tensorflow/tfjs-core';
import type { Batches } from '../batches/batches.js';
import { renamed } from './calibrate.js';
import { hashCheckpoint, runStage, type StageOptions, type StageRecord } from './stage.js';

/** Settings of {@link evaluateCurve}. */
export interface EvaluateSettings {
  /** One point of the curve each. */
  rules: readonly SelectionRule[];
  /** At most this many test samples, drawn by seed. */
  samples?: number;
}

/**
 * Measures the cost–quality curve of a converted checkpoint on the test split and writes it as `curve.json` into the
 * output folder.
 *
 * @param dense folder of the dense checkpoint that costs and scores are relative to
 */
export async function evaluateCurve(
  options: StageOptions,
  dense: string,
  data: { batches: Batches; hash: string },
  settings: EvaluateSettings,
): Promise<{ record: StageRecord; curve: CurveJson }> {
  const inputs = {
    checkpoint: await hashCheckpoint(options.input),
    dense: await hashCheckpoint(dense),
    data: data.hash,
  };
  const file = join(options.output, 'curve.json');
  const record = await runStage(
    'evaluate',
    options,
    inputs,
    { ...settings, device: tf.getBackend() },
    async () => {
      const { onProgress, signal } = options;
      const reporting = {
        ...(onProgress && { onProgress: renamed(onProgress, 'evaluate') }),
        ...(signal && { signal }),
      };
      const batches = () => data.batches.evaluation('test', settings.samples);
      const denseModel = await loadModel(dense);
      const reference = await evaluateDense(denseModel, batches(), reporting);
      denseModel.dispose();
      const model = await loadModel(options.input);
      try {
        const points = await sweep({ model, batches, rules: settings.rules, ...reporting });
        const curve = curveToJson({
          name: basename(options.input),
          model,
          dense: reference,
          points,
        });
        await writeFileAtomic(file, `${JSON.stringify(curve, undefined, 2)}\n`);
        return points.map((point) => ({
          rule: point.rule.rule as string,
          value: point.rule.value as number,
          [point.score.name]: point.score.value,
          cost: point.cost,
        }));
      } finally {
        model.dispose();
      }
    },
  );
  return { record, curve: JSON.parse(await readFile(file, 'utf8')) as CurveJson };
}
