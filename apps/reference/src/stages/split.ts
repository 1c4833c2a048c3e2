import { balancedKMeans, expertCount } from '@d2dmoe/clustering';
import { Random } from '@d2dmoe/core';
import { type Model, readArchitecture, type Site } from '@d2dmoe/models';
import { loadModel, readConfig, saveModel } from '@d2dmoe/models/node';
import * as tf from '@tensorflow/tfjs-core';
import type { Resume } from './resume.js';
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
  /** Neurons per expert; divides the FFN's hidden width. */
  expertSize: number;
}

/**
 * Splits every FFN into experts (method section 3): neurons are grouped by balanced k-means over their rows of W1 (of
 * the gate for a GLU) and reordered so that an expert's neurons are neighbours. The dense function is unchanged.
 */
export async function split(options: StageOptions, settings: SplitSettings): Promise<StageRecord> {
  await requireOwnOutput(options.input, options.output);
  const { shape } = readArchitecture(await readConfig(options.input));
  expertCount(shape.hidden, settings.expertSize);
  const inputs = { checkpoint: await hashCheckpoint(options.input) };
  return runStage('split', options, inputs, { ...settings }, async (resume) => {
    const model = await loadModel(options.input);
    try {
      const metrics = await splitModel(model, settings, options, resume);
      await saveModel(model, options.output, { copyFrom: options.input });
      return metrics;
    } finally {
      model.dispose();
    }
  });
}

async function splitModel(
  model: Model,
  { expertSize }: SplitSettings,
  { seed, onProgress, signal }: StageOptions,
  resume: Resume,
): Promise<Metrics[]> {
  const sites = model.sites.filter((site) => site.kind === 'feedForward');
  const orders = resume.takeTensors();
  const metrics: Metrics[] = [...resume.metrics];
  for (const [index, site] of sites.entries()) {
    if (!orders.has(site.name)) {
      const { order, objective } = await splitSite(model, site, expertSize, seed, signal);
      orders.set(site.name, tf.tensor1d(order));
      metrics.push({ site: site.name, experts: site.hidden / expertSize, objective });
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
    sites: Object.fromEntries(sites.map((site) => [site.name, { expert_size: expertSize }])),
  };
  return metrics;
}

async function splitSite(
  model: Model,
  site: Site,
  expertSize: number,
  seed: number,
  signal: AbortSignal | undefined,
): Promise<{ order: Float32Array; objective: number }> {
  const rows = tf.tidy(() => {
    const { gate, up } = model.weights(site);
    return tf.clone(gate ?? up);
  });
  const values = (await rows.data()) as Float32Array;
  rows.dispose();
  const result = await balancedKMeans({
    rows: values,
    count: site.hidden,
    dimension: site.dIn,
    clusterSize: expertSize,
    random: new Random(seed).fork(`split ${site.name}`),
    ...(signal ? { signal } : {}),
  });
  return { order: Float32Array.from(result.order), objective: result.objective ?? Number.NaN };
}
