import { D2DMoEError, type Random } from '@d2dmoe/core';
import type { ImageProcessor } from '@d2dmoe/models/node';
import * as tf from '@tensorflow/tfjs-core';
import type { Dataset, ImageExample } from '../data/index.js';
import { type Batches, evaluationBatchSize, type LabelledBatch } from './batches.js';
import { sample, shuffledOrder } from './order.js';

/** Images of `side` × `side` pixels, decoded as they are needed; `positions` is the model's sequence length. */
export function imageBatches(
  dataset: Dataset<ImageExample>,
  processor: ImageProcessor,
  { side, positions }: { side: number; positions: number },
  batchSize: number,
  random: Random,
): Batches {
  const order = shuffledOrder(dataset.train.length, batchSize, random.fork('order'));

  async function load(
    examples: readonly ImageExample[],
    indices: Uint32Array,
  ): Promise<LabelledBatch> {
    const chosen = Array.from(indices, (i) => examples[i] as ImageExample);
    const images = await Promise.all(chosen.map(({ image }) => processor.process(image)));
    const size = 3 * side * side;
    const pixels = new Float32Array(chosen.length * size);
    for (const [i, image] of images.entries()) {
      if (image.length !== size) {
        throw new D2DMoEError(
          'IMAGE_INVALID',
          `An image of ${dataset.source} has ${image.length / 3} pixels after preprocessing; the model takes ${side} × ${side}, so preprocessor_config.json should resize to that.`,
        );
      }
      pixels.set(image, i * size);
    }
    return {
      batch: { pixelValues: tf.tensor4d(pixels, [chosen.length, 3, side, side]) },
      labels: Int32Array.from(chosen, ({ label }) => label),
    };
  }

  return {
    evaluationSize: (split) => dataset[split].length,
    meanLength: positions,
    train: (step) => load(dataset.train, order(step)),
    async *evaluation(split, limit) {
      const indices = sample(dataset[split].length, limit, random.fork(split));
      for (let start = 0; start < indices.length; start += evaluationBatchSize) {
        yield await load(dataset[split], indices.subarray(start, start + evaluationBatchSize));
      }
    },
  };
}
