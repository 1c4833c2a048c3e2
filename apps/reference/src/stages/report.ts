import { readdir, readFile, stat } from 'node:fs/promises';
import { cpus } from 'node:os';
import { basename, join } from 'node:path';
import { D2DMoEError } from '@d2dmoe/core';
import {
  type CurveJson,
  type CurvePoint,
  curveFromJson,
  evaluateRule,
  executedByToken,
  pointFromJson,
  routerError,
  thresholdRule,
  timeForward,
} from '@d2dmoe/evaluation';
import {
  type OperatingPoint,
  type ReportCurve,
  renderReport,
  type ReportSettings,
  type ThresholdGain,
  type WallClock,
} from '@d2dmoe/evaluation/report';
import type { SelectionRule } from '@d2dmoe/kernels';
import { type Batch, dynamicConfig, type Model, type Site } from '@d2dmoe/models';
import { loadModel } from '@d2dmoe/models/node';
import { makeFolder, writeFileAtomic } from '@d2dmoe/safetensors/node';
import * as tf from '@tensorflow/tfjs-core';
import type { Batches } from '../batches/batches.js';
import { deviceKey, deviceStorage } from '../device.js';
import { budgetLabel } from './operating-points.js';
import type { PreparedData } from './prepare.js';
import { reportSamples } from './report-samples.js';
import { measureSparsity } from './sparsity-by-site.js';
import type { StageOptions, StageRecord } from './stage.js';

/** Positions of the test split from which distributions, sparsity and router errors are taken, about. */
const observedPositions = 8192;

/** Samples of the batch that is timed: a card is full with more. */
const timed = () => (deviceKey().startsWith('cuda') ? 256 : 32);

/** An operating point with the rule that it was measured with. */
type ReportedPoint = OperatingPoint & { point: CurvePoint };

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
    const rule = thresholdRule(dynamicConfig(model)?.tau ?? 0);
    const named = operatingPoints(options.curve);
    if (named.length === 0) {
      const point = await evaluateRule(
        model,
        batches.evaluation('test', options.samples),
        rule,
        observing,
      );
      named.push({ name: 'stored', chosen: 'the one that the checkpoint stores', point });
    }
    const { html, figures } = renderReport({
      name: options.curve.model.name,
      data: `the test split of ${basename(data.dataset.source)}`,
      dense,
      dynamicK: points,
      baselines: options.baselines ?? [],
      operatingPoints: named,
      gains: gainsOf(options.curve),
      executed: await executedByToken(model, some(), rule, observing),
      // A projection has activations only since it was replaced.
      sparsity: [...after].flatMap(([site, shares]) => {
        const dense = before.get(site);
        return dense ? [{ site, before: dense, after: shares }] : [];
      }),
      routers: await routerError(model, some(), rule, observing),
      ...(await reportSamples(input, model, data, rule)),
      ...(await clock(denseModel, model, batches, named, signal)),
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

/** Whether a folder has a report that is no older than its curve and its baselines. */
export async function hasReport(directory: string): Promise<boolean> {
  const time = async (file: string) => (await stat(join(directory, file))).mtimeMs;
  try {
    const names = await readdir(join(directory, 'baselines')).catch(() => []);
    const curves = ['curve.json', ...names.map((name) => join('baselines', name))];
    const times = await Promise.all(curves.map(time));
    return (await time('report.html')) >= Math.max(...times);
  } catch {
    return false;
  }
}

const exists = (path: string) =>
  stat(path).then(
    () => true,
    () => false,
  );

/** The operating points of a curve file; the first is the one that the checkpoint runs at. */
function operatingPoints({ operating_points: named = [], score }: CurveJson): ReportedPoint[] {
  return named.map(({ name, point }) => ({
    name,
    chosen: `chosen on the validation split for ${budgetLabel(name, score.name)}`,
    point: pointFromJson(point, score),
  }));
}

/** What thresholds by layer gained over one for all. */
function gainsOf({ operating_points: named = [], score }: CurveJson): ThresholdGain[] {
  return named.flatMap(({ name, point, global }) =>
    global
      ? {
          budget: budgetLabel(name, score.name),
          global: pointFromJson(global, score),
          perLayer: pointFromJson(point, score),
        }
      : [],
  );
}

/** Times the dense model and the converted one at its operating points on the current device; one batch of the test split. */
async function clock(
  dense: Model,
  converted: Model,
  batches: Batches,
  points: readonly ReportedPoint[],
  signal?: AbortSignal,
): Promise<{ wallClock?: WallClock }> {
  for await (const { batch } of batches.evaluation('test', timed())) {
    try {
      const { dense: denseTiming, rules } = await timeForward({
        dense,
        converted,
        batch,
        rules: points.map(({ point }) => ruleOf(point)),
        storage: deviceStorage(),
        ...(signal && { signal }),
      });
      const wallClock = {
        device: `${deviceKey()} (${cpus()[0]?.model.trim() ?? process.arch}, Node ${process.versions.node})`,
        batch: describeBatch(batch),
        dense: denseTiming,
        converted: points.map(({ name, point }, i) => ({
          label: point.tau === undefined ? name : `τ = ${Number(point.tau.toPrecision(3))}`,
          cost: point.cost,
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

/** The rule that a point was measured with. */
function ruleOf({ rule }: CurvePoint): SelectionRule | ((site: Site) => SelectionRule) {
  if (isOneRule(rule)) return rule;
  return ({ name }) => rule[name] as SelectionRule;
}

const isOneRule = (rule: CurvePoint['rule']): rule is SelectionRule =>
  typeof rule['rule' as keyof typeof rule] === 'string';

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
  const order = ['sparsify', 'attention', 'split', 'route', 'finetune', 'calibrate', 'evaluate'];
  const baselines = [...found.keys()].filter((stage) => stage.startsWith('baseline-'));
  const stages = [...order, ...baselines].flatMap((stage) => found.get(stage) ?? []);
  return [
    ...stages.map(({ stage, seed, seconds, settings }) => ({ stage, seed, seconds, settings })),
    {
      stage: 'report',
      settings: { samplesObserved: observed, samplesTimed: timed(), device: deviceKey() },
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
