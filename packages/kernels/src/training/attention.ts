import * as tf from '@tensorflow/tfjs-core';
import { hasKernel, runKernel } from '../dispatch.js';

/** Added to the scores that a mask takes out; large against any score, and finite so that no row turns into NaN. */
const masked = -1e9;

/** The widest head that `Attention` kernels take. */
const widestHead = 128;

/** What the positions of a batch may see; made by {@link attentionMask}. */
export interface AttentionMask {
  /** Whether a position sees itself and earlier ones only. */
  causal: boolean;
  /** [B, keys] int32: 1 for a token, 0 for padding. */
  padding?: tf.Tensor2D;
  /** The same, to be added to the scores; broadcasts to [B, heads, queries, keys]. For composed attention only. */
  additive?: tf.Tensor;
}

/** What {@link attentionMask} has to know. */
export interface AttentionMaskOptions {
  /** Positions that ask. */
  queries: number;
  /** Positions that are seen; the queries are the last of them. */
  keys: number;
  /** Width of one head. */
  headDim: number;
  /** Whether a position sees itself and earlier ones only. */
  causal: boolean;
  /** [B, keys] of ones and zeros, zeros for padding. */
  padding?: tf.Tensor2D | undefined;
}

/** Sizes and options of {@link attention}. */
export interface AttentionOptions {
  /** Number of sequences. */
  batch: number;
  /** Query heads. */
  heads: number;
  /** Key/value heads; divides `heads`, and each is shared by as many of them as follow each other. */
  kvHeads: number;
  /** Factor of the scores. */
  scale: number;
  /** By default every position sees all. */
  mask?: AttentionMask | undefined;
}

function isFused(headDim: number): boolean {
  return headDim <= widestHead && hasKernel('Attention');
}

/**
 * The mask of a forward pass, in the form that the current backend's attention takes; undefined where all is seen. A
 * query that sees nothing gets a finite output without meaning.
 */
export function attentionMask(options: AttentionMaskOptions): AttentionMask | undefined {
  const { queries, keys, headDim, padding } = options;
  // One query at the last position sees everything.
  const causal = options.causal && queries > 1;
  if (!causal && padding === undefined) return undefined;
  if (isFused(headDim)) {
    return { causal, ...(padding && { padding: tf.cast<tf.Tensor2D>(padding, 'int32') }) };
  }
  const terms: tf.Tensor[] = [];
  if (causal) {
    const values = new Float32Array(queries * keys);
    const past = keys - queries;
    for (let row = 0; row < queries; row++) {
      values.fill(masked, row * keys + past + row + 1, (row + 1) * keys);
    }
    terms.push(tf.tensor4d(values, [1, 1, queries, keys]));
  }
  if (padding !== undefined) {
    const hidden = tf.mul(tf.sub(1, tf.cast(padding, 'float32')), masked);
    terms.push(tf.reshape(hidden, [padding.shape[0], 1, 1, keys]));
  }
  const [first, second] = terms as [tf.Tensor, tf.Tensor?];
  return { causal, additive: second === undefined ? first : tf.add(first, second) };
}

/**
 * Scaled dot-product attention (Vaswani et al. 2017), grouped-query attention included, with its gradient. Where the
 * backend has `Attention` kernels, no matrix of scores exists.
 *
 * @param q [B·queries, heads·headDim]
 * @param k [B·keys, kvHeads·headDim], or by head [B, kvHeads, keys, headDim]
 * @param v Shaped as k.
 * @returns [B·queries, heads·headDim]
 */
export function attention(
  q: tf.Tensor2D,
  k: tf.Tensor2D | tf.Tensor4D,
  v: tf.Tensor2D | tf.Tensor4D,
  options: AttentionOptions,
): tf.Tensor2D {
  const headDim = q.shape[1] / options.heads;
  return isFused(headDim)
    ? fusedAttention({ q, k, v }, options)
    : composedAttention(q, k, v, headDim, options);
}

/**
 * {@link attention} of queries, keys and values that one projection has made.
 *
 * @param qkv [B·T, (heads + 2·kvHeads)·headDim]: the heads of q, then of k, then of v
 * @returns [B·T, heads·headDim]
 */
