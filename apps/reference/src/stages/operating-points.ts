import {
  budgetName,
  type BudgetTarget,
  type CurvePoint,
  type EvaluationBatches,
  type EvaluationOptions,
  evaluateRule,
  thresholdRule,
} from '@d2dmoe/evaluation';
import { dynamicConfig, type Model } from '@d2dmoe/models';
import { readRecord } from './stage.js';

/** An operating point of a checkpoint, measured on some data. */
export interface MeasuredOperatingPoint {
  name: string;
  point: CurvePoint;
  /** The same budget met by one threshold for all layers, where the checkpoint's thresholds differ by layer. */
  global?: CurvePoint;
}

/** Measures each operating point that a checkpoint's calibration has stored. */
export async function measureOperatingPoints(
  folder: string,
  model: Model,
  batches: () => EvaluationBatches,
  reporting: EvaluationOptions,
): Promise<MeasuredOperatingPoint[]> {
  const stored = dynamicConfig(model)?.calibration?.operating_points ?? {};
  const record = await readRecord(folder, 'calibrate');
  const measure = (tau: Parameters<typeof thresholdRule>[0]) =>
    evaluateRule(model, batches(), thresholdRule(tau), reporting);
  const measured: MeasuredOperatingPoint[] = [];
  for (const [name, { tau }] of Object.entries(stored)) {
    const point = await measure(tau);
    const one = record?.metrics.find((metrics) => metrics['point'] === name)?.['global tau'];
    const differs = typeof tau !== 'number' && typeof one === 'number';
    measured.push({ name, point, ...(differs && { global: await measure(one) }) });
  }
  return measured;
}

/** A budget in words: `99 % of the dense accuracy`, `0.6 of the dense cost`; its name where it is none of ours. */
export function budgetLabel(name: string, score: string): string {
  const [kind, value] = name.split('-') as [string, string?];
  const number = Number(value);
  const target: BudgetTarget = kind === 'cost' ? { cost: number } : { keep: number };
  if (value === undefined || budgetName(target) !== name) return name;
  return kind === 'cost'
    ? `${number} of the dense cost`
    : `${Number((100 * number).toFixed(2))} % of the dense ${score}`;
}
