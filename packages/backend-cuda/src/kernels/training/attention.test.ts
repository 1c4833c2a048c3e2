import {
  attention,
  attentionMask,
  packedAttention,
  referenceAttention,
  type ReferenceProjections,
} from '@d2dmoe/kernels';
import '@tensorflow/tfjs-layers';
import * as tf from '@tensorflow/tfjs-core';
import fc from 'fast-check';
import { afterEach, expect, test } from 'vitest';
import { valuesOf } from '../../../testing/against-cpu.js';
import { emulated } from '../../../testing/emulated.js';
import { relativeError } from '../../../../kernels/testing/closeness.js';

interface Case {
  batch: number;
  queries: number;
  /** Positions before the queries'. */
  past: number;
  kvHeads: number;
  group: number;
  headDim: number;
  causal: boolean;
  /** [batch, keys] of ones and zeros. */
  padding?: number[];
  seed: number;
}

function sizes({ batch, queries, past, kvHeads, group, headDim }: Case) {
  const keys = queries + past;
  const heads = kvHeads * group;
  const q = [batch * queries, heads * headDim] as [number, number];
  const kv = [batch * keys, kvHeads * headDim] as [number, number];
  return { keys, heads, q, kv, scale: 0.7 / Math.sqrt(headDim) };
}

function drawn(c: Case): ReferenceProjections & { dy: Float64Array } {
  const { q, kv } = sizes(c);
  const draw = ([rows, columns]: [number, number], n: number) =>
    Float64Array.from(valuesOf(rows * columns, c.seed * 4 + n), (x) => 2 * x);
  return { q: draw(q, 0), k: draw(kv, 1), v: draw(kv, 2), dy: draw(q, 3) };
}

/** The fused kernels' output and gradients. */
function actual(c: Case, packed: boolean): Float32Array[] {
  const { batch, queries, kvHeads, headDim, causal } = c;
  const { keys, heads, q, kv, scale } = sizes(c);
  const values = drawn(c);
  return tf.tidy(() => {
    const padding = c.padding && tf.tensor2d(c.padding, [batch, keys], 'int32');
    const mask = attentionMask({ queries, keys, headDim, causal, padding });
    const options = { batch, heads, kvHeads, scale, mask };
    const dy = tf.tensor2d(Float32Array.from(values.dy), q);
    const inputs = [
      tf.tensor2d(Float32Array.from(values.q), q),
      tf.tensor2d(Float32Array.from(values.k), kv),
      tf.tensor2d(Float32Array.from(values.v), kv),
    ];
    const op = (...[q, k, v]: tf.Tensor[]) =>
      packed
        ? packedAttention(tf.concat([q, k, v] as tf.Tensor2D[], 1), options)
        : attention(q as tf.Tensor2D, k as tf.Tensor2D, v as tf.Tensor2D, options);
    const out = op(...inputs);
    const gradients = tf.grads((...x: tf.Tensor[]) => op(...x))(inputs, dy);
    return [out, ...gradients].map((t) => t.dataSync<'float32'>().slice());
  });
}

const cases = (headDim: fc.Arbitrary<number>): fc.Arbitrary<Case> =>
  fc
    .record({
      batch: fc.integer({ min: 1, max: 2 }),
      queries: fc.oneof(fc.integer({ min: 1, max: 8 }), fc.integer({ min: 60, max: 80 })),
      past: fc.oneof(fc.constant(0), fc.integer({ min: 1, max: 40 })),
      kvHeads: fc.integer({ min: 1, max: 2 }),
      group: fc.integer({ min: 1, max: 3 }),
      headDim,
      causal: fc.boolean(),
      padded: fc.boolean(),
      seed: fc.integer({ min: 1, max: 1e6 }),
    })
    .map(({ padded, ...c }) => {
      if (!padded) return c;
      // At least one key in three is padding, and the first key may be.
      const padding = Array.from(valuesOf(c.batch * (c.queries + c.past), c.seed), (x) =>
        Number(x > -0.4),
      );
      return { ...c, padding };
    });

/** The relative errors of the output and of the gradients of q, k and v. */
function errors(c: Case, packed: boolean): number[] {
  const { dy, ...inputs } = drawn(c);
  const { out, dq, dk, dv } = referenceAttention(inputs, dy, { ...c, ...sizes(c) });
  const expected = [out, dq, dk, dv];
  return actual(c, packed).map((got, i) => relativeError(got, expected[i] as Float64Array));
}

emulated('attention', (cuda) => {
  afterEach(() => {
    cuda().precision = 'float32';
  });

  test('float32: output and gradients equal float64’s, masks, groups and all', () => {
    fc.assert(
      fc.property(cases(fc.constantFrom(1, 3, 20, 33, 64, 100)), fc.boolean(), (c, packed) => {
        expect(Math.max(...errors(c, packed && c.past === 0))).toBeLessThan(1e-5);
      }),
      { numRuns: 12, seed: 1 },
    );
  });

  test('bf16: the tensor cores’ kernels are within 1 %', () => {
    cuda().precision = 'bf16';
    fc.assert(
      fc.property(cases(fc.constantFrom(8, 32, 40, 64, 96, 128)), fc.boolean(), (c, packed) => {
        expect(Math.max(...errors(c, packed && c.past === 0))).toBeLessThan(1e-2);
      }),
      { numRuns: 5, seed: 2 },
    );
  });

  test.each(['float32', 'bf16'] as const)(
    '%s: a query that sees nothing has output and gradients 0, the others are as if it were not there',
    (precision) => {
      cuda().precision = precision;
      const padding = [0, 0, 1, 1, 0, 0, 0, 0];
      const sizes = { batch: 2, queries: 4, past: 0, kvHeads: 1, group: 2, headDim: 16 };
      const c: Case = { ...sizes, causal: true, padding, seed: 3 };
      const [out, dq] = actual(c, false) as [Float32Array, Float32Array];
      const rowOf = 2 * 16;
      const blind = [0, 1, 4, 5, 6, 7];
      for (const row of blind) {
        expect([...out.subarray(row * rowOf, (row + 1) * rowOf)].every((x) => x === 0)).toBe(true);
        expect([...dq.subarray(row * rowOf, (row + 1) * rowOf)].every((x) => x === 0)).toBe(true);
      }
      // Differences of few weights cancel, operands in 16 bits do not.
      const tolerance = precision === 'bf16' ? 2e-2 : 1e-5;
      expect(Math.max(...errors(c, false))).toBeLessThan(tolerance);
    },
  );

  test('keys and values by head, as a cache keeps them', () => {
    const c: Case = {
      batch: 2,
      queries: 1,
      past: 6,
      kvHeads: 2,
      group: 2,
      headDim: 8,
      causal: true,
      seed: 9,
    };
    const { keys, heads, q, kv, scale } = sizes(c);
    const { dy, ...inputs } = drawn(c);
    const got = tf.tidy(() => {
      const byHead = (x: Float64Array) => {
        const rows = tf.tensor4d(Float32Array.from(x), [2, keys, 2, 8]);
        return tf.transpose<tf.Tensor4D>(rows, [0, 2, 1, 3]);
      };
      const options = { batch: 2, heads, kvHeads: 2, scale };
      const queries = tf.tensor2d(Float32Array.from(inputs.q), q);
      return attention(queries, byHead(inputs.k), byHead(inputs.v), options).dataSync();
    });
    expect(kv).toEqual([14, 16]);
    expect(
      relativeError(got, referenceAttention(inputs, dy, { ...c, ...sizes(c) }).out),
    ).toBeLessThan(1e-5);
  });
});
