import * as tf from '@tensorflow/tfjs-core';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { errorAgainstCpu, input, valuesOf } from '../../testing/against-cpu.js';
import { emulated } from '../../testing/emulated.js';
import { runKernel } from './run.js';

type Operation = (a: tf.Tensor, b: tf.Tensor) => tf.Tensor;
const operations: [string, Operation][] = [
  ['add', tf.add],
  ['sub', tf.sub],
  ['mul', tf.mul],
  ['div', tf.div],
  ['floorDiv', tf.floorDiv],
  ['mod', tf.mod],
  ['maximum', tf.maximum],
  ['minimum', tf.minimum],
  ['pow', (a, b) => tf.pow(tf.abs(a), b)],
  ['squaredDifference', tf.squaredDifference],
  ['atan2', tf.atan2],
  ['equal', tf.equal],
  ['notEqual', tf.notEqual],
  ['greater', tf.greater],
  ['greaterEqual', tf.greaterEqual],
  ['less', tf.less],
  ['lessEqual', tf.lessEqual],
  ['logicalAnd', (a, b) => tf.logicalAnd(tf.greater(a, 0), tf.less(b, 0.5))],
  ['logicalOr', (a, b) => tf.logicalOr(tf.greater(a, 0), tf.less(b, 0.5))],
  ['prelu', (a, b) => tf.prelu(a, b)],
];

const dimension = fc.record({
  extent: fc.integer({ min: 1, max: 6 }),
  a: fc.boolean(),
  b: fc.boolean(),
});
const shapes = fc.array(dimension, { maxLength: 4 }).map((dimensions) => ({
  a: dimensions.map((d) => (d.a ? d.extent : 1)),
  b: dimensions.map((d) => (d.b ? d.extent : 1)),
}));

emulated('functions of two tensors', (cuda) => {
  test.each(operations)('%s broadcasts as on the cpu', async (name, operation) => {
    const types = fc.constantFrom('float32' as const, 'int32' as const);
    await fc.assert(
      fc.asyncProperty(shapes, fc.nat(), types, async ({ a, b }, seed, dtype) => {
        // Away from 0 for quotients; atan2 and prelu take floats.
        const scaled = (t: tf.Tensor): tf.Tensor =>
          dtype === 'int32' && !/atan2|prelu/.test(name)
            ? tf.cast(tf.round(tf.add(tf.mul(t, 3), tf.mul(tf.sign(t), 0.51))), 'int32')
            : tf.mul(t, 3);
        const compute = (x: tf.Tensor, y: tf.Tensor) => [operation(scaled(x), scaled(y))];
        const error = await errorAgainstCpu([input(a, seed), input(b, seed + 1)], compute);
        expect(error).toBeLessThan(1e-5);
      }),
      { numRuns: 6 },
    );
  });

  test.each([
    [[5000], [5000]],
    [[37, 132], [132]],
    [
      [37, 132],
      [37, 1],
    ],
    [[1], [4099]],
    [
      [3, 1, 700],
      [1, 2, 700],
    ],
  ])('add of %j and %j: whole packs and what is left', async (a, b) => {
    const compute = (x: tf.Tensor, y: tf.Tensor) => [tf.add(x, y)];
    expect(await errorAgainstCpu([input(a, 1), input(b, 2)], compute)).toBe(0);
  });

  test('NaN stays NaN in maxima; int32 wraps; division by 0 is 0 as an integer', async () => {
    const x = tf.tensor1d([Number.NaN, 1]);
    expect([...(await tf.maximum(x, [0, Number.NaN]).data())]).toEqual([Number.NaN, Number.NaN]);
    const i = tf.tensor1d([2 ** 31 - 1, 7, -7], 'int32');
    expect([...(await tf.add(i, tf.scalar(1, 'int32')).data())]).toEqual([-(2 ** 31), 8, -6]);
    expect([...(await tf.floorDiv(i, tf.scalar(0, 'int32')).data())]).toEqual([0, 0, 0]);
    expect([...(await tf.floorDiv(i, tf.scalar(2, 'int32')).data())]).toEqual([2 ** 30 - 1, 3, -4]);
    expect([...(await tf.pow(tf.tensor1d([1, -1]), tf.scalar(Infinity)).data())]).toEqual([
      NaN,
      NaN,
    ]);
  });

  test('complex sums and products, select, sums of many', async () => {
    const inputs = [input([2, 3], 1), input([2, 3], 2), input([3], 3), input([3], 4)];
    const compute = (a: tf.Tensor, b: tf.Tensor, c: tf.Tensor, d: tf.Tensor): tf.Tensor[] => {
      const x = tf.complex(a, b);
      const y = tf.complex(c, d);
      const parts = [tf.add(x, y), tf.sub(x, y), tf.mul(x, y)].flatMap((z) => [
        tf.real(z),
        tf.imag(z),
      ]);
      return [...parts, tf.abs(x), tf.where(tf.greater(a, 0), a, b), tf.addN([a, b, a])];
    };
    expect(await errorAgainstCpu(inputs, compute)).toBeLessThan(1e-6);
  });

  test('in bf16: sums and products of activations stay in 16 bits, a float32 summand of full size does not', () => {
    cuda().precision = 'bf16';
    const inHalf = (shape: number[], seed: number): tf.TensorInfo => {
      const t = tf.tensor(valuesOf(tf.util.sizeFromShape(shape), seed), shape);
      const out = cuda().output16(shape);
      cuda().copy(out.pointer, cuda().pointer16(t), t.size * 2);
      t.dispose();
      return out;
    };
    // Made anew for each case: reading a tensor gives it a float32 form too.
    const a = () => inHalf([5, 24], 1);
    const b = () => inHalf([5, 24], 2);
    const bias = () => tf.tensor1d(valuesOf(24, 3));
    const residual = () => tf.tensor2d(valuesOf(120, 4), [5, 24]);
    const cases: [string, () => tf.TensorInfo, () => tf.TensorInfo, boolean][] = [
      ['Add', a, b, true],
      ['Multiply', a, b, true],
      ['Add', a, bias, true],
      ['Add', bias, a, true],
      ['Add', residual, a, false],
      ['Multiply', a, residual, false],
      ['Add', bias, residual, false],
    ];
    for (const [name, makeLeft, makeRight, half] of cases) {
      const [left, right] = [makeLeft(), makeRight()];
      const out = runKernel(cuda(), name, { a: left, b: right });
      expect(cuda().isOnly16(out)).toBe(half);
      const [x, y, z] = [left, right, out].map((t) => Float32Array.from(cuda().hostValues(t)));
      for (let i = 0; i < 120; i++) {
        const p = x?.[i % x.length] ?? NaN;
        const q = y?.[i % y.length] ?? NaN;
        const error = Math.abs((z?.[i] ?? NaN) - (name === 'Add' ? p + q : p * q));
        expect(error).toBeLessThan(half ? 1e-2 : 1e-6);
      }
      for (const t of [left, right, out]) cuda().disposeIntermediateTensorInfo(t);
    }
    cuda().precision = 'float32';
  });
});
