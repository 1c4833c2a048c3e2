import {
  createReplacement,
  type ImitationSample,
  ImitationTrainer,
  OutputMoments,
  replacementWidth,
  type TrainableReplacement,
} from '@d2dmoe/attention';
import { D2DMoEError, Random } from '@d2dmoe/core';
import { evaluateDense } from '@d2dmoe/evaluation';
import { type Model, replacementNames, type Site } from '@d2dmoe/models';
import { loadModel, readConfig, saveModel } from '@d2dmoe/models/node';
import type { LazyTensorEntry } from '@d2dmoe/safetensors/node';
import { regularizers, type ScheduleName, schedules } from '@d2dmoe/sparsity';
import * as tf from '@tensorflow/tfjs-core';
import type { Batches, LabelledBatch } from '../batches/batches.js';
import { deviceKey } from '../device.js';
import { evaluateFolder, reportingAs } from './calibrate.js';
import { learningRateAt } from './learning-rate.js';
import { runSteps } from './run-steps.js';
import {
  hashCheckpoint,
  type Metrics,
  requireOwnOutput,
  runStage,
  type StageOptions,
  type StageRecord,
} from './stage.js';

/** Settings of {@link attention}. */
export interface AttentionSettings {
  /** Which projections are replaced, of every layer: some of the letters q, k, v and o. */
  projections: string;
  /** Neurons per expert; hidden widths are multiples of it. */
  expertSize: number;
  steps: number;
  batchSize: number;
  /** Peak learning rate of Adam: linear warm-up over a twentieth of the steps, then a cosine to a tenth. */
  learningRate: number;
  /** Weight of square Hoyer on the replacements' activations, beside an error that is relative to the outputs' variance. */
  alpha: number;
  schedule: ScheduleName;
  /** At most this many validation samples, on which the record's last entry is measured. */
  samples?: number;
}

/** Tokens from which the outputs' principal directions are taken, and at most how many batches. */
const momentTokens = 32_768;
const momentBatches = 64;

/**
 * Replaces attention projections by two layers of the same cost that imitate them (method section 6), which can be split
 * into experts as an FFN: all are trained at once, on inputs recorded while the model runs with its own projections. The
 * record's last entry says what the validation split's score was with them, and what it is with the replacements.
 *
 * @throws D2DMoEError `PROJECTIONS_INVALID` where the settings name no projection or something else;
 *   `ALREADY_CONVERTED` where the checkpoint has been split or had projections replaced
 */
export async function attention(
  options: StageOptions,
  data: { batches: Batches; hash: string },
  settings: AttentionSettings,
): Promise<StageRecord> {
  await requireOwnOutput(options.input, options.output);
  checkProjections(settings.projections);
  if ((await readConfig(options.input))['d2dmoe'] !== undefined) {
    throw new D2DMoEError(
      'ALREADY_CONVERTED',
      `The checkpoint ${options.input} was converted already: projections are replaced before d2dmoe split, in a dense checkpoint.`,
    );
  }
  const inputs = { checkpoint: await hashCheckpoint(options.input), data: data.hash };
  return runStage(
    'attention',
    options,
    inputs,
    { ...settings, device: deviceKey() },
    async (resume) => {
      const { steps, alpha, schedule, learningRate } = settings;
      const model = await loadModel(options.input);
      const sites = model.sites.filter(({ role }) => settings.projections.includes(role));
      const state = resume.takeTensors();
      const replacements =
        resume.steps > 0
          ? resumedReplacements(sites, state)
          : await startReplacements(model, sites, data.batches, options.seed, settings);
      const trainer = new ImitationTrainer({
        replacements,
        ...(alpha > 0 && { term: regularizers.squareHoyer.term }),
      });
      try {
        if (resume.steps > 0) trainer.restore(resume.steps, state);
        tf.dispose([...state.values()]);
        const alphaAt = schedules[schedule](alpha, steps);
        const metrics = await runSteps(
          'attention',
          steps,
          resume,
          options,
          () => trainer.state(),
          async (step) => {
            const batch = await data.batches.train(step);
            const samples = record(model, batch, sites);
            const { error, sparsity } = trainer.step(samples, {
              learningRate: learningRateAt(step, steps, learningRate),
              alpha: alphaAt(step),
            });
            for (const { input, target } of samples.values()) tf.dispose([input, target]);
            return { error, ...(sparsity !== undefined && { sparsity }) };
          },
        );
        model.config['d2dmoe'] = {
          format_version: 1,
          tau: 0,
          projections: Object.fromEntries(
            Array.from(replacements, ([name, { up }]) => [name, { hidden_width: up.shape[0] }]),
          ),
          sites: {},
        };
        const extraTensors = [...replacements].flatMap(([name, own]) => entries(name, own));
        await saveModel(model, options.output, { copyFrom: options.input, extraTensors });
        return [...metrics, await kept(model, data.batches, options, settings.samples)];
      } finally {
        trainer.dispose();
        for (const { up, upBias, down, downBias } of replacements.values()) {
          tf.dispose([up, upBias, down, downBias]);
        }
        model.dispose();
      }
    },
  );
}

