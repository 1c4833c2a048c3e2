import type { Batch, Model } from '@d2dmoe/models';
import * as tf from '@tensorflow/tfjs-core';
import { type EvaluationBatches, tokenMask } from '../run-batches.js';

/** What every observation of a model over data takes. */
export interface ObserveOptions {
  /** Ends it before the next batch: the promise is rejected with the signal's reason. */
  signal?: AbortSignal;
}

/**
 * Runs data through a model once and hands back what `observe` leaves on the device, read in one go per batch.
 *
 * @param observe Runs the batch; called in a tidy. `mask` is [N], 1 for a real token and 0 for padding.
 * @param add Receives the values of the tensors that `observe` returned, in their order.
 */
export async function observeBatches(
  { shape }: Pick<Model, 'shape'>,
  batches: EvaluationBatches,
  observe: (batch: Batch, mask: tf.Tensor1D) => tf.Tensor1D[],
  add: (values: Float32Array[]) => void,
  { signal }: ObserveOptions = {},
): Promise<void> {
  signal?.throwIfAborted();
  for await (const { batch } of batches) {
    try {
      signal?.throwIfAborted();
      const lengths: number[] = [];
      const packed = tf.tidy(() => {
        const parts = observe(batch, tf.reshape(tokenMask(shape, batch), [-1]));
        lengths.push(...parts.map(({ size }) => size));
        return tf.concat1d(parts);
      });
      const figures = (await packed.data()) as Float32Array;
      packed.dispose();
      let end = 0;
      add(lengths.map((length) => figures.subarray(end, (end += length))));
    } finally {
      tf.dispose({ ...batch });
    }
    // On the CPU backends reading back takes no turn of the event loop, and an abort could never arrive.
    await new Promise((resolve) => setTimeout(resolve, 0));
  }
}
