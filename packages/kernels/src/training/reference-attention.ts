/** Sizes and masks of {@link referenceAttention}; `queries` are the last of `keys` positions. */
export interface ReferenceAttentionOptions {
  /** Number of sequences. */
  batch: number;
  /** Positions that ask. */
  queries: number;
  /** Positions that are seen. */
  keys: number;
  /** Query heads. */
  heads: number;
  /** Divides `heads`; each is shared by as many of them as follow each other. */
  kvHeads: number;
  /** Width of one head. */
  headDim: number;
  /** Factor of the scores. */
  scale: number;
  /** Whether a position sees itself and earlier ones only. */
  causal: boolean;
  /** [batch, keys] of ones and zeros, zeros for padding. */
  padding?: ArrayLike<number>;
}

/** Queries [batch·queries, heads·headDim], keys and values [batch·keys, kvHeads·headDim]. */
export interface ReferenceProjections {
  /** [batch·queries, heads·headDim] */
  q: Float64Array;
  /** [batch·keys, kvHeads·headDim] */
  k: Float64Array;
  /** [batch·keys, kvHeads·headDim] */
  v: Float64Array;
}

/**
 * Attention and its gradients for tests of a backend's kernels: one query at a time, in float64. A query that sees
 * nothing gets 0.
 *
 * @param dy the output's gradient, [batch·queries, heads·headDim]
 */
export function referenceAttention(
  { q, k, v }: ReferenceProjections,
  dy: Float64Array,
  options: ReferenceAttentionOptions,
): { out: Float64Array; dq: Float64Array; dk: Float64Array; dv: Float64Array } {
  const { batch, queries, keys, heads, kvHeads, headDim, scale, causal, padding } = options;
  const group = heads / kvHeads;
  const past = keys - queries;
  const dot = (a: Float64Array, i: number, b: Float64Array, j: number) => {
    let sum = 0;
    for (let d = 0; d < headDim; d++) sum += (a[i + d] as number) * (b[j + d] as number);
    return sum;
  };
  const add = (to: Float64Array, i: number, from: Float64Array, j: number, factor: number) => {
    for (let d = 0; d < headDim; d++) {
      to[i + d] = (to[i + d] as number) + factor * (from[j + d] as number);
    }
  };
  const out = new Float64Array(q.length);
  const dq = new Float64Array(q.length);
  const dk = new Float64Array(k.length);
  const dv = new Float64Array(v.length);
  for (let b = 0; b < batch; b++) {
    for (let head = 0; head < heads; head++) {
      for (let query = 0; query < queries; query++) {
        const i = ((b * queries + query) * heads + head) * headDim;
        const seen: number[] = [];
        for (let key = 0; key < keys; key++) {
          if (causal && key > query + past) continue;
          if (padding?.[b * keys + key] === 0) continue;
          seen.push(((b * keys + key) * kvHeads + Math.floor(head / group)) * headDim);
        }
        const scores = seen.map((j) => scale * dot(q, i, k, j));
        const greatest = Math.max(...scores);
        const exponentials = scores.map((score) => Math.exp(score - greatest));
        const total = exponentials.reduce((sum, x) => sum + x, 0);
        const weighted = seen.map((j, n) => ({ j, weight: (exponentials[n] as number) / total }));
        for (const { j, weight } of weighted) add(out, i, v, j, weight);
        const along = dot(out, i, dy, i);
        for (const { j, weight } of weighted) {
          add(dv, j, dy, i, weight);
          const slope = weight * (dot(v, j, dy, i) - along) * scale;
          add(dq, i, k, j, slope);
          add(dk, j, q, i, slope);
        }
      }
    }
  }
  return { out, dq, dk, dv };
}
