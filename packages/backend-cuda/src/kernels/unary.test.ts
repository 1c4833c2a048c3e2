import * as tf from '@tensorflow/tfjs-core';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { valuesOf } from '../../testing/against-cpu.js';
import { emulated } from '../../testing/emulated.js';
import { runKernel } from './run.js';

/** Φ, the normal distribution, by Simpson's rule on its density. */
function normal(x: number): number {
  const steps = 2000;
  const density = (t: number) => Math.exp((-t * t) / 2) / Math.sqrt(2 * Math.PI);
  let sum = density(0) + density(x);
  for (let i = 1; i < steps; i++) sum += (i % 2 === 1 ? 4 : 2) * density((x * i) / steps);
  return 0.5 + (sum * x) / steps / 3;
}
const sigmoid = (x: number) => 1 / (1 + Math.exp(-x));
const geluTanh = (x: number) =>
  0.5 * x * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3)));
const slope = (f: (x: number) => number, x: number) => (f(x + 1e-5) - f(x - 1e-5)) / 2e-5;

/** tf's functions of one tensor with the same in float64. */
const functions: [string, (x: number) => number, Record<string, unknown>?][] = [
  ['Abs', Math.abs],
  ['Acos', Math.acos],
  ['Acosh', Math.acosh],
  ['Asin', Math.asin],
  ['Asinh', Math.asinh],
  ['Atan', Math.atan],
  ['Atanh', Math.atanh],
  ['Ceil', Math.ceil],
  ['Cos', Math.cos],
  ['Cosh', Math.cosh],
  ['Elu', (x) => (x >= 0 ? x : Math.expm1(x))],
  ['Erf', (x) => (Number.isFinite(x) ? 2 * normal(x * Math.SQRT2) - 1 : Math.sign(x))],
  ['Exp', Math.exp],
  ['Expm1', Math.expm1],
  ['Floor', Math.floor],
  ['Log', Math.log],
  ['Log1p', Math.log1p],
  ['Neg', (x) => -x],
  ['Reciprocal', (x) => 1 / x],
  ['Relu', (x) => Math.max(0, x)],
  ['Relu6', (x) => Math.min(6, Math.max(0, x))],
  ['Rsqrt', (x) => 1 / Math.sqrt(x)],
  ['Sigmoid', sigmoid],
  ['Sign', (x) => (Number.isNaN(x) ? 0 : Math.sign(x))],
  ['Sin', Math.sin],
  ['Sinh', Math.sinh],
  ['Softplus', (x) => (x > 20 ? x : Math.log1p(Math.exp(x)))],
  ['Sqrt', Math.sqrt],
  ['Square', (x) => x * x],
  ['Tan', Math.tan],
  ['Tanh', Math.tanh],
  ['IsNan', (x) => Number(Number.isNaN(x))],
  ['IsInf', (x) => Number(Math.abs(x) === Number.POSITIVE_INFINITY)],
  ['IsFinite', (x) => Number(Number.isFinite(x))],
  ['LogicalNot', (x) => Number(x === 0)],
  ['Step', (x) => (x > 0 ? 1 : Number.isNaN(x) ? x : 0.25), { alpha: 0.25 }],
  ['LeakyRelu', (x) => (x < 0 ? 0.25 * x : x), { alpha: 0.25 }],
  [
    'ClipByValue',
    (x) => (x > 0.5 ? 0.5 : x < -2 ? -2 : x),
    { clipValueMin: -2, clipValueMax: 0.5 },
  ],
];

/** The greatest error of `got`, in proportion to 1 or to the value; NaN where only one of both is NaN. */
function errorOf(got: ArrayLike<number>, expected: readonly number[]): number {
  return expected.reduce((most, value, i) => {
    if (Object.is(got[i], value) || got[i] === Math.fround(value)) return most;
    const error = Math.abs((got[i] ?? Number.NaN) - value) / Math.max(1, Math.abs(value));
    return error <= most ? most : error;
  }, 0);
}

const special = [Number.NaN, Infinity, -Infinity, 0, 0.5, 1.5, 2.5, -0.5, -1.5, 14, -14, 1];

