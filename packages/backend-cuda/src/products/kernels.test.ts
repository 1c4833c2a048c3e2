import * as tf from '@tensorflow/tfjs-core';
import fc from 'fast-check';
import { afterEach, expect, test } from 'vitest';
import { relativeError } from '../../../kernels/testing/closeness.js';
import { nearest } from '../../testing/halves.js';
import { emulated } from '../../testing/emulated.js';
import { referenceProduct } from '../../testing/products.js';
import type { Precision } from '../backend.js';
import { halfTypeOf } from '../tensor-data.js';
import { matMul } from './mat-mul.js';
import type { ProductType } from './product.js';

/** Standard-ish values in [-1, 1), from a seed. */
function values(count: number, seed: number): Float32Array {
  let state = seed >>> 0;
  return Float32Array.from({ length: count }, () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return (state >>> 8) / 2 ** 23 - 1;
  });
}

const BARS: Record<Precision, number> = { float32: 1e-5, tf32: 1e-3, bf16: 1e-2, fp16: 1e-3 };

emulated('matrix products', (cuda) => {
  afterEach(() => {
    cuda().precision = 'float32';
  });

  const size = fc.integer({ min: 1, max: 20 });
  const products = fc.record({
    m: size,
    n: size,
    k: fc.integer({ min: 1, max: 40 }),
    transposeA: fc.boolean(),
    transposeB: fc.boolean(),
    outer: fc.constantFrom(
      [[], []],
      [[3], [3]],
      [[3], [1]],
      [[1], [3]],
      [[2, 1], [3]],
      [
        [2, 1, 2],
        [1, 3, 2],
      ],
      [[], [2]],
    ),
    seed: fc.nat(),
  });

  const inputsOf = (p: typeof products extends fc.Arbitrary<infer T> ? T : never) => {
    const { m, n, k, transposeA, transposeB, outer, seed } = p;
    const [outerA = [], outerB = []] = outer;
    const make = (
      outer: readonly number[],
      lines: number,
      length: number,
      t: boolean,
      seed: number,
    ) => {
      const shape = [...outer, ...(t ? [length, lines] : [lines, length])];
      return { values: values(tf.util.sizeFromShape(shape), seed), shape, transpose: t };
    };
    return [
      make(outerA, m, k, transposeA, seed),
      make(outerB, k, n, transposeB, seed + 1),
    ] as const;
  };

  test.each(['float32', 'tf32', 'bf16', 'fp16'] as const)(
    '%s matMul agrees with float64',
    (precision) => {
      cuda().precision = precision;
      const half = halfTypeOf(precision);
      fc.assert(
        fc.property(products, (p) => {
          const [a, b] = inputsOf(p);
          if (half !== undefined) {
            // As the product takes them: few results whose terms cancel would be as far off as these are rounded.
            for (const { values } of [a, b])
              values.forEach((x, i) => (values[i] = nearest[half](x)));
          }
          const expected = referenceProduct(a, b);
          const before = tf.memory().numTensors;
          tf.tidy(() => {
            const x = tf.tensor(a.values, a.shape);
            const y = tf.tensor(b.values, b.shape);
            const out = tf.matMul(x, y, a.transpose, b.transpose);
            expect(out.shape).toEqual(expected.shape);
            expect(relativeError(out.dataSync(), expected.values)).toBeLessThan(BARS[precision]);
          });
          expect(tf.memory().numTensors).toBe(before);
        }),
        { numRuns: 25 },
      );
    },
  );

  const layouts = [
    [false, false],
    [false, true],
    [true, false],
    [true, true],
  ] as const;

  test.each(layouts)('tiles at every edge, transposes %s and %s', (transposeA, transposeB) => {
    const kinds: { operands: ProductType; result: ProductType; tf32?: boolean; bar: number }[] = [
      { operands: 'float32', result: 'float32', tf32: false, bar: 1e-5 },
      { operands: 'float32', result: 'float32', tf32: true, bar: 1e-3 },
      { operands: 'bf16', result: 'bf16', bar: 1e-2 },
      { operands: 'bf16', result: 'float32', bar: 1e-2 },
      { operands: 'fp16', result: 'fp16', bar: 1e-3 },
      { operands: 'fp16', result: 'float32', bar: 1e-3 },
    ];
    // Two tiles and a bit each way with steps of 16 bytes and without; a split sum.
    for (const [m, n, k] of [
      [136, 144, 72],
      [131, 133, 41],
      [9, 17, 530],
    ] as const) {
      const a = values(m * k, m);
      const b = values(k * n, n);
      const bias = values(n, k).map((value) => Math.round(value * 8) / 8);
      const expected = referenceProduct(
        { values: a, shape: transposeA ? [k, m] : [m, k], transpose: transposeA },
        { values: b, shape: transposeB ? [n, k] : [k, n], transpose: transposeB },
      ).values.map((value, i) => value + (bias[i % n] ?? 0));
      for (const { operands, result, tf32, bar } of kinds) {
        tf.tidy(() => {
          const backend = cuda();
          const pointer = (x: tf.Tensor, type: ProductType) => {
            const half = halfTypeOf(type);
            return half ? backend.pointer16(x, half) : backend.pointer(x);
          };
          const half = halfTypeOf(result);
          const info = half ? backend.output16([m, n], half) : backend.output([m, n], 'float32');
          matMul(backend, {
            a: pointer(tf.tensor1d(a), operands),
            b: pointer(tf.tensor1d(b), operands),
            out: info.pointer,
            bias: pointer(tf.tensor1d(bias), result),
            m,
            n,
            k,
            transposeA,
            transposeB,
            operands,
            result,
            ...(tf32 !== undefined && { tf32 }),
          });
          const got = tf.engine().makeTensorFromTensorInfo(info).dataSync();
          expect(relativeError(got, expected), `${operands} ${m}x${n}x${k}`).toBeLessThan(bar);
        });
      }
    }
  });

  test('matrix times vector, either way around and in batches', () => {
    for (const [m, n] of [
      [70, 1],
      [1, 70],
    ] as const) {
      for (const [transposeA, transposeB] of layouts) {
        for (const k of [64, 301]) {
          const a = {
            values: values(2 * m * k, k),
            shape: transposeA ? [2, k, m] : [2, m, k],
            transpose: transposeA,
          };
          const b = {
            values: values(2 * n * k, 5),
            shape: transposeB ? [2, n, k] : [2, k, n],
            transpose: transposeB,
          };
          tf.tidy(() => {
            const out = tf.matMul(
              tf.tensor(a.values, a.shape),
              tf.tensor(b.values, b.shape),
              transposeA,
              transposeB,
            );
            expect(relativeError(out.dataSync(), referenceProduct(a, b).values)).toBeLessThan(1e-5);
          });
        }
      }
    }
  });

  test('an empty sum is zero, and an empty side gives an empty result', () => {
    tf.tidy(() => {
      const zero = tf.matMul(tf.zeros([2, 3, 0]), tf.zeros([2, 0, 4]));
      expect(Array.from(zero.dataSync())).toEqual(Array.from({ length: 24 }, () => 0));
      expect(tf.matMul(tf.zeros([0, 5]), tf.zeros([5, 4])).shape).toEqual([0, 4]);
      expect(tf.matMul(tf.zeros([0, 2, 5]), tf.zeros([1, 5, 4])).shape).toEqual([0, 2, 4]);
    });
  });

  test('int32 products are exact modulo 2^32', () => {
    tf.tidy(() => {
      const a = tf.tensor2d([2 ** 30, 3, -7, 11], [2, 2], 'int32');
      const b = tf.tensor2d([8, 5, -6, 2 ** 20], [2, 2], 'int32');
      const out = tf.matMul(a, b);
      expect(out.dtype).toBe('int32');
      const sum = (x: number, y: number, z: number, w: number) =>
        (Math.imul(x, y) + Math.imul(z, w)) | 0;
      expect(Array.from(out.dataSync())).toEqual([
        sum(2 ** 30, 8, 3, -6),
        sum(2 ** 30, 5, 3, 2 ** 20),
        sum(-7, 8, 11, -6),
        sum(-7, 5, 11, 2 ** 20),
      ]);
    });
  });

  test('shapes that do not fit are named', () => {
    tf.tidy(() => {
      expect(() => tf.matMul(tf.zeros([2, 3]), tf.zeros([4, 5]))).toThrow(
        /\[2,3\] and \[4,5\].*3 and 4/,
      );
    });
  });

  const activations: Record<string, (x: number) => number> = {
    linear: (x) => x,
    relu: (x) => Math.max(0, x),
    relu6: (x) => Math.min(6, Math.max(0, x)),
    elu: (x) => (x < 0 ? Math.expm1(x) : x),
    sigmoid: (x) => 1 / (1 + Math.exp(-x)),
    leakyrelu: (x) => (x < 0 ? 0.3 * x : x),
    prelu: (x) => (x < 0 ? 0.25 * x : x),
  };

  test.each(Object.entries(activations))('fused %s with biases of any shape', (name, apply) => {
    const a = {
      values: values(2 * 5 * 33, 1).map((v) => 4 * v),
      shape: [2, 5, 33],
      transpose: false,
    };
    const b = { values: values(7 * 33, 2), shape: [1, 7, 33], transpose: true };
    const product = referenceProduct(a, b);
    for (const biasShape of [undefined, [7], [1, 7], [5, 7], [1], [2, 1, 1]]) {
      tf.tidy(() => {
        const bias = biasShape && tf.tensor(values(tf.util.sizeFromShape(biasShape), 3), biasShape);
        const sums = bias
          ? tf.add(tf.tensor(Float32Array.from(product.values), product.shape), bias).dataSync()
          : product.values;
        const out = tf.fused.matMul({
          a: tf.tensor3d(a.values, [2, 5, 33]),
          b: tf.tensor3d(b.values, [1, 7, 33]),
          transposeB: true,
          ...(bias && { bias }),
          activation: name as 'relu',
          preluActivationWeights: tf.scalar(0.25),
          leakyreluAlpha: 0.3,
        });
        expect(relativeError(out.dataSync(), Array.from(sums, apply))).toBeLessThan(1e-5);
      });
    }
  });

  test('NaN and infinities go through', () => {
    tf.tidy(() => {
      const a = tf.tensor2d([Number.NaN, 1, Number.POSITIVE_INFINITY, 1], [2, 2]);
      const out = tf.fused.matMul({ a, b: tf.eye(2), activation: 'relu' });
      expect(Array.from(out.dataSync())).toEqual([
        Number.NaN,
        Number.NaN,
        Number.POSITIVE_INFINITY,
        Number.NaN,
      ]);
    });
  });
});
