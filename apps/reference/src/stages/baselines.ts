import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { Random } from '@d2dmoe/core';
import { type BaselineCurve, type BaselineName, baselines } from '@d2dmoe/evaluation';
import { loadModel } from '@d2dmoe/models/node';
import { writeFileAtomic } from '@d2dmoe/safetensors/node';
import { deviceKey } from '../device.js';
import { reportingAs } from './calibrate.js';
import type { PreparedData } from './prepare.js';
import { routedSites } from './sites.js';
import { hashCheckpoint, runStage, type StageOptions } from './stage.js';

/** Settings of {@link measureBaselines}. */
export interface BaselineSettings {
  /** The methods to compare with. */
  which: readonly BaselineName[];
  /** How the networks that MoEfication and early exit need are trained. */
  training: { steps: number; batchSize: number; learningRate: number };
  /** At most this many test samples, drawn by seed. */
  samples?: number;
}

/**
 * Measures the methods that a conversion is compared with, on the test split. Each is a stage of its own in
 * `baselines`, which leaves its curve as `<name>.json` there: what is done is skipped when the same is asked again.
 *
 * @param dense folder of the dense checkpoint
 */
export async function measureBaselines(
  options: StageOptions,
  dense: string,
  data: PreparedData,
  { which, training, samples }: BaselineSettings,
): Promise<BaselineCurve[]> {
  await routedSites(options.input);
  const output = join(options.output, 'baselines');
  const inputs = {
    checkpoint: await hashCheckpoint(options.input),
    dense: await hashCheckpoint(dense),
    data: data.dataset.hash,
  };
  const batches = data.batches(training);
  const curves: BaselineCurve[] = [];
  for (const name of which) {
    const file = join(output, `${name}.json`);
    const settings = { ...training, ...(samples && { samples }), device: deviceKey() };
    await runStage(`baseline-${name}`, { ...options, output }, inputs, settings, async () => {
      const denseModel = await loadModel(dense);
      try {
        const converted = await loadModel(options.input);
        try {
          const [curve] = await baselines({
            dense: denseModel,
            converted,
            batches: () => batches.evaluation('test', samples),
            train: (step) => batches.train(step),
            training,
            random: new Random(options.seed),
            which: [name],
            ...reportingAs(options, `baseline-${name}`),
          });
          await writeFileAtomic(file, `${JSON.stringify(curve, undefined, 2)}\n`);
          return (curve as BaselineCurve).points.map(({ value, score, cost }) => ({
            value,
            [score.name]: score.value,
            cost,
          }));
        } finally {
          converted.dispose();
        }
      } finally {
        denseModel.dispose();
      }
    });
    curves.push(JSON.parse(await readFile(file, 'utf8')) as BaselineCurve);
  }
  return curves;
}
