import { setImmediate } from 'node:timers/promises';
import { D2DMoEError } from '@d2dmoe/core';
import { CostModel } from '@d2dmoe/evaluation';
import type { Batch, Model } from '@d2dmoe/models';
import { loadImageProcessor, loadTokenizer } from '@d2dmoe/models/node';
import * as tf from '@tensorflow/tfjs-core';
import { runModel } from './run-model.js';
import type { SelectionArguments } from './selection.js';

/** What {@link classify} takes. */
export interface ClassifyOptions extends SelectionArguments {
  /** Folder of a classifier, dense or converted, with its tokenizer.json or preprocessor_config.json. */
  checkpoint: string;
  /** Texts, or paths of image files. */
  inputs: readonly string[];
  /** Ends the work before the next input: the promise is rejected with the signal's reason. */
  signal?: AbortSignal;
}

/** What one input was taken for. */
export interface Classification {
  input: string;
  /** Positions that the model saw: tokens of a text, patches of an image and the class token. */
  tokens: number;
  /** Whether a text was cut at the model's last position. */
  truncated: boolean;
  /** Every class, likeliest first. */
  classes: { label: string; probability: number }[];
}

/** What {@link classify} gives. */
export interface ClassifyResult {
  /** One for each input, in their order. */
  classifications: Classification[];
  /** Multiply-adds executed over all inputs, relative to the dense model. */
  cost: number;
}

/** An input as a model takes it. The caller disposes the batch. */
interface Encoded {
  batch: Batch;
  tokens: number;
  truncated: boolean;
}

/**
 * Classifies texts or image files, each by itself. A tfjs backend must have been chosen, see `useDevice`.
 *
 * @throws D2DMoEError `INPUT_INVALID` for a checkpoint that is no classifier; `IMAGE_INVALID`; `NOT_CONVERTED`; what
 *   loading throws
 */
export async function classify(options: ClassifyOptions): Promise<ClassifyResult> {
  const { checkpoint, inputs, signal } = options;
  const tasks = ['text-classification', 'image-classification'] as const;
  const running = await runModel(checkpoint, tasks, options);
  const { model } = running;
  try {
    const encode = await encoder(checkpoint, model);
    const classifications: Classification[] = [];
    for (const input of inputs) {
      const { batch, ...rest } = await encode(input);
      const output = tf.tidy(() => tf.softmax(model.forward(batch, running.options).logits));
      const probabilities = await output.data();
      tf.dispose([output, ...Object.values(batch)]);
      const classes = Array.from(probabilities, (probability, i) => ({
        label: model.labels?.[i] as string,
        probability,
      })).sort((a, b) => b.probability - a.probability);
      classifications.push({ input, ...rest, classes });
      // A pass takes no turn of the event loop, and an abort could never arrive.
      await setImmediate();
      signal?.throwIfAborted();
    }
    const executed = await running.executed();
    const lengths = classifications.map(({ tokens }) => tokens);
    const cost =
      executed === undefined ? 1 : new CostModel(model).cost({ lengths, executed }).relativeTotal;
    return { classifications, cost };
  } finally {
    running.dispose();
  }
}

/** How inputs become batches of one. */
async function encoder(
  checkpoint: string,
  { task, shape, config }: Model,
): Promise<(input: string) => Promise<Encoded>> {
  if (task === 'text-classification') {
    const tokenizer = await loadTokenizer(checkpoint);
    const maxLength = shape.maxPositions;
    return async (text) => {
      const ids = tokenizer.encode(text, { maxLength });
      const truncated = ids.length === maxLength && tokenizer.encode(text).length > maxLength;
      return {
        batch: { inputIds: tf.tensor2d([ids], [1, ids.length], 'int32') },
        tokens: ids.length,
        truncated,
      };
    };
  }
  const processor = await loadImageProcessor(checkpoint);
  const { image_size: side } = config as { image_size: number };
  return async (path) => {
    const pixels = await processor.process(path);
    if (pixels.length !== 3 * side * side) {
      throw new D2DMoEError(
        'IMAGE_INVALID',
        `${path} has ${pixels.length / 3} pixels after preprocessing, but the model takes ${side} × ${side}; preprocessor_config.json should resize to that.`,
      );
    }
    return {
      batch: { pixelValues: tf.tensor4d(pixels, [1, 3, side, side]) },
      tokens: shape.maxPositions,
      truncated: false,
    };
  };
}
