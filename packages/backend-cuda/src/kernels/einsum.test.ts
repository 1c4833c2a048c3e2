import * as tf from '@tensorflow/tfjs-core';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { valuesOf } from '../../testing/against-cpu.js';
import { emulated } from '../../testing/emulated.js';

/** Sizes of the dimensions by their letters. */
const SIZES: Record<string, number> = { a: 2, b: 3, c: 4, d: 5, e: 1 };

/** One or two terms of distinct letters, and an output of some of theirs in any order. */
const equation = fc
  .array(fc.shuffledSubarray(Object.keys(SIZES)), { minLength: 1, maxLength: 2 })
  .chain((terms) =>
    fc.record({
      terms: fc.constant(terms.map((letters) => letters.join(''))),
      output: fc.shuffledSubarray([...new Set(terms.flat())]).map((letters) => letters.join('')),
    }),
  );

/** The definition, in float64: the product of the terms summed over all letters that the output lacks. */
function einsumOf(
  terms: readonly string[],
  output: string,
  values: readonly Float32Array[],
): number[] {
  const letters = [...new Set(terms.join(''))];
  const index = (term: string, at: Record<string, number>) =>
    term.split('').reduce((i, letter) => i * (SIZES[letter] ?? 1) + (at[letter] ?? 0), 0);
  const count = (of: readonly string[]) => of.reduce((n, letter) => n * (SIZES[letter] ?? 1), 1);
  const out = Array.from({ length: count(output.split('')) }, () => 0);
  for (let i = 0; i < count(letters); i++) {
    const at: Record<string, number> = {};
    let rest = i;
    for (const letter of letters) {
      at[letter] = rest % (SIZES[letter] ?? 1);
      rest = Math.floor(rest / (SIZES[letter] ?? 1));
    }
    const product = terms.reduce((p, term, j) => p * (values[j]?.[index(term, at)] ?? 0), 1);
    const to = index(output, at);
    out[to] = (out[to] ?? 0) + product;
  }
  return out;
}

emulated('einsum', () => {
  test('every equation over one or two terms', async () => {
    await fc.assert(
      fc.asyncProperty(
        equation,
        fc.integer({ min: 1, max: 1e6 }),
        async ({ terms, output }, seed) => {
          const shapes = terms.map((term) => term.split('').map((letter) => SIZES[letter] ?? 1));
          const values = shapes.map((shape, i) => valuesOf(tf.util.sizeFromShape(shape), seed + i));
          const before = tf.memory().numTensors;
          const y = tf.tidy(() =>
            tf.einsum(
              `${terms.join(',')}->${output}`,
              ...values.map((each, i) => tf.tensor(each, shapes[i])),
            ),
          );
          const expected = einsumOf(terms, output, values);
          expect(y.shape).toEqual(output.split('').map((letter) => SIZES[letter]));
          const got = await y.data();
          for (const [i, v] of expected.entries()) expect(got[i]).toBeCloseTo(v, 4);
          y.dispose();
          expect(tf.memory().numTensors).toBe(before);
        },
      ),
      { numRuns: 40 },
    );
  });
});