export function packedAttention(qkv: tf.Tensor2D, options: AttentionOptions): tf.Tensor2D {
  const { heads, kvHeads } = options;
  const headDim = qkv.shape[1] / (heads + 2 * kvHeads);
  if (isFused(headDim)) return fusedAttention({ qkv }, options);
  const widths = [heads * headDim, kvHeads * headDim, kvHeads * headDim];
  const [q, k, v] = tf.split(qkv, widths, 1) as [tf.Tensor2D, tf.Tensor2D, tf.Tensor2D];
  return composedAttention(q, k, v, headDim, options);
}

/**
 * Kernels `Attention`: inputs (q, k, v or qkv; padding) to the output and each row's logarithm of the sum of
 * exponentials; `AttentionGrad`: those and dy to the gradients of q, k, v or of qkv.
 */
function fusedAttention(
  projected: Record<string, tf.Tensor>,
  { batch, heads, kvHeads, scale, mask }: AttentionOptions,
): tf.Tensor2D {
  const attributes = { batch, heads, kvHeads, scale, causal: mask?.causal ?? false };
  const names = Object.keys(projected);
  const padding = mask?.padding;
  const op = tf.customGrad((...inputs) => {
    const save = inputs.pop() as unknown as tf.GradSaveFunc;
    const named = Object.fromEntries(names.map((name, i) => [name, inputs[i] as tf.Tensor]));
    const all = { ...named, ...(padding && { padding }) };
    const [out, logSum] = runKernel('Attention', all, attributes) as [tf.Tensor, tf.Tensor];
    save([...Object.values(all), out, logSum]);
    return {
      value: out,
      gradFunc: (dy: tf.Tensor, saved: tf.Tensor[]) => {
        const keys = [...Object.keys(all), 'out', 'logSum'];
        const kept = Object.fromEntries(keys.map((key, i) => [key, saved[i] as tf.Tensor]));
        return runKernel('AttentionGrad', { ...kept, dy }, attributes);
      },
    };
  });
  return op(...Object.values(projected)) as tf.Tensor2D;
}

function composedAttention(
  q: tf.Tensor2D,
  k: tf.Tensor2D | tf.Tensor4D,
  v: tf.Tensor2D | tf.Tensor4D,
  headDim: number,
  { batch, heads, kvHeads, scale, mask }: AttentionOptions,
): tf.Tensor2D {
  const positions = q.shape[0] / batch;
  const group = heads / kvHeads;
  // The query heads that share a key/value head are stacked along the positions: no copies of k and v, and no
  // broadcast product, which tfjs differentiates wrongly.
  const queries = tf.reshape(byHead(tf.mul<tf.Tensor2D>(q, scale), batch, heads), [
    batch,
    kvHeads,
    group * positions,
    headDim,
  ]);
  const keys = k.rank === 4 ? k : byHead(k as tf.Tensor2D, batch, kvHeads);
  const values = v.rank === 4 ? v : byHead(v as tf.Tensor2D, batch, kvHeads);
  const seen = keys.shape[2] as number;
  const scores = tf.reshape(tf.matMul(queries, keys, false, true), [batch, heads, positions, seen]);
  const additive = mask?.additive;
  const weights = tf.softmax(additive === undefined ? scores : tf.add(scores, additive));
  const mixed = tf.matMul(tf.reshape(weights, [batch, kvHeads, group * positions, seen]), values);
  if (positions === 1) return tf.reshape(mixed, [batch, heads * headDim]);
  const perHead = tf.reshape(mixed, [batch, heads, positions, headDim]);
  return tf.reshape(tf.transpose(perHead, [0, 2, 1, 3]), [batch * positions, heads * headDim]);
}

/** Rows [B·T, heads·headDim] as [B, heads, T, headDim]. */
export function byHead(x: tf.Tensor2D, batch: number, heads: number): tf.Tensor4D {
  const positions = x.shape[0] / batch;
  const headDim = x.shape[1] / heads;
  // One position has its heads in the right order already.
  if (positions === 1) return tf.reshape(x, [batch, heads, 1, headDim]);
  return tf.transpose(tf.reshape(x, [batch, positions, heads, headDim]), [0, 2, 1, 3]);
}
