import type { Model } from '@d2dmoe/models';
import { type ActivationStatistics, SparsityStatistics } from '@d2dmoe/sparsity';
import * as tf from '@tensorflow/tfjs-core';
import type { LabelledBatch } from '../batches/batches.js';

/** How sparse the activations of each of a model's FFNs are on some data, by site name; padding is left out. */
export async function measureSparsity(
  model: Model,
  batches: AsyncIterable<LabelledBatch>,
  signal?: AbortSignal,
): Promise<Map<string, ActivationStatistics>> {
  const statistics = new Map<string, SparsityStatistics>();
  try {
    for await (const { batch, rows } of batches) {
      try {
        signal?.throwIfAborted();
        tf.tidy(() => {
          model.forward(batch, {
            tap: ({ name }, { activation }) => {
              if (!activation) return;
              const own = statistics.get(name) ?? new SparsityStatistics();
              statistics.set(name, own);
              own.add(rows ? tf.gather(activation, tf.tensor1d(rows, 'int32')) : activation);
            },
          });
        });
      } finally {
        tf.dispose({ ...batch });
      }
    }
    const results = new Map<string, ActivationStatistics>();
    for (const [site, own] of statistics) results.set(site, await own.result());
    return results;
  } finally {
    for (const own of statistics.values()) own.dispose();
  }
}
