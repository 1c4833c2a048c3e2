import { balancedKMeans, coActivationSplit, expertCount, type Split } from '@d2dmoe/clustering';
import { Random } from '@d2dmoe/core';
import { type Model, readArchitecture, type Site } from '@d2dmoe/models';
import { loadModel, readConfig, saveModel } from '@d2dmoe/models/node';
import * as tf from '@tensorflow/tfjs-core';
import type { Batches } from '../batches/batches.js';
import { sample } from '../batches/order.js';
import type { Resume } from './resume.js';
import { deviceKey } from '../device.js';
import { projectionsOf } from './sites.js';
import {
  hashCheckpoint,
  requireOwnOutput,
  type Metrics,
  runStage,
  type StageOptions,
  type StageRecord,
} from './stage.js';

/** Settings of {@link split}. */
export interface SplitSettings {
  /** Neurons per expert; divides the hidden widths of FFNs and replaced projections. */
  expertSize: number;
  /** What makes neurons an expert: rows of weights that are alike, or being active for the same tokens. */
  by: 'weights' | 'coActivation';
}

/**
 * Splits every FFN into experts (method section 3): neurons are grouped by balanced k-means over their rows of W1 (of
 * the gate for a GLU) and reordered so that an expert's neurons are neighbours. The dense function is unchanged. The
 * neurons of replaced projections are in order of their importance already; each run of them is an expert.
 */
export async function split(
  options: StageOptions,
  data: { batches: Batches; hash: string },
  settings: SplitSettings,
): Promise<StageRecord> {
  await requireOwnOutput(options.input, options.output);
  const { sites } = readArchitecture(await readConfig(options.input));
  for (const { hidden } of sites) if (hidden > 0) expertCount(hidden, settings.expertSize);
  const inputs = {
    checkpoint: await hashCheckpoint(options.input),
    ...(settings.by === 'coActivation' && { data: data.hash, device: deviceKey() }),
  };
  return runStage('split', options, inputs, { ...settings }, async (resume) => {
    const model = await loadModel(options.input);
    try {
      const metrics = await splitModel(model, settings, options, resume, data.batches);
      await saveModel(model, options.output, { copyFrom: options.input });
      return metrics;
    } finally {
      model.dispose();
    }
  });
}

async function splitModel(
  model: Model,
  { expertSize, by }: SplitSettings,
  { seed, onProgress, signal }: StageOptions,
  resume: Resume,
  batches: Batches,
): Promise<Metrics[]> {
  const sites = model.sites.filter((site) => site.kind === 'feedForward');
  const orders = resume.takeTensors();
  const metrics: Metrics[] = [...resume.metrics];
  const isDone = sites.every(({ name }) => orders.has(name));
  const recorded =
    by === 'coActivation' && !isDone
      ? await recordActivations(model, sites, batches, new Random(seed).fork('split tokens'))
      : undefined;
  for (const [index, site] of sites.entries()) {
    if (!orders.has(site.name)) {
      const random = new Random(seed).fork(`split ${site.name}`);
      const activations = recorded?.get(site.name);
      const { order, objective } =
        activations === undefined
          ? await splitByWeights(model, site, expertSize, random, signal)
          : await coActivationSplit({
              activations,
              tokens: activations.length / site.hidden,
              count: site.hidden,
              expertSize,
              cosine: true,
              random,
              ...(signal && { signal }),
            });
      orders.set(site.name, tf.tensor1d(Float32Array.from(order)));
      metrics.push({
        site: site.name,
        experts: site.hidden / expertSize,
        objective: objective ?? Number.NaN,
      });
      await resume.save(index + 1, orders, metrics);
    }
    const order = orders.get(site.name) as tf.Tensor;
    model.permuteNeurons(site, Uint32Array.from(await order.data()));
    onProgress?.({
      status: 'progress',
      name: 'split',
      progress: (100 * (index + 1)) / sites.length,
      step: index + 1,
      steps: sites.length,
    });
  }
  tf.dispose([...orders.values()]);
  model.config['d2dmoe'] = {
    format_version: 1,
    tau: 0,
    ...projectionsOf(model),
    sites: Object.fromEntries(
      model.sites
        .filter(({ hidden }) => hidden > 0)
        .map((site) => [site.name, { expert_size: expertSize }]),
    ),
  };
  return metrics;
}

async function splitByWeights(
  model: Model,
  site: Site,
  expertSize: number,
  random: Random,
  signal: AbortSignal | undefined,
): Promise<Split> {
  const rows = tf.tidy(() => {
    const { gate, up } = model.weights(site);
    return tf.clone(gate ?? up);
  });
  const values = (await rows.data()) as Float32Array;
  rows.dispose();
  return await balancedKMeans({
    rows: values,
    count: site.hidden,
    dimension: site.dIn,
    expertSize,
    random,
    ...(signal && { signal }),
  });
}

/** Training batches whose activations say which neurons belong together, and how many tokens of each, drawn by seed. */
const recordedBatches = 16;
const tokensPerBatch = 256;

/** Each site's activations in magnitude, [tokens, hidden], on training data; the model runs densely. */
async function recordActivations(
  model: Model,
  sites: readonly Site[],
  batches: Batches,
  random: Random,
): Promise<Map<string, Float32Array>> {
  const parts = new Map<string, tf.Tensor2D[]>(sites.map(({ name }) => [name, []]));
  try {
    for (let step = 0; step < recordedBatches; step++) {
      const { batch, rows } = await batches.train(step);
      const draws = random.fork(step);
      tf.tidy(() => {
        let index: tf.Tensor1D | undefined;
        model.forward(batch, {
          tap: ({ name }, { hidden }) => {
            const own = parts.get(name);
            if (own === undefined || hidden === undefined) return;
            index ??= drawRows(rows, hidden.shape[0], draws);
            own.push(tf.keep(tf.abs(tf.gather(hidden, index))));
          },
        });
      });
      tf.dispose({ ...batch });
    }
    const recorded = new Map<string, Float32Array>();
    for (const [name, own] of parts) {
      const joined = tf.concat(own, 0);
      recorded.set(name, (await joined.data()) as Float32Array);
      joined.dispose();
    }
    return recorded;
  } finally {
    tf.dispose([...parts.values()]);
  }
}

/** Some of a batch's rows that are tokens. */
function drawRows(rows: Int32Array | undefined, all: number, random: Random): tf.Tensor1D {
  const drawn = sample(rows?.length ?? all, tokensPerBatch, random);
  return tf.tensor1d(
    Int32Array.from(drawn, (at) => rows?.[at] ?? at),
    'int32',
  );
}
