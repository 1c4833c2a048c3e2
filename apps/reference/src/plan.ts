import { denseCost } from '@d2dmoe/evaluation';
import type { ModelShape } from '@d2dmoe/models';
import * as tf from '@tensorflow/tfjs-core';
import type { ConvertSettings } from './defaults.js';

/** What a conversion will do and about what it will take. */
export interface Plan {
  /** Per stage: what it does, and estimated seconds. */
  stages: { name: string; work: string; seconds: number }[];
  /** Estimated seconds of all stages. */
  seconds: number;
  /** Bytes on disk when all is written. */
  disk: number;
  /** Bytes of memory at the peak of training. */
  memory: number;
}

/** Sizes of the data that a plan depends on. */
export interface PlanData {
  meanLength: number;
  validation: number;
  test: number;
}

/** What a step does besides matrix products takes about this much longer than the products alone. */
const overhead = 1.4;

/** Multiply-adds per second of the current backend, measured on one product. */
export async function measureRate(): Promise<number> {
  const size = 384;
  const a = tf.ones<tf.Rank.R2>([size, size]);
  let best = Number.POSITIVE_INFINITY;
  for (let run = 0; run < 4; run++) {
    const start = performance.now();
    const product = tf.matMul(a, a);
    await product.data();
    product.dispose();
    best = Math.min(best, performance.now() - start);
  }
  a.dispose();
  return size ** 3 / (best / 1000);
}

/** Plans a conversion from the model's shape, the data's size and the device's rate in multiply-adds per second. */
export function planConversion(
  shape: ModelShape,
  parameters: number,
  data: PlanData,
  settings: ConvertSettings,
  rate: number,
): Plan {
  const { sparsify, attention, split, route, finetune, taus, budgets, perLayer } = settings;
  const sample = denseCost(shape, Math.round(data.meanLength)).total;
  const seconds = (passes: number) => (passes * sample * overhead) / rate;
  // Each layer is looked at by itself at half of the thresholds, and a budget takes a few passes more.
  const sites = shape.layers * (1 + attention.projections.length);
  const layered = perLayer ? sites * Math.ceil(taus.length / 2) + 16 : 0;
  const calibrations = 1 + taus.length + layered + 4 * budgets.length;
  const evaluations = 1 + taus.length + (perLayer ? 2 : 1) * budgets.length;
  const experts = shape.hidden / split.expertSize;
  // Forward and backward pass, and the teacher's forward pass.
  const training = ({ steps, batchSize, distill }: typeof finetune | typeof sparsify) =>
    seconds((distill > 0 ? 4 : 3) * steps * batchSize);
  const stages = [
    ...(sparsify.steps === 0
      ? []
      : [
          {
            name: 'sparsify',
            work: `${sparsify.steps} steps of ${sparsify.batchSize}, ${sparsify.regularizer}, alpha ${sparsify.alpha}`,
            seconds: training(sparsify),
          },
        ]),
    ...(attention.projections === ''
      ? []
      : [
          {
            name: 'attention',
            work: `${attention.steps} steps of ${attention.batchSize}, ${shape.layers * attention.projections.length} projections (${attention.projections})`,
            // The pass that records, and the replacements' own three.
            seconds: seconds(2.5 * attention.steps * attention.batchSize),
          },
        ]),
    {
      name: 'split',
      work: `${shape.layers} FFNs into ${experts} experts of ${split.expertSize}${attention.projections === '' ? '' : ', projections likewise'}`,
      // About 20 rounds of k-means, in plain JavaScript at a billion multiply-adds per second.
      seconds: (20 * shape.layers * shape.hidden * shape.dModel * experts) / 1e9,
    },
    {
      name: 'route',
      work: `${route.steps} steps of ${route.batchSize}, routers of width ${route.width}`,
      seconds: seconds(1.5 * route.steps * route.batchSize),
    },
    ...(finetune.steps === 0
      ? []
      : [
          {
            name: 'finetune',
            work: `${finetune.steps} steps of ${finetune.batchSize} through the selected experts`,
            seconds: training(finetune),
          },
        ]),
    {
      name: 'calibrate',
      work: `about ${calibrations} passes over ${data.validation} validation samples`,
      seconds: seconds(calibrations * data.validation),
    },
    {
      name: 'evaluate',
      work: `${evaluations} passes over ${data.test} test samples`,
      seconds: seconds(evaluations * data.test),
    },
  ];
  const weights = 4 * parameters;
  const tokens = sparsify.batchSize * data.meanLength;
  const perToken =
    shape.layers * (12 * shape.dModel + 4 * shape.hidden + 3 * shape.heads * data.meanLength) +
    (shape.outputPositions === 'all' ? 4 * shape.outputs : 0);
  return {
    stages,
    seconds: stages.reduce((sum, stage) => sum + stage.seconds, 0),
    // A folder for each stage but evaluate, and at most one resume state of weights and two moments.
    disk: (stages.length - 1 + 3) * weights,
    // Weights, gradients, two moments, what is on its way, and the teacher.
    memory: 200e6 + 6 * weights + 4 * tokens * perToken,
  };
}
