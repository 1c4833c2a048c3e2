import { denseFeedForward } from '@d2dmoe/backend-webgpu';
import { dynamicKExperts, packExperts } from '@d2dmoe/kernels';
import type { WebGPUBackend } from '@tensorflow/tfjs-backend-webgpu';
import * as tf from '@tensorflow/tfjs-core';
import { type Bar, holds } from '../bars.js';
import { worstRowError } from '../check.js';
import type { Reference } from '../reference.js';
import { failedRow, type Row } from '../row.js';
import type { Times } from '../statistics.js';
import {
  type ExpertsWorkload,
  type FeedForwardShape,
  type FeedForwardValues,
  feedForwardValues,
  selectedExperts,
  selectionMasks,
} from '../workload.js';
import type { Peaks } from './peaks.js';
import { finished, timeInTurns, type Turns, type Work } from './timing.js';

/** One layer for so many rows, at one share of its experts. */
export interface FeedForwardCase {
  rows: number;
  dModel: number;
  hidden: number;
  expertSize: number;
  fraction: number;
  /** How many times faster than tfjs's dense FFN our op has to be. */
  overTfjs?: number;
  /** The most that it may take of our own dense FFN's time. */
  ofDense?: number;
}

const layer = { dModel: 768, hidden: 3072, expertSize: 128 };

export const feedForwardCases: readonly FeedForwardCase[] = [
  { ...layer, rows: 1, fraction: 0.4, overTfjs: 5 },
  { ...layer, rows: 197, fraction: 0.4, overTfjs: 3 },
  { ...layer, rows: 6304, fraction: 0.2, overTfjs: 4, ofDense: 0.35 },
  { ...layer, rows: 6304, fraction: 0.4, ofDense: 0.55 },
  { ...layer, expertSize: 32, rows: 6304, fraction: 0.2 },
];

/** The cases of a first look. */
export const smallFeedForwardCases: readonly FeedForwardCase[] = [
  { dModel: 64, hidden: 128, expertSize: 16, rows: 1, fraction: 0.5 },
  { dModel: 64, hidden: 128, expertSize: 16, rows: 40, fraction: 0.25, ofDense: 100 },
];

const SAMPLED_ROWS = 4;
const TOLERANCES = { float32: 1e-5, float16: 2e-3 };

/** Another library's dense FFN, for one layer. */
export interface DensePeer {
  work: Work;
  result: () => Promise<Float32Array>;
  dispose: () => Promise<void>;
}

/** Has a library of a page prepare its dense FFN. */
export type PreparePeer = (
  shape: FeedForwardShape,
  values: FeedForwardValues,
) => Promise<DensePeer>;

type Label = 'onnxruntime-webgpu' | 'tfjs-webgpu' | 'wgsl-dense' | 'd2dmoe' | 'd2dmoe-float16';

/**
 * Checks every participant against float64 on some rows, then times them in turns.
 *
 * @param wanted Says by their names which rows are measured.
 * @param preparePeer onnxruntime-web, where it runs.
 */
export async function feedForwardRows(
  backend: WebGPUBackend,
  layerCase: FeedForwardCase,
  peaks: Peaks,
  turns: Turns,
  wanted: (name: string) => boolean,
  preparePeer?: PreparePeer,
): Promise<Row[]> {
  const plans = plansOf(layerCase, peaks, preparePeer !== undefined).filter(({ name }) =>
    wanted(name),
  );
  if (plans.length === 0) return [];
  try {
    const times = await timeCase(backend, layerCase, turns, preparePeer);
    return plans.map(({ name, bar, value, labels }) => {
      const measured = value(times);
      if (!Number.isFinite(measured)) {
        return failedRow({ name, ...(bar && { bar }) }, "The device's rate is not known.");
      }
      return {
        name,
        ...(bar && { bar }),
        value: measured,
        holds: bar === undefined || holds(bar, measured),
        times: Object.fromEntries(labels.map((label) => [label, times[label]])),
      };
    });
  } catch (error) {
    return plans.map((plan) => failedRow(plan, error));
  }
}

interface Plan {
  name: string;
  bar?: Bar;
  labels: Label[];
  value: (times: Record<Label, Times>) => number;
}

function plansOf(layerCase: FeedForwardCase, peaks: Peaks, hasPeer: boolean): Plan[] {
  const { rows, dModel, hidden, expertSize, fraction, overTfjs, ofDense } = layerCase;
  const name = `ffn ${dModel} to ${hidden}, experts of ${expertSize}, ${rows} rows, f ${fraction}`;
  const ratio = (over: Label, by: Label, bar?: Bar): Plan => ({
    name: `${name}: ${over} / ${by}`,
    ...(bar && { bar }),
    labels: [over, by],
    value: (times) => times[over].median / times[by].median,
  });
  const selected = (selectedExperts(workloadOf(layerCase)) * expertSize) / hidden;
  const multiplyAdds = 2 * rows * hidden * dModel;
  const ofArithmetic = (label: Label, share: number): Plan => ({
    name: `${name}: ${label}, share of this device's float32 rate`,
    labels: [label],
    value: (times) =>
      (2 * multiplyAdds * share) / times[label].median / peaks.operationsPerMillisecond,
  });
  const ofBandwidth = (label: Label, share: number): Plan => ({
    name: `${name}: ${label}, its weights once over a copy's bytes in that time`,
    labels: [label],
    value: (times) =>
      (2 * hidden * dModel * 4 * share) / times[label].median / peaks.bytesPerMillisecond,
  });
  return [
    ratio('tfjs-webgpu', 'd2dmoe', overTfjs === undefined ? undefined : { atLeast: overTfjs }),
    ratio('d2dmoe', 'wgsl-dense', ofDense === undefined ? undefined : { atMost: ofDense }),
    ratio('tfjs-webgpu', 'wgsl-dense'),
    ratio('d2dmoe-float16', 'd2dmoe'),
    ...(hasPeer ? [ratio('onnxruntime-webgpu', 'd2dmoe')] : []),
    ...(rows === 1
      ? [ofBandwidth('d2dmoe', selected)]
      : [ofArithmetic('d2dmoe', selected), ofArithmetic('wgsl-dense', 1)]),
  ];
}

