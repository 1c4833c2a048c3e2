// Whole forward passes on the card: a converted model's beside the dense one's, on a batch of its test data.
import type { CudaBackend } from '@d2dmoe/backend-cuda';
import { expectedDensities, thresholdRule } from '@d2dmoe/evaluation';
import { type Batch, dynamicConfig, dynamicSubstitute, type Model } from '@d2dmoe/models';
import { loadModel } from '@d2dmoe/models/node';
import * as tf from '@tensorflow/tfjs-core';
import { type Bar, holds } from '../bars.js';
import { failedRow, type Row } from '../row.js';
import type { CudaOptions } from './options.js';
import { timeInTurns, type Turns } from './timing.js';

const bar: Bar = { atMost: 1 };
const BATCH = 256;
/** Greatest relative difference of the logits with all experts, stored in 16 bits, from those of the same model run densely. */
const TOLERANCE = 0.05;

/** What is compared: folders, the batch's size, and how long. */
export interface ForwardCase {
  dense: string;
  converted: string;
  data: string;
  point?: string;
  batch?: number;
  turns?: Turns;
}

/**
 * A row for each operating point that the converted checkpoint has stored, products and experts in bf16: its time over
 * the dense model's, both replayed as CUDA graphs; a second one as called op by op. One point has the bar.
 */
export async function timeForwards(
  backend: CudaBackend,
  { dense, converted, data, point, batch: size = BATCH, turns }: ForwardCase,
): Promise<Row[]> {
  const before = backend.precision;
  const owned: { dispose(): void }[] = [];
  const own = <T extends { dispose(): void }>(one: T): T => {
    owned.push(one);
    return one;
  };
  try {
    const plain = own(await loadModel(dense));
    const experts = own(await loadModel(converted));
    const points = dynamicConfig(experts)?.calibration?.operating_points ?? {};
    const held = point ?? Object.keys(points)[0];
    if (held === undefined || points[held] === undefined) {
      throw new Error(`The converted checkpoint has no operating point ${held ?? 'at all'}.`);
    }
    const batch = await testBatch(dense, data, size);
    own({ dispose: () => tf.dispose(Object.values(batch) as tf.Tensor[]) });
    await expectExact(experts, batch);
    backend.precision = 'bf16';
    const passes: Record<string, () => tf.Tensor> = { dense: () => plain.forward(batch).logits };
    for (const [name, { tau }] of Object.entries(points)) {
      const density = await expectedDensities(experts, batch, thresholdRule(tau));
      const substitute = own(
        dynamicSubstitute(experts, {
          rule: thresholdRule(tau),
          storage: 'bfloat16',
          expectedDensity: (site) => density.get(site.name),
        }),
      );
      passes[name] = () => experts.forward(batch, { substitute }).logits;
    }
    const rows: Row[] = [];
    for (const [way, works] of [
      ['replayed', replays(backend, passes)],
      ['called', called(passes)],
    ] as const) {
      const times = await timeInTurns(backend, works.run, turns);
      works.dispose();
      const denseTimes = times['dense'] as (typeof times)[string];
      for (const [name, { cost, score }] of Object.entries(points)) {
        const ours = times[name] as (typeof times)[string];
        const value = ours.median / denseTimes.median;
        rows.push({
          name: `forward pass of ${size}, ${way}, ${name} (score ${score.toFixed(4)}, cost ${cost.toFixed(3)}): converted / dense`,
          ...(name === held && way === 'replayed' && { bar }),
          value,
          holds: name === held && way === 'replayed' ? holds(bar, value) : true,
          times: { dense: denseTimes, converted: ours },
        });
      }
    }
    return rows;
  } finally {
    for (const one of owned) one.dispose();
    backend.precision = before;
  }
}

/** The first test examples, repeated where there are fewer. */
async function testBatch(checkpoint: string, directory: string, size: number): Promise<Batch> {
  // The command's own reading of data; loaded where it is asked for, since it brings all devices with it.
  const { prepareData } = await import('d2dmoe');
  const prepared = await prepareData(checkpoint, { directory, seed: 0 });
  const batches = prepared.batches({ batchSize: 1, steps: 1 });
  for await (const { batch } of batches.evaluation('test', size)) {
    const tensors = Object.entries(batch) as [string, tf.Tensor][];
    const repeated = tensors.map(([name, tensor]) => {
      const [count = 1, ...rest] = tensor.shape;
      const whole = tf.tidy(() =>
        tf.slice(tf.tile(tensor, [Math.ceil(size / count), ...rest.map(() => 1)]), 0, size),
      );
      tensor.dispose();
      return [name, tf.keep(whole)] as const;
    });
    return Object.fromEntries(repeated) as unknown as Batch;
  }
  throw new Error('There are no test examples.');
}

/** With all experts a converted model computes what its own weights do as a dense one. */
async function expectExact(model: Model, batch: Batch): Promise<void> {
  const substitute = dynamicSubstitute(model, { rule: thresholdRule(0), storage: 'bfloat16' });
  const error = tf.tidy(() => {
    const expected = model.forward(batch).logits;
    const actual = model.forward(batch, { substitute }).logits;
    return tf.div(tf.norm(tf.sub(actual, expected)), tf.norm(expected));
  });
  substitute.dispose();
  const [relative = Number.NaN] = await error.data();
  error.dispose();
  if (!(relative <= TOLERANCE)) {
    throw new Error(`With all experts the logits differ from the dense ones by ${relative}.`);
  }
}

type Passes = Readonly<Record<string, () => tf.Tensor>>;

const called = (passes: Passes) => ({
  run: Object.fromEntries(
    Object.entries(passes).map(([name, pass]) => [name, () => tf.tidy(() => void pass())]),
  ),
  dispose() {},
});

function replays(backend: CudaBackend, passes: Passes) {
  const graphs = Object.entries(passes).map(([name, pass]) => {
    const work = () => tf.tidy(() => void pass());
    // Uploads, packing and the choice of algorithms are not part of it.
    work();
    return [name, backend.capture(work)] as const;
  });
  return {
    run: Object.fromEntries(graphs.map(([name, graph]) => [name, () => graph.launch()])),
    dispose() {
      for (const [, graph] of graphs) graph.dispose();
    },
  };
}

/** The rows of {@link timeForwards} for what the command line names. */
export async function forwardRows(
  backend: CudaBackend,
  { dense, converted, data, point }: CudaOptions,
  wanted: (name: string) => boolean,
): Promise<Row[]> {
  const plan = { name: `forward pass of ${BATCH}: converted / dense`, bar };
  if (!wanted(plan.name)) return [];
  if (dense === undefined || converted === undefined || data === undefined) {
    console.log(`left out ${plan.name}: no --dense, --converted and --data`);
    return [];
  }
  try {
    return await timeForwards(backend, {
      dense,
      converted,
      data,
      ...(point !== undefined && { point }),
    });
  } catch (error) {
    return [failedRow(plan, error)];
  }
}
