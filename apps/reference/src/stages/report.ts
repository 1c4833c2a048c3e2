import { readdir, readFile, stat } from 'node:fs/promises';
import { cpus } from 'node:os';
import { basename, join } from 'node:path';
import { D2DMoEError } from '@d2dmoe/core';
import {
  type CurveJson,
  type CurvePoint,
  cheapestWithin,
  curveFromJson,
  evaluateRule,
  executedByToken,
  routerError,
  timeForward,
} from '@d2dmoe/evaluation';
import {
  type OperatingPoint,
  type ReportCurve,
  renderReport,
  type ReportSettings,
  type WallClock,
} from '@d2dmoe/evaluation/report';
import type { SelectionRule } from '@d2dmoe/kernels';
import { type Batch, dynamicConfig, type Model } from '@d2dmoe/models';
import { loadModel } from '@d2dmoe/models/node';
import { makeFolder, writeFileAtomic } from '@d2dmoe/safetensors/node';
import * as tf from '@tensorflow/tfjs-core';
import type { Batches } from '../batches/batches.js';
import type { PreparedData } from './prepare.js';
import { reportSamples } from './report-samples.js';
import { measureSparsity } from './sparsity-by-site.js';
import type { StageOptions, StageRecord } from './stage.js';

/** Positions of the test split from which distributions, sparsity and router errors are taken, about. */
const observedPositions = 8192;

/** Samples of the batch that is timed. */
const timed = 32;

/** What {@link writeReport} takes besides a stage's input, signal and progress. */
export interface ReportOptions extends Pick<StageOptions, 'input' | 'signal' | 'onProgress'> {
  /** Folder of the dense checkpoint. */
  dense: string;
  /** Folder that gets `report.html` and `figures/`. */
  directory: string;
  data: PreparedData;
  /** The test split's curve. */
  curve: CurveJson;
  /** At most this many test samples, as in the curve. */
  samples?: number;
  /** What the curve is compared with. */
  baselines?: readonly ReportCurve[];
  /** Folders whose stage records tell the settings. */
  records: readonly string[];
}

/**
 * Writes the report of a converted checkpoint: `report.html`, and its figures as SVG files in `figures`. Looks at the
 * model on a part of the test split, and times it on the current device.
 */
export async function writeReport(options: ReportOptions): Promise<void> {
  const { input, directory, data, signal, onProgress } = options;
  onProgress?.({ status: 'initiate', name: 'report' });
  const observing = signal ? { signal } : {};
  const { dense, points } = curveFromJson(options.curve);
  const batches = data.batches({ batchSize: 1, steps: 1 });
  const observed = Math.max(
    16,
    Math.ceil(observedPositions / data.architecture.shape.maxPositions),
  );
  const some = () => batches.evaluation('test', observed);
  const models: Model[] = [];
  try {
    const denseModel = await loadModel(options.dense);
    models.push(denseModel);
    const before = await measureSparsity(denseModel, some(), signal);
    const model = await loadModel(input);
    models.push(model);
    const after = await measureSparsity(model, some(), signal);
    const tau = dynamicConfig(model)?.tau ?? 0;
    const rule: SelectionRule = { rule: 'threshold', value: tau };
    const calibrated = await operatingPoint(input, points, rule, () =>
      evaluateRule(model, batches.evaluation('test', options.samples), rule, observing),
    );
    const further = [0.97, 0.95].flatMap(
      (keep) => cheapestWithin(points, { keep, dense: dense.score }) ?? [],
    );
    const { html, figures } = renderReport({
      name: options.curve.model.name,
      data: `the test split of ${basename(data.dataset.source)}`,
      dense,
      dynamicK: points,
      baselines: options.baselines ?? [],
      operatingPoints: [calibrated],
      executed: await executedByToken(model, some(), rule, observing),
      sparsity: Array.from(after, ([site, shares]) => ({
        site,
        before: before.get(site) as typeof shares,
        after: shares,
      })),
      routers: await routerError(model, some(), rule, observing),
      ...(await reportSamples(input, model, data, rule)),
      ...(await clock(denseModel, model, batches, [calibrated.point, ...further], signal)),
      settings: await settingsOf(options.records, observed),
    });
    await makeFolder(join(directory, 'figures'));
    for (const [name, svg] of Object.entries(figures)) {
      await writeFileAtomic(join(directory, 'figures', name), svg);
    }
    await writeFileAtomic(join(directory, 'report.html'), html);
  } finally {
    for (const model of models) model.dispose();
  }
  onProgress?.({ status: 'done', name: 'report' });
}

