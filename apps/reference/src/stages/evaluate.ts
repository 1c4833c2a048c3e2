import { readFile } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { type CurveJson, curveToJson, pointToJson, sweep } from '@d2dmoe/evaluation';
import type { ExpertStorage, SelectionRule } from '@d2dmoe/kernels';
import { packModel } from '@d2dmoe/models';
import { loadModel } from '@d2dmoe/models/node';
import { writeFileAtomic } from '@d2dmoe/safetensors/node';
import type { Batches } from '../batches/batches.js';
import { deviceKey, deviceStorage } from '../device.js';
import { evaluateFolder, reportingAs } from './calibrate.js';
import { measureOperatingPoints } from './operating-points.js';
import { routedSites } from './sites.js';
import { hashCheckpoint, runStage, type StageOptions, type StageRecord } from './stage.js';

/** Settings of {@link evaluateCurve}. */
export interface EvaluateSettings {
  /** One point of the curve each. */
  rules: readonly SelectionRule[];
  /** How experts are kept in memory; float32 by default. */
  storage?: ExpertStorage;
  /** At most this many test samples, drawn by seed. */
  samples?: number;
}

/**
 * Measures the cost–quality curve of a converted checkpoint and its operating points on the test split and writes them
 * as `curve.json` into the output folder.
 *
 * @param dense folder of the dense checkpoint that costs and scores are relative to
 */
export async function evaluateCurve(
  options: StageOptions,
  dense: string,
  data: { batches: Batches; hash: string },
  settings: EvaluateSettings,
): Promise<{ record: StageRecord; curve: CurveJson }> {
  await routedSites(options.input);
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
    { ...settings, device: deviceKey() },
    async () => {
      const reporting = reportingAs(options, 'evaluate');
      const batches = () => data.batches.evaluation('test', settings.samples);
      const reference = await evaluateFolder(dense, batches(), reporting);
      const model = await loadModel(options.input);
      try {
        packModel(model, { storage: settings.storage ?? deviceStorage() });
        const points = await sweep({ model, batches, rules: settings.rules, ...reporting });
        const named = await measureOperatingPoints(options.input, model, batches, reporting);
        const curve: CurveJson = {
          ...curveToJson({ name: basename(options.input), model, dense: reference, points }),
          operating_points: named.map(({ name, point, global }) => ({
            name,
            point: pointToJson(point),
            ...(global && { global: pointToJson(global) }),
          })),
        };
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
