import * as tf from '@tensorflow/tfjs-core';
import type { KeyValueCache } from './cache.js';

/** Added to the scores that a mask takes out; large against any score, and finite so that no row turns into NaN. */
const masked = -1e9;

/** Sizes and options of {@link attention}. */
export interface AttentionOptions {
  batch: number;
  heads: number;
  /** Key/value heads; divides `heads`. */
  kvHeads: number;
  headDim: number;
  /** Factor of the scores; 1 / √headDim by default. */
  scale?: number;
  /** Added to the scores; broadcasts to [B, heads, T, positions of the keys]. */
  mask?: tf.Tensor | undefined;
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
  const positions = q.shape[0] / batch;
  const group = heads / kvHeads;
  // One position has its heads in the right order already.
  const byHead = (x: tf.Tensor2D, count: number) =>
    positions === 1
      ? tf.reshape(x, [batch, count, 1, headDim])
      : tf.transpose(tf.reshape(x, [batch, positions, count, headDim]), [0, 2, 1, 3]);
  const rotated = (x: tf.Tensor) => (rotary === undefined ? x : rotate(x, rotary));

  const scaled = tf.mul<tf.Tensor2D>(q, options.scale ?? 1 / Math.sqrt(headDim));
  // The query heads that share a key/value head are stacked along the positions: no copies of k and v, and no
  // broadcast product, which tfjs differentiates wrongly.
  const queries = tf.reshape(rotated(byHead(scaled, heads)), [
    batch,
    kvHeads,
    group * positions,
    headDim,
  ]);
  const latest = { keys: rotated(byHead(k, kvHeads)), values: byHead(v, kvHeads) };
  const { keys, values } = cache?.of.append(cache.layer, latest) ?? latest;
  const seen = keys.shape[2] as number;
  const scores = tf.reshape(tf.matMul(queries, keys, false, true), [batch, heads, positions, seen]);
  const weights = tf.softmax(mask === undefined ? scores : tf.add(scores, mask));
  const mixed = tf.matMul(tf.reshape(weights, [batch, kvHeads, group * positions, seen]), values);
  if (positions === 1) return tf.reshape(mixed, [batch, heads * headDim]);
  const perHead = tf.reshape(mixed, [batch, heads, positions, headDim]);
  return tf.reshape(tf.transpose(perHead, [0, 2, 1, 3]), [batch * positions, heads * headDim]);
}

/** The additive mask of padding: [B, 1, 1, T] from an attention mask [B, T] of ones and zeros. */
export function paddingMask(attentionMask: tf.Tensor2D): tf.Tensor4D {
  const [batch, positions] = attentionMask.shape;
  const padding = tf.sub(1, tf.cast(attentionMask, 'float32'));
  return tf.reshape(tf.mul(padding, masked), [batch, 1, 1, positions]);
}

/**
 * The additive mask by which a position sees itself and earlier ones: [1, 1, T, past + T], with padding
 * [B, 1, T, past + T]; undefined where there is nothing to hide.
 *
 * @param past Positions before the first of the T.
 * @param attentionMask [B, past + T]
 */
export function causalMask(
  positions: number,
  past: number,
  attentionMask?: tf.Tensor2D,
): tf.Tensor4D | undefined {
  if (positions === 1) return attentionMask && paddingMask(attentionMask);
  const seen = past + positions;
  const values = new Float32Array(positions * seen);
  for (let row = 0; row < positions; row++) {
    values.fill(masked, row * seen + past + row + 1, (row + 1) * seen);
  }
  const causal = tf.tensor4d(values, [1, 1, positions, seen]);
  return attentionMask === undefined ? causal : tf.add(causal, paddingMask(attentionMask));
}

/** Cosines and sines of a rotary position embedding, [T, headDim] each. */
export interface Rotary {
  cos: tf.Tensor2D;
  /** Negated in the first half of each row, so that a rotation is one exchange of halves and two products. */
  sin: tf.Tensor2D;
}

/**
 * The tables of RoPE (Su et al. 2021) for the T positions from `start` on; dimension i is paired with i + headDim/2.
 */
export function rotaryTables(
  start: number,
  positions: number,
  headDim: number,
  theta: number,
): Rotary {
  const half = headDim / 2;
  const cos = new Float32Array(positions * headDim);
  const sin = new Float32Array(positions * headDim);
  for (let position = 0; position < positions; position++) {
    for (let i = 0; i < half; i++) {
      const angle = (start + position) * theta ** (-i / half);
      const at = position * headDim + i;
      cos[at] = cos[at + half] = Math.cos(angle);
      sin[at + half] = Math.sin(angle);
      sin[at] = -Math.sin(angle);
    }
  }
  return {
    cos: tf.tensor2d(cos, [positions, headDim]),
    sin: tf.tensor2d(sin, [positions, headDim]),
  };
}

/** Rotates x [B, heads, T, headDim]. */
function rotate(x: tf.Tensor, { cos, sin }: Rotary): tf.Tensor {
  const [first, second] = tf.split(x, 2, -1) as [tf.Tensor, tf.Tensor];
  return tf.add(tf.mul(x, cos), tf.mul(tf.concat([second, first], -1), sin));
}
