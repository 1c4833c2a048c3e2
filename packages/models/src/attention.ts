import {
  attention as attend,
  type AttentionMask,
  byHead,
  rotate,
  type Rotary,
} from '@d2dmoe/kernels';
import type * as tf from '@tensorflow/tfjs-core';
import type { KeyValueCache } from './cache.js';

/** Sizes and options of {@link attention}. */
export interface AttentionOptions {
  batch: number;
  heads: number;
  /** Key/value heads; divides `heads`. */
  kvHeads: number;
  headDim: number;
  /** Factor of the scores; 1 / √headDim by default. */
  scale?: number;
  mask?: AttentionMask | undefined;
  /** Rotary position embedding of q and k. */
  rotary?: Rotary;
  /** Keys and values of earlier positions, which are attended to as well; the layer's new ones are added. */
  cache?: { of: KeyValueCache; layer: number } | undefined;
}

/**
 * Scaled dot-product attention, grouped-query attention included.
 *
 * @param q [B·T, heads·headDim]
 * @param k [B·T, kvHeads·headDim]
 * @param v [B·T, kvHeads·headDim]
 * @returns [B·T, heads·headDim]
 */
export function attention(
  q: tf.Tensor2D,
  k: tf.Tensor2D,
  v: tf.Tensor2D,
  options: AttentionOptions,
): tf.Tensor2D {
  const { batch, heads, kvHeads, headDim, mask, rotary, cache } = options;
  const sizes = { batch, heads, kvHeads, scale: options.scale ?? 1 / Math.sqrt(headDim), mask };
  const queries = rotary === undefined ? q : rotate(q, rotary);
  const latest = rotary === undefined ? k : rotate(k, rotary);
  if (cache === undefined) return attend(queries, latest, v, sizes);
  const { keys, values } = cache.of.append(cache.layer, {
    keys: byHead(latest, batch, kvHeads),
    values: byHead(v, batch, kvHeads),
  });
  return attend(queries, keys as tf.Tensor4D, values as tf.Tensor4D, sizes);
}
