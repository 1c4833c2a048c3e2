import { join } from 'node:path';
import { D2DMoEError, Random } from '@d2dmoe/core';
import { type Architecture, readArchitecture } from '@d2dmoe/models';
import { loadImageProcessor, loadTokenizer, readConfig } from '@d2dmoe/models/node';
import type { Batches } from '../batches/batches.js';
import { imageBatches, imageDecoder } from '../batches/image-batches.js';
import { languageBatches } from '../batches/language-batches.js';
import { textBatches } from '../batches/text-batches.js';
import { tokenIds } from '../batches/token-ids.js';
import {
  type ColumnNames,
  loadDataset,
  type Task,
  type TaskExamples,
  type Dataset,
} from '../data/index.js';

/** A checkpoint's architecture and a data folder read for it. */
export interface PreparedData {
  architecture: Architecture;
  dataset: Dataset<TaskExamples[Task]>;
  /**
   * Batches for training of `steps` steps and for evaluation. Images are changed at random where `augment`; they are
   * mixed too where `distill` says that the loss does not ask for their labels.
   */
  batches(settings: {
    batchSize: number;
    steps: number;
    augment?: boolean;
    distill?: number;
  }): Batches;
}

/** Where the data are and how their columns are called. */
export interface DataOptions {
  directory: string;
  columns?: ColumnNames;
  seed: number;
}

/** Reads a data folder for the task of the checkpoint in `checkpoint`, whose tokenizer or image processor it uses. */
export async function prepareData(checkpoint: string, options: DataOptions): Promise<PreparedData> {
  const config = await readConfig(checkpoint);
  const architecture = readArchitecture(config);
  const { task, shape, labels } = architecture;
  const random = new Random(options.seed).fork('data');
  const reading = {
    random,
    ...(options.columns && { columns: options.columns }),
    ...(labels && { labels }),
    ...(task !== 'text-generation' && { classes: shape.outputs }),
  };
  switch (task) {
    case 'image-classification': {
      const dataset = await loadDataset(options.directory, task, reading);
      const pixelsOf = imageDecoder(await loadImageProcessor(checkpoint));
      return {
        architecture,
        dataset,
        batches: ({ batchSize, augment = false, distill = 0 }) => {
          const image = {
            side: numberField(config, 'image_size') ?? 224,
            positions: shape.maxPositions,
            augment,
            mix: augment && distill === 1,
          };
          return imageBatches(dataset, pixelsOf, image, batchSize, random);
        },
      };
    }
    case 'text-classification': {
      const dataset = await loadDataset(options.directory, task, reading);
      const tokenizer = await loadTokenizer(checkpoint);
      const idsOf = tokenIds(tokenizer, { maxLength: shape.maxPositions });
      const padding = numberField(config, 'pad_token_id') ?? 0;
      return {
        architecture,
        dataset,
        batches: ({ batchSize }) => textBatches(dataset, idsOf, padding, batchSize, random),
      };
    }
    default: {
      const dataset = await loadDataset(options.directory, task, reading);
      const idsOf = tokenIds(await loadTokenizer(checkpoint));
      const first = numberField(config, 'bos_token_id') ?? numberField(config, 'eos_token_id');
      if (first === undefined) {
        throw new D2DMoEError(
          'CONFIG_INVALID',
          `${join(checkpoint, 'config.json')} names neither bos_token_id nor eos_token_id; one is needed to begin each document with.`,
        );
      }
      const blockLength = Math.min(shape.maxPositions, 1024);
      return {
        architecture,
        dataset,
        batches: ({ batchSize, steps }) =>
          languageBatches(dataset, idsOf, first, blockLength, batchSize, steps, random),
      };
    }
  }
}

function numberField(config: Record<string, unknown>, name: string): number | undefined {
  const value = config[name];
  return typeof value === 'number' ? value : undefined;
}
