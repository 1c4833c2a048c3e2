import { stat } from 'node:fs/promises';
import { join } from 'node:path';
import { Random } from '@d2dmoe/core';
import { Adam } from '@d2dmoe/kernels';
import { initModel } from '@d2dmoe/models';
import { saveModel } from '@d2dmoe/models/node';
import { makeFolder, writeFileAtomic } from '@d2dmoe/safetensors/node';
import { type Conversion, convert, type ConvertOptions } from '../convert.js';
import { learningRateAt } from '../stages/learning-rate.js';
import { prepareData } from '../stages/prepare.js';
import { runSteps } from '../stages/run-steps.js';
import { restoreTraining, trainStep } from '../stages/train-step.js';
import { runStage, type StageOptions } from '../stages/stage.js';
import { shapeNames } from './shapes.js';
import { writeShapes } from './write-shapes.js';

/** What {@link demo} takes. */
export type DemoOptions = Omit<ConvertOptions, 'input' | 'data'>;

/** What the demo gave. */
export type DemoResult = Conversion;

const imageSize = 16;

/** A small ViT for the demo's images, in the fields of a Hugging Face config.json. */
const config = {
  architectures: ['ViTForImageClassification'],
  // As saving writes it, so that the file's bytes, which the stages hash, are the same before and after training.
  dtype: 'float32',
  model_type: 'vit',
  hidden_size: 64,
  num_hidden_layers: 3,
  num_attention_heads: 4,
  intermediate_size: 256,
  hidden_act: 'gelu',
  layer_norm_eps: 1e-6,
  image_size: imageSize,
  patch_size: 4,
  num_channels: 3,
  qkv_bias: true,
  id2label: Object.fromEntries(shapeNames.map((name, i) => [i, name])),
  label2id: Object.fromEntries(shapeNames.map((name, i) => [name, i])),
};

const preprocessor = {
  image_processor_type: 'ViTImageProcessor',
  do_resize: true,
  size: { height: imageSize, width: imageSize },
  resample: 2,
  do_rescale: true,
  rescale_factor: 1 / 255,
  do_normalize: true,
  image_mean: [0.5, 0.5, 0.5],
  image_std: [0.5, 0.5, 0.5],
};

const training = { steps: 1000, batchSize: 64, learningRate: 2e-3 };

/** Settings of the demo's conversion. */
const settings: NonNullable<ConvertOptions['settings']> = {
  sparsify: { steps: 200, batchSize: 64, learningRate: 1e-3, alpha: 2e-3 },
  split: { expertSize: 8 },
  route: { steps: 300, batchSize: 64, width: 16 },
};

/**
 * The main job on a data set and a model of its own, without network: draws labelled images of shapes from the seed,
 * trains a small ViT on them, and converts it. Everything is written into `output`.
 */
export async function demo(options: DemoOptions): Promise<DemoResult> {
  const images = join(options.output, 'images');
  const dense = join(options.output, 'dense');
  const random = new Random(options.seed);
  if (!(await stat(images).catch(() => undefined))) {
    await makeFolder(options.output);
    await writeShapes(images, {
      train: 6000,
      validation: 1000,
      test: 1000,
      size: imageSize,
      random: random.fork('images'),
    });
  }
  const data = { directory: images, seed: options.seed };
  await trainDense({ ...options, output: dense }, data, random);
  return convert({
    ...options,
    input: dense,
    output: join(options.output, 'converted'),
    data,
    settings: { ...settings, ...options.settings },
  });
}

/** Trains the demo's dense model from scratch, as a stage: it is skipped where it is done, and resumes. */
async function trainDense(
  options: Omit<StageOptions, 'input'>,
  dataOptions: { directory: string; seed: number },
  random: Random,
): Promise<void> {
  const { output } = options;
  await makeFolder(output);
  const json = (value: unknown) => `${JSON.stringify(value, undefined, 2)}\n`;
  await writeFileAtomic(join(output, 'config.json'), json(config));
  await writeFileAtomic(join(output, 'preprocessor_config.json'), json(preprocessor));
  const data = await prepareData(output, dataOptions);
  const stage = { ...options, input: output };
  const { steps, batchSize, learningRate } = training;
  await runStage(
    'train',
    stage,
    { data: data.dataset.hash },
    { ...config, ...training },
    async (resume) => {
      const model = initModel(config, random.fork('weights'));
      const adam = new Adam(model.params, { weightDecay: 0.05 });
      const batches = data.batches({ batchSize, steps });
      try {
        restoreTraining(model, adam, resume.steps, resume.takeTensors());
        const metrics = await runSteps(
          'train',
          steps,
          resume,
          options,
          () => new Map([...model.params, ...adam.state()]),
          async (step) => {
            const rate = learningRateAt(step, steps, learningRate);
            return trainStep(model, adam, await batches.train(step), rate);
          },
        );
        await saveModel(model, output, {});
        return metrics;
      } finally {
        adam.dispose();
        model.dispose();
      }
    },
  );
}
