import { Random } from '@d2dmoe/core';
import * as tf from '@tensorflow/tfjs-core';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { relativeError } from '../../../kernels/testing/closeness.js';
import { emulated } from '../../testing/emulated.js';
import { referenceProduct } from '../../testing/products.js';
import { HALF_TYPES, type HalfType } from '../tensor-data.js';
import { hopperTakes, planHopper } from './hopper-product.js';
import { hopperProduct } from './own-product.js';
import { complete, type Product } from './product.js';

/** Multiples of 1/8 in [-1, 1], which both types hold: float32 results are off by their sums' rounding alone. */
function eighths(count: number, seed: number): Float32Array {
  const random = new Random(seed);
  return Float32Array.from({ length: count }, () => (random.integer(17) - 8) / 8);
}

interface Case {
  batch: number;
  m: number;
  n: number;
  k: number;
  transposeA: boolean;
  transposeB: boolean;
  /** Whether one left matrix serves the whole batch. */
  isShared: boolean;
  hasBias: boolean;
  operands: HalfType;
  isHalf: boolean;
  seed: number;
}

/** The product's result and the float64 one. */
function results(backend: Parameters<typeof hopperProduct>[0], c: Case) {
  const { batch, m, n, k, transposeA, transposeB } = c;
  const outer = c.isShared ? [] : [batch];
  const a = eighths((c.isShared ? 1 : batch) * m * k, c.seed);
  const b = eighths(batch * k * n, c.seed + 1);
  const bias = eighths(n, c.seed + 2);
  const expected = referenceProduct(
    { values: a, shape: [...outer, ...(transposeA ? [k, m] : [m, k])], transpose: transposeA },
    { values: b, shape: [batch, ...(transposeB ? [n, k] : [k, n])], transpose: transposeB },
  ).values.map((value, i) => value + (c.hasBias ? (bias[i % n] as number) : 0));
  const actual = tf.tidy(() => {
    const size = [batch, m, n];
    const { operands, isHalf } = c;
    const out = isHalf ? backend.output16(size, operands) : backend.output(size, 'float32');
    const pointer = (values: Float32Array, half: boolean) => {
      const tensor = tf.tensor1d(values);
      return half ? backend.pointer16(tensor, operands) : backend.pointer(tensor);
    };
    const product: Product = {
      a: pointer(a, true),
      b: pointer(b, true),
      out: out.pointer,
      ...(c.hasBias && { bias: pointer(bias, isHalf) }),
      ...(c.isShared && { strideA: 0 }),
      batch,
      m,
      n,
      k,
      transposeA,
      transposeB,
      operands,
      result: isHalf ? operands : 'float32',
    };
    const whole = complete(operands, product);
    expect(hopperTakes(whole)).toBe(true);
    hopperProduct(backend, whole);
    return tf.engine().makeTensorFromTensorInfo(out).dataSync();
  });
  return { actual, expected };
}

const bars = { float32: 1e-6, bf16: 3e-3, fp16: 4e-4 };
const barOf = ({ isHalf, operands }: Case) => bars[isHalf ? operands : 'float32'];

emulated('products on Hopper', (cuda) => {
  test('give what float64 does, of any shape that the copy engine reads', () => {
    const side = fc.integer({ min: 1, max: 160 });
    const up = (value: number) => Math.ceil(value / 8) * 8;
    const cases: fc.Arbitrary<Case> = fc
      .record({
        batch: fc.integer({ min: 1, max: 3 }),
        m: side,
        n: side,
        k: side,
        transposeA: fc.boolean(),
        transposeB: fc.boolean(),
        isShared: fc.boolean(),
        hasBias: fc.boolean(),
        operands: fc.constantFrom(...HALF_TYPES),
        isHalf: fc.boolean(),
        seed: fc.nat(),
      })
      .map((c) => {
        // Lines of 16 bytes, of each of several matrices too.
        const { transposeA: ta, transposeB: tb, batch } = c;
        const m = ta ? up(c.m) : c.m;
        const n = tb ? c.n : up(c.n);
        const k = ta && !tb ? c.k : up(c.k);
        return { ...c, m, n, k, batch: (m * k) % 8 || (k * n) % 8 ? 1 : batch };
      });
    fc.assert(
      fc.property(cases, (c) => {
        const { actual, expected } = results(cuda(), c);
        expect(relativeError(actual, expected)).toBeLessThanOrEqual(barOf(c));
      }),
      { numRuns: 20 },
    );
  });

  const plain = {
    isShared: false,
    hasBias: true,
    isHalf: true,
    operands: 'bf16',
    seed: 1,
  } as const;

  test.each([
    [false, false],
    [false, true],
    [true, false],
    [true, true],
  ])('in wide tiles, transposes %s and %s', (transposeA, transposeB) => {
    const { multiprocessors } = cuda().device;
    // A wide tile for each multiprocessor, and a part of one more.
    const size = { batch: multiprocessors, m: 16, n: 136, k: 72 };
    const { actual, expected } = results(cuda(), { ...plain, ...size, transposeA, transposeB });
    expect(relativeError(actual, expected)).toBeLessThanOrEqual(bars.bf16);
  });

  test('of an odd number of rows, whose results begin anywhere', () => {
    const size = { batch: 2, m: 131, n: 16, k: 24, transposeA: false, transposeB: false };
    const { actual, expected } = results(cuda(), { ...plain, ...size, isHalf: false });
    expect(relativeError(actual, expected)).toBeLessThanOrEqual(bars.float32);
  });

  test('in parts of a tall sum', () => {
    const size = { batch: 1, m: 24, n: 40, k: 1096, transposeA: false, transposeB: true };
    const product = complete('bf16', { a: 0, b: 0, out: 0, ...size, operands: 'bf16' });
    expect(planHopper(product, cuda().device.multiprocessors).splits).toBeGreaterThan(1);
    for (const operands of HALF_TYPES) {
      for (const isHalf of [true, false]) {
        const c = { ...plain, ...size, operands, isHalf };
        const { actual, expected } = results(cuda(), c);
        expect(relativeError(actual, expected)).toBeLessThanOrEqual(barOf(c));
      }
    }
  });
});
