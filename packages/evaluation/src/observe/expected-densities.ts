import type { SelectionRule } from '@d2dmoe/kernels';
import { type Batch, dynamicSubstitute, type Model, type Site } from '@d2dmoe/models';
import * as tf from '@tensorflow/tfjs-core';

/**
 * Which share of a batch's (token, expert) pairs a rule selects, from 0 to 1: what `expectedDensity` of
 * `dynamicSubstitute` can be told, by which a backend chooses among its kernels.
 *
 * @param batch Stays the caller's.
 * @returns By the names of the converted sites.
 * @throws D2DMoEError `ROUTER_MISSING` if the model is dense
 */
export async function expectedDensities(
  model: Model,
  batch: Batch,
  rule: SelectionRule | ((site: Site) => SelectionRule),
): Promise<Map<string, number>> {
  const shares = new Map<string, tf.Tensor>();
  const substitute = dynamicSubstitute(model, {
    rule,
    onSelection: ({ name }, selection) => {
      shares.set(name, tf.keep(tf.tidy(() => tf.mean(tf.cast(selection, 'float32')))));
    },
  });
  tf.dispose(tf.tidy(() => model.forward(batch, { substitute }).logits));
  substitute.dispose();
  const densities = new Map<string, number>();
  for (const [name, share] of shares) {
    densities.set(name, (await share.data())[0] ?? 0);
    share.dispose();
  }
  return densities;
}