/** The validation score of a model with its own projections, and with the replacements that the stage has written. */
async function kept(
  model: Model,
  batches: Batches,
  options: StageOptions,
  samples?: number,
): Promise<Metrics> {
  const reporting = reportingAs(options, 'attention');
  const own = await evaluateDense(model, batches.evaluation('validation', samples), reporting);
  const replaced = await evaluateFolder(
    options.output,
    batches.evaluation('validation', samples),
    reporting,
  );
  const { name, value } = own.score;
  return { split: 'validation', [`own ${name}`]: value, [name]: replaced.score.value };
}

/**
 * @throws D2DMoEError `PROJECTIONS_INVALID` where a text is not some of the letters q, k, v and o, each once
 */
export function checkProjections(projections: string): void {
  if (/^[qkvo]+$/.test(projections) && new Set(projections).size === projections.length) return;
  throw new D2DMoEError(
    'PROJECTIONS_INVALID',
    `The projections to replace are some of the letters q, k, v and o, such as qkvo or vo, not "${projections}".`,
  );
}

async function startReplacements(
  model: Model,
  sites: readonly Site[],
  batches: Batches,
  seed: number,
  { expertSize }: AttentionSettings,
): Promise<Map<string, TrainableReplacement>> {
  const random = new Random(seed).fork('replacements');
  const moments = new Map(sites.map(({ name }) => [name, new OutputMoments()]));
  const replacements = new Map<string, TrainableReplacement>();
  try {
    let tokens = 0;
    for (let step = 0; step < momentBatches && tokens < momentTokens; step++) {
      const samples = record(model, await batches.train(step), sites);
      for (const [name, { input, target }] of samples) {
        moments.get(name)?.add(target);
        tf.dispose([input, target]);
      }
      tokens += [...samples.values()][0]?.input.shape[0] ?? 0;
    }
    for (const site of sites) {
      const { name, dIn, dOut } = site;
      const { weight, bias } = ownProjection(model, site);
      try {
        const hidden = replacementWidth({ dIn, dOut, expertSize, bias: bias !== undefined });
        const own = await (moments.get(name) as OutputMoments).read();
        const settings = { weight, bias, moments: own, hidden, expertSize };
        const start = await createReplacement({ ...settings, random: random.fork(name) });
        replacements.set(name, start);
      } finally {
        tf.dispose(bias ? [weight, bias] : weight);
      }
    }
  } finally {
    for (const own of moments.values()) own.dispose();
  }
  return replacements;
}

/** A copy of a projection's matrix and bias. */
function ownProjection(model: Model, site: Site): Matrix {
  return tf.tidy<Matrix>(() => {
    const { weight, bias } = model.projection(site);
    return {
      weight: tf.clone(weight),
      ...(bias && { bias: tf.clone(bias) }),
    };
  });
}

/** A type and not an interface, so that tf.tidy takes it for a container of tensors. */
type Matrix = { weight: tf.Tensor2D; bias?: tf.Tensor1D };

/** Replacements of the shapes in a saved state, whose values the trainer restores. */
function resumedReplacements(
  sites: readonly Site[],
  state: ReadonlyMap<string, tf.Tensor>,
): Map<string, TrainableReplacement> {
  return new Map(
    sites.map(({ name }) => {
      const variable = <R extends tf.Rank>(part: string) =>
        tf.tidy(() => tf.variable(tf.clone(state.get(`${name}.${part}`) as tf.Tensor<R>)));
      const replacement: TrainableReplacement = {
        up: variable<tf.Rank.R2>('up'),
        upBias: variable<tf.Rank.R1>('upBias'),
        down: variable<tf.Rank.R2>('down'),
        downBias: variable<tf.Rank.R1>('downBias'),
        activation: 'relu',
      };
      return [name, replacement];
    }),
  );
}

/** Runs the model and returns what its projections take and give, padding left out; disposes of the batch. */
function record(
  model: Model,
  { batch, rows }: LabelledBatch,
  sites: readonly Site[],
): Map<string, ImitationSample> {
  const names = new Set(sites.map(({ name }) => name));
  const samples = new Map<string, ImitationSample>();
  tf.tidy(() => {
    const index = rows && tf.tensor1d(rows, 'int32');
    const tokens = (x: tf.Tensor2D) => tf.keep(index ? tf.gather(x, index) : tf.clone(x));
    model.forward(batch, {
      tap: ({ name }, { input, output }) => {
        if (names.has(name)) samples.set(name, { input: tokens(input), target: tokens(output) });
      },
    });
  });
  tf.dispose(batch as unknown as tf.TensorContainer);
  return samples;
}

/** A replacement's tensors as the checkpoint holds them. */
function entries(site: string, weights: TrainableReplacement): LazyTensorEntry[] {
  const names = replacementNames(site);
  const entry = (name: string, tensor: tf.Tensor): LazyTensorEntry => ({
    name,
    dtype: 'F32',
    shape: tensor.shape,
    data: () => tensor.data<'float32'>(),
  });
  const [hidden, dOut] = weights.down.shape;
  return [
    entry(names.up, weights.up),
    entry(names.upBias, weights.upBias),
    {
      ...entry(names.down, weights.down),
      shape: [dOut, hidden],
      data: async () => {
        const transposed = tf.transpose(weights.down);
        const values = await transposed.data<'float32'>();
        transposed.dispose();
        return values;
      },
    },
    entry(names.downBias, weights.downBias),
  ];
}
