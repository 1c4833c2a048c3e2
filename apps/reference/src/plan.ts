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
  const { sparsify, split, route, taus, budgets, perLayer } = settings;
  const sample = denseCost(shape, Math.round(data.meanLength)).total;
  const seconds = (passes: number) => (passes * sample * overhead) / rate;
  // Each layer is looked at by itself at half of the thresholds, and a budget takes a few passes more.
  const layered = perLayer ? shape.layers * Math.ceil(taus.length / 2) + 16 : 0;
  const calibrations = 1 + taus.length + layered + 4 * budgets.length;
  const evaluations = 1 + taus.length + (perLayer ? 2 : 1) * budgets.length;
  const experts = shape.hidden / split.expertSize;
  const stages = [
    {
      name: 'sparsify',
      work: `${sparsify.steps} steps of ${sparsify.batchSize}, ${sparsify.regularizer}, alpha ${sparsify.alpha}`,
      seconds: seconds(3 * sparsify.steps * sparsify.batchSize),
    },
    {
      name: 'split',
      work: `${shape.layers} FFNs into ${experts} experts of ${split.expertSize}`,
      // About 20 rounds of k-means, in plain JavaScript at a billion multiply-adds per second.
      seconds: (20 * shape.layers * shape.hidden * shape.dModel * experts) / 1e9,
    },
    {
      name: 'route',
      work: `${route.steps} steps of ${route.batchSize}, routers of width ${route.width}`,
      seconds: seconds(1.5 * route.steps * route.batchSize),
    },
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
    // Three stage folders and the result, and at most one resume state of weights and two moments.
    disk: 7 * weights,
    memory: 200e6 + 5 * weights + 4 * tokens * perToken,
  };
}