const workloadOf = (layerCase: FeedForwardCase): ExpertsWorkload => ({
  kind: 'experts',
  gated: false,
  ...layerCase,
});

async function timeCase(
  backend: WebGPUBackend,
  layerCase: FeedForwardCase,
  turns: Turns,
  preparePeer: PreparePeer | undefined,
): Promise<Record<Label, Times>> {
  const { rows, dModel, hidden, expertSize, fraction } = layerCase;
  const values = feedForwardValues({ rows, dModel, hidden, gated: false });
  const masks = selectionMasks(workloadOf(layerCase));
  const x = tf.tensor2d(values.x, [rows, dModel]);
  const weights = {
    up: tf.tensor2d(values.up, [hidden, dModel]),
    upBias: tf.tensor1d(values.upBias as Float32Array),
    down: tf.tensor2d(values.down, [hidden, dModel]),
    downBias: tf.tensor1d(values.downBias as Float32Array),
    activation: 'relu' as const,
  };
  const { up, upBias, down, downBias } = weights;
  // tfjs multiplies fastest by [inner, columns].
  const upward = tf.transpose<tf.Tensor2D>(up);
  const packed = packExperts(weights, expertSize);
  const packed16 = packExperts(weights, expertSize, { storage: 'float16' });
  const selections = masks.map((mask) => tf.tensor2d(mask, [rows, hidden / expertSize], 'bool'));
  const selection = (run: number) => selections[run % selections.length] as tf.Tensor2D;
  const expectedDensity = fraction;
  const ours: Partial<Record<Label, (run: number) => tf.Tensor2D>> = {
    'tfjs-webgpu': () =>
      tf.tidy(() => {
        const up = { a: x, b: upward, bias: upBias, activation: 'relu' } as const;
        const activated = tf.fused.matMul(up) as tf.Tensor2D;
        return tf.fused.matMul({ a: activated, b: down, bias: downBias }) as tf.Tensor2D;
      }),
    'wgsl-dense': () => denseFeedForward(x, weights),
    d2dmoe: (run) => dynamicKExperts(x, selection(run), packed, { expectedDensity }),
    'd2dmoe-float16': (run) => dynamicKExperts(x, selection(run), packed16, { expectedDensity }),
  };
  const works: Record<string, Work> = {};
  const finish = () => finished(backend);
  let peer: DensePeer | undefined;
  try {
    for (const [label, work] of Object.entries(ours)) {
      const mask = label.startsWith('d2dmoe') ? (masks[0] as Uint8Array) : undefined;
      const out = work(0);
      expectRight(label, await out.data<'float32'>(), layerCase, values, mask);
      out.dispose();
      works[label] = { run: (run) => work(run).dispose(), finish };
    }
    peer = await preparePeer?.({ rows, dModel, hidden, gated: false }, values);
    if (peer) {
      expectRight('onnxruntime-webgpu', await peer.result(), layerCase, values, undefined);
      works['onnxruntime-webgpu'] = peer.work;
    }
    return await timeInTurns(works, turns);
  } finally {
    await peer?.dispose();
    packed.dispose();
    packed16.dispose();
    tf.dispose([x, up, upBias, down, downBias, upward, ...selections]);
  }
}

/** @throws Error that says how far some row is off */
function expectRight(
  label: string,
  actual: Float32Array,
  { rows, dModel, hidden, expertSize }: FeedForwardCase,
  values: FeedForwardValues,
  mask: Uint8Array | undefined,
): void {
  const tolerance = TOLERANCES[label.endsWith('float16') ? 'float16' : 'float32'];
  for (let i = 0; i < Math.min(rows, SAMPLED_ROWS); i++) {
    const row = Math.floor((i * (rows - 1)) / Math.max(1, Math.min(rows, SAMPLED_ROWS) - 1));
    const expected = rowInFloat64(values, row, dModel, hidden, (neuron) => {
      return mask === undefined || mask[((row * hidden + neuron) / expertSize) | 0] === 1;
    });
    const error = worstRowError(actual.subarray(row * dModel, (row + 1) * dModel), expected);
    if (!(error <= tolerance)) {
      throw new Error(
        `A wrong result: row ${row} of ${label} is off by ${error.toExponential(1)} of its norm; ${tolerance} is allowed.`,
      );
    }
  }
}

function rowInFloat64(
  { x, up, upBias, down, downBias }: FeedForwardValues,
  row: number,
  dModel: number,
  hidden: number,
  isRun: (neuron: number) => boolean,
): Reference {
  const values = Float64Array.from(downBias as Float32Array);
  for (let neuron = 0; neuron < hidden; neuron++) {
    if (!isRun(neuron)) continue;
    let sum = upBias?.[neuron] as number;
    for (let i = 0; i < dModel; i++) {
      sum += (x[row * dModel + i] as number) * (up[neuron * dModel + i] as number);
    }
    if (sum <= 0) continue;
    for (let i = 0; i < dModel; i++) {
      values[i] = (values[i] as number) + sum * (down[neuron * dModel + i] as number);
    }
  }
  return { values, columns: dModel };
}