emulated('functions of one tensor', (cuda) => {
  test.each(functions)('%s follows its float64 form', async (name, f, attrs) => {
    const sizes = fc.oneof(fc.integer({ min: 0, max: 9 }), fc.integer({ min: 4090, max: 4110 }));
    await fc.assert(
      fc.asyncProperty(sizes, fc.nat(), async (size, seed) => {
        const values = Float32Array.from([...valuesOf(size, seed).map((v) => v * 4), ...special]);
        const x = tf.tensor1d(values);
        const y = runKernel(cuda(), name, { x }, attrs);
        const got = await tf.engine().makeTensorFromTensorInfo(y).data();
        expect(errorOf(got, [...values].map(f))).toBeLessThan(1e-5);
      }),
      { numRuns: 3 },
    );
  });

  test('Round goes to even, Cast to integers as typed arrays do', async () => {
    const values = [0.5, 1.5, 2.5, -0.5, -1.5, 2.4, 1e9, 3e9, 1e20, -3e9, Number.NaN, Infinity];
    const x = tf.tensor1d(values);
    expect([...(await tf.round(x).data())].slice(0, 6)).toEqual([0, 2, 2, -0, -2, 2]);
    expect([...(await tf.cast(x, 'int32').data())]).toEqual([
      ...Int32Array.from(Float32Array.from(values)),
    ]);
    expect([...(await tf.cast(x, 'bool').data())]).toEqual(values.map(() => 1));
  });

  test('integers stay integers', async () => {
    const x = tf.tensor1d([-7, 0, 9, 2 ** 31 - 1], 'int32');
    for (const f of [tf.relu6, tf.sign, tf.neg, tf.abs, tf.square] as const) {
      expect((f as (x: tf.Tensor) => tf.Tensor)(x).dtype).toBe('int32');
    }
    expect([...(await tf.relu6(x).data())]).toEqual([0, 0, 6, 6]);
    expect([...(await tf.square(x).data())]).toEqual([49, 0, 81, 1]);
    expect([...(await tf.clipByValue(x, -1.5, 2.5).data())]).toEqual([-1, 0, 2, 2]);
  });

  const activations: [string, (x: number) => number, Record<string, unknown>][] = [
    ['Gelu', (x) => x * normal(x), { approximation: 'erf' }],
    ['Gelu', geluTanh, { approximation: 'tanh' }],
    ['Silu', (x) => x * sigmoid(x), {}],
  ];
  test.each(activations)('%s and its gradient, in float32 and in bf16', async (name, f, attrs) => {
    const values = valuesOf(1003, 5).map((v) => v * 6);
    const x = tf.tensor1d(values);
    const dy = tf.tensor1d(valuesOf(1003, 6));
    const expected = [...values].map(f);
    const expectedGrad = [...values].map((v, i) => slope(f, v) * (valuesOf(1003, 6)[i] ?? 0));
    const y = runKernel(cuda(), name, { x }, attrs);
    const dx = runKernel(cuda(), `${name}Grad`, { x, dy }, attrs);
    expect(errorOf(cuda().hostValues(y), expected)).toBeLessThan(1e-5);
    expect(errorOf(cuda().hostValues(dx), expectedGrad)).toBeLessThan(1e-5);

    cuda().precision = 'bf16';
    const half = [x, dy].map((t) => {
      const out = cuda().output16(t.shape);
      cuda().copy(out.pointer, cuda().pointer16(t), 1003 * 2);
      return out;
    });
    const [x16, dy16] = half as unknown as [tf.TensorInfo, tf.TensorInfo];
    const y16 = runKernel(cuda(), name, { x: x16 }, attrs);
    const dx16 = runKernel(cuda(), `${name}Grad`, { x: x16, dy: dy16 }, attrs);
    expect([cuda().isOnly16(y16), cuda().isOnly16(dx16)]).toEqual([true, true]);
    expect(errorOf(cuda().hostValues(y16), expected)).toBeLessThan(1e-2);
    expect(errorOf(cuda().hostValues(dx16), expectedGrad)).toBeLessThan(2e-2);
    cuda().precision = 'float32';
  });

  test('strings and complex numbers are refused by name', () => {
    expect(() => runKernel(cuda(), 'Abs', { x: tf.tensor1d(['a']) })).toThrow(
      /Abs does not support string/,
    );
  });
});