/**
 * @throws D2DMoEError `REPORT_EXISTS` where something is in the way of a new report folder
 */
export async function requireNewReport(directory: string): Promise<void> {
  if (!(await exists(directory))) return;
  throw new D2DMoEError(
    'REPORT_EXISTS',
    `The report folder ${directory} exists already; name a new one, or remove it first.`,
  );
}

/** Whether a folder has a report that is no older than its curve. */
export async function hasReport(directory: string): Promise<boolean> {
  const time = async (file: string) => (await stat(join(directory, file))).mtimeMs;
  try {
    return (await time('report.html')) >= (await time('curve.json'));
  } catch {
    return false;
  }
}

const exists = (path: string) =>
  stat(path).then(
    () => true,
    () => false,
  );

/** The checkpoint's own threshold on the test split: a point of the curve, or measured where that lacks it. */
async function operatingPoint(
  checkpoint: string,
  points: readonly CurvePoint[],
  rule: SelectionRule,
  measure: () => Promise<CurvePoint>,
): Promise<OperatingPoint> {
  const point = points.find(({ tau }) => tau === rule.value) ?? (await measure());
  const [record] = (await stageRecords(checkpoint)).filter(({ stage }) => stage === 'calibrate');
  const keep = record?.settings['keep'];
  if (typeof keep !== 'number') {
    return { name: 'the checkpoint’s own', chosen: 'the one that the checkpoint stores', point };
  }
  const share = Number((100 * keep).toFixed(2));
  return {
    name: `keep ${keep}`,
    chosen: `chosen on the validation split to keep ${share} % of the dense ${point.score.name}`,
    point,
  };
}

/** Times the dense model and the converted one at the points' thresholds on the current device; one batch of the test split. */
async function clock(
  dense: Model,
  converted: Model,
  batches: Batches,
  points: readonly Pick<CurvePoint, 'tau' | 'cost'>[],
  signal?: AbortSignal,
): Promise<{ wallClock?: WallClock }> {
  const taus = new Map(
    points.flatMap(({ tau, cost }) => (tau === undefined ? [] : [[tau, cost] as const])),
  );
  const sorted = [...taus].sort(([a], [b]) => a - b);
  for await (const { batch } of batches.evaluation('test', timed)) {
    try {
      const { dense: denseTiming, rules } = await timeForward({
        dense,
        converted,
        batch,
        rules: sorted.map(([value]) => ({ rule: 'threshold', value })),
        ...(signal && { signal }),
      });
      const wallClock = {
        device: `${tf.getBackend()} (${cpus()[0]?.model.trim() ?? process.arch}, Node ${process.versions.node})`,
        batch: describeBatch(batch),
        dense: denseTiming,
        converted: sorted.map(([tau, cost], i) => ({
          label: `τ = ${tau}`,
          cost,
          timing: rules[i] as (typeof rules)[number],
        })),
      };
      return { wallClock };
    } finally {
      tf.dispose({ ...batch });
    }
  }
  return {};
}

function describeBatch(batch: Batch): string {
  const tensor = 'pixelValues' in batch ? batch.pixelValues : batch.inputIds;
  const [samples, positions] = tensor.shape;
  return 'pixelValues' in batch
    ? `${samples} pictures`
    : `${samples} texts of ${positions} tokens, padding included`;
}

/** What the stages were told, in the order in which they ran, and what the report adds. */
async function settingsOf(folders: readonly string[], observed: number): Promise<ReportSettings[]> {
  const found = new Map<string, StageRecord>();
  for (const folder of folders) {
    for (const record of await stageRecords(folder)) found.set(record.stage, record);
  }
  const order = ['sparsify', 'attention', 'split', 'route', 'calibrate', 'evaluate'];
  const stages = order.flatMap((stage) => found.get(stage) ?? []);
  return [
    ...stages.map(({ stage, seed, seconds, settings }) => ({ stage, seed, seconds, settings })),
    {
      stage: 'report',
      settings: { samplesObserved: observed, samplesTimed: timed, device: tf.getBackend() },
    },
  ];
}

/** The records of a folder and of the stage folders in it. */
async function stageRecords(folder: string): Promise<StageRecord[]> {
  const files = await readdir(folder, { recursive: true }).catch(() => []);
  const records = files.filter((file) => file.endsWith('.stage.json'));
  return Promise.all(
    records.map(
      async (file) => JSON.parse(await readFile(join(folder, file), 'utf8')) as StageRecord,
    ),
  );
}
