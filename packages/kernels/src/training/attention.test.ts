import { Random } from '@d2dmoe/core';
import * as tf from '@tensorflow/tfjs-core';
import fc from 'fast-check';
import { beforeAll, describe, expect, test } from 'vitest';
import { backends } from '../../testing/backends.js';
import { relativeError } from '../../testing/closeness.js';
import { attention, attentionMask, byHead, packedAttention } from './attention.js';
import {
  referenceAttention,
  type ReferenceAttentionOptions,
  type ReferenceProjections,
} from './reference-attention.js';

function drawn(options: ReferenceAttentionOptions, seed: number) {
  const { batch, queries, keys, heads, kvHeads, headDim } = options;
  const random = new Random(seed);
  const draw = (count: number) =>
    Float64Array.from({ length: count }, () => Math.fround(random.normal()));
  return {
    q: draw(batch * queries * heads * headDim),
    k: draw(batch * keys * kvHeads * headDim),
    v: draw(batch * keys * kvHeads * headDim),
    dy: draw(batch * queries * heads * headDim),
  };
}

/** Random sizes; padding where there is some hides later positions, as it does in batches of texts. */
const cases: fc.Arbitrary<ReferenceAttentionOptions> = fc
  .record({
    batch: fc.integer({ min: 1, max: 3 }),
    queries: fc.integer({ min: 1, max: 6 }),
    past: fc.integer({ min: 0, max: 3 }),
    kvHeads: fc.integer({ min: 1, max: 2 }),
    group: fc.integer({ min: 1, max: 3 }),
    headDim: fc.integer({ min: 1, max: 5 }),
    causal: fc.boolean(),
    padded: fc.boolean(),
  })
  .map(({ past, group, padded, ...sizes }) => {
    const keys = sizes.queries + past;
    const visible = (at: number) => Number(at % keys < keys - (Math.floor(at / keys) % keys));
    const padding = Array.from({ length: sizes.batch * keys }, (_, at) => visible(at));
    return {
      ...sizes,
      keys,
      heads: sizes.kvHeads * group,
      scale: 0.6,
      ...(padded && { padding }),
    };
  });

test('the reference’s gradients are the slopes of its output', () => {
  const padding = [0, 1, 1, 1, 1, 1, 0, 1];
  const sizes = { batch: 2, queries: 3, keys: 4, heads: 2, kvHeads: 1, headDim: 2 };
  const options = { ...sizes, scale: 0.6, causal: true, padding };
  const { dy, ...inputs } = drawn(options, 5);
  const gradients = referenceAttention(inputs, dy, options);
  const loss = (tensors: ReferenceProjections) =>
    referenceAttention(tensors, dy, options).out.reduce(
      (sum, x, i) => sum + x * (dy[i] as number),
      0,
    );
  for (const name of ['q', 'k', 'v'] as const) {
    const slopes = Float64Array.from(inputs[name], (_, i) => {
      const at = (step: number) => {
        const values = inputs[name].slice();
        values[i] = (values[i] as number) + step;
        return loss({ ...inputs, [name]: values });
      };
      return (at(1e-5) - at(-1e-5)) / 2e-5;
    });
    expect(relativeError(gradients[`d${name}`], slopes)).toBeLessThan(1e-8);
  }
});

describe.each(backends)('on %s', (_, use) => {
  beforeAll(use);

  test('output and gradients equal float64’s: groups, masks, earlier positions, one product for all three', () => {
    fc.assert(
      fc.property(cases, fc.integer({ min: 1, max: 1e6 }), (options, seed) => {
        const { batch, queries, keys, heads, kvHeads, headDim, scale, causal } = options;
        const { dy, ...inputs } = drawn(options, seed);
        const { out, dq, dk, dv } = referenceAttention(inputs, dy, options);
        const before = tf.memory().numTensors;
        const results = tf.tidy(() => {
          const rows = (values: Float64Array, heads: number) =>
            tf.tensor2d(Float32Array.from(values), [
              values.length / heads / headDim,
              heads * headDim,
            ]);
          const padding =
            options.padding && tf.tensor2d(Array.from(options.padding), [batch, keys], 'int32');
          const mask = attentionMask({ queries, keys, headDim, causal, padding });
          const apply = (q: tf.Tensor, k: tf.Tensor, v: tf.Tensor) =>
            queries === keys && seed % 2 === 0
              ? packedAttention(tf.concat([q, k, v], 1) as tf.Tensor2D, {
                  batch,
                  heads,
                  kvHeads,
                  scale,
                  mask,
                })
              : attention(q as tf.Tensor2D, k as tf.Tensor2D, v as tf.Tensor2D, {
                  batch,
                  heads,
                  kvHeads,
                  scale,
                  mask,
                });
          const projected = [
            rows(inputs.q, heads),
            rows(inputs.k, kvHeads),
            rows(inputs.v, kvHeads),
          ] as const;
          const gradients = tf.grads(apply)([...projected], rows(dy, heads));
          return [apply(...projected), ...gradients].map((t) => t.dataSync().slice());
        });
        expect(tf.memory().numTensors).toBe(before);
        for (const [i, expected] of [out, dq, dk, dv].entries()) {
          // A single key's weight is 1 whatever the scores: there is no slope, and only rounding to compare.
          const error = relativeError(results[i] as Float32Array, expected);
          const norm = Math.hypot(...expected);
          expect(Math.min(error, error * norm)).toBeLessThan(1e-5);
        }
      }),
      { numRuns: 20 },
    );
  });

  test('keys and values by head, as a cache keeps them, give the same', () => {
    const sizes = { batch: 2, queries: 2, keys: 5, heads: 4, kvHeads: 2, headDim: 3 };
    const options = { ...sizes, scale: 0.6, causal: true };
    const { dy, ...inputs } = drawn(options, 7);
    const actual = tf.tidy(() => {
      const rows = (values: Float64Array, width: number) =>
        tf.tensor2d(Float32Array.from(values), [values.length / width, width]);
      const mask = attentionMask(options);
      const [q, k, v] = [rows(inputs.q, 12), rows(inputs.k, 6), rows(inputs.v, 6)];
      return attention(q, byHead(k, 2, 2), byHead(v, 2, 2), { ...options, mask }).dataSync();
    });
    expect(relativeError(actual, referenceAttention(inputs, dy, options).out)).toBeLessThan(1e-5);
  });

  test('a query that sees nothing gets a finite output and leaves the others alone', () => {
    const sizes = { batch: 2, queries: 3, keys: 3, heads: 1, kvHeads: 1, headDim: 2 };
    const options = { ...sizes, scale: 0.6, causal: false, padding: [1, 0, 1, 0, 0, 0] };
    const { dy, ...inputs } = drawn(options, 8);
    const actual = tf.tidy(() => {
      const rows = (values: Float64Array) => tf.tensor2d(Float32Array.from(values), [6, 2]);
      const padding = tf.tensor2d(options.padding, [2, 3], 'int32');
      const mask = attentionMask({ ...options, padding });
      const [q, k, v] = [rows(inputs.q), rows(inputs.k), rows(inputs.v)];
      return attention(q, k, v, { ...options, mask }).dataSync();
    });
    expect(actual.every((value) => Number.isFinite(value))).toBe(true);
    const { out } = referenceAttention(inputs, dy, options);
    expect(relativeError(actual.slice(0, 6), out.slice(0, 6))).toBeLessThan(1e-5);
  });
});
