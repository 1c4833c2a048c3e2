import { D2DMoEError, type Random } from '@d2dmoe/core';
import type { ImageProcessor } from '@d2dmoe/models/node';
import * as tf from '@tensorflow/tfjs-core';
import type { Dataset, ImageExample } from '../data/index.js';
import { augmentImage } from './augment.js';
import { type Batches, evaluationBatchSize, type LabelledBatch } from './batches.js';
import { mixImages } from './mix.js';
import { sample, shuffledOrder } from './order.js';

interface DecodedImages {
  pixels: Float32Array;
  labels: Int32Array;
}

/** Decoded images are kept up to this size together. */
const keptBytes = 2 ** 30;

/**
 * Decodes images, each once: decoding costs more than a step of a small model on a fast device, so that an epoch's images
 * are kept.
 */
export function imageDecoder(
  processor: Pick<ImageProcessor, 'process'>,
): (example: ImageExample) => Promise<Float32Array> {
  const kept = new Map<ImageExample, Float32Array>();
  let bytes = 0;
  return async (example) => {
    const known = kept.get(example);
    if (known) return known;
    const pixels = await processor.process(example.image);
    if (bytes + pixels.byteLength <= keptBytes) {
      kept.set(example, pixels);
      bytes += pixels.byteLength;
    }
    return pixels;
  };
}

/**
 * Images of `side` × `side` pixels, decoded as they are needed; `positions` is the model's sequence length. With `augment`
 * those for training are changed at random each time, with `mix` mixed with one another.
 */
export function imageBatches(
  dataset: Dataset<ImageExample>,
  pixelsOf: (example: ImageExample) => Promise<Float32Array>,
  {
    side,
    positions,
    augment,
    mix,
  }: { side: number; positions: number; augment: boolean; mix: boolean },
  batchSize: number,
  random: Random,
): Batches {
  const order = shuffledOrder(dataset.train.length, batchSize, random.fork('order'));

  const imageSize = 3 * side * side;

  async function decode(
    examples: readonly ImageExample[],
    indices: Uint32Array,
    draws?: Random,
    ready: Promise<unknown> = Promise.resolve(),
  ): Promise<DecodedImages> {
    const chosen = Array.from(indices, (i) => examples[i] as ImageExample);
    const [images] = await Promise.all([Promise.all(chosen.map(pixelsOf)), ready]);
    const pixels = new Float32Array(chosen.length * imageSize);
    for (const [i, image] of images.entries()) {
      if (image.length !== imageSize) {
        throw new D2DMoEError(
          'IMAGE_INVALID',
          `An image of ${dataset.source} has ${image.length / 3} pixels after preprocessing; the model takes ${side} × ${side}, so preprocessor_config.json should resize to that.`,
        );
      }
      const place = pixels.subarray(i * imageSize, (i + 1) * imageSize);
      if (draws) augmentImage(image, side, draws, place);
      else place.set(image);
    }
    if (draws && mix) mixImages(pixels, imageSize, draws);
    return { pixels, labels: Int32Array.from(chosen, ({ label }) => label) };
  }

  const onDevice = ({ pixels, labels }: DecodedImages): LabelledBatch => ({
    batch: { pixelValues: tf.tensor4d(pixels, [labels.length, 3, side, side]) },
    labels,
  });

  // While the device computes a step, the next one's images are decoded on other threads, and put together once this
  // thread has enqueued its work.
  let ahead: { step: number; images: Promise<DecodedImages> } | undefined;
  const draws = random.fork('augment');
  const decodeStep = (step: number, ready?: Promise<unknown>) =>
    decode(dataset.train, order(step), augment ? draws.fork(step) : undefined, ready);

  return {
    evaluationSize: (split) => dataset[split].length,
    meanLength: positions,
    async train(step) {
      const current = ahead?.step === step ? ahead.images : decodeStep(step);
      const idle = new Promise((resolve) => setImmediate(resolve));
      const next = { step: step + 1, images: decodeStep(step + 1, idle) };
      // It fails when its own turn comes.
      next.images.catch(() => undefined);
      ahead = next;
      return onDevice(await current);
    },
    async *evaluation(split, limit) {
      const indices = sample(dataset[split].length, limit, random.fork(split));
      const size = evaluationBatchSize();
      for (let start = 0; start < indices.length; start += size) {
        const some = indices.subarray(start, start + size);
        yield onDevice(await decode(dataset[split], some));
      }
    },
  };
}
