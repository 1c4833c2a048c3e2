import * as tf from '@tensorflow/tfjs-core';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { errorAgainstCpu, input, valuesOf } from '../../testing/against-cpu.js';
import { emulated } from '../../testing/emulated.js';
import { runKernel } from './run.js';

const shape = fc.array(fc.integer({ min: 1, max: 6 }), { minLength: 1, maxLength: 5 });

/** Reductions of floats, integers and bool along some axes. */
function all(axes: number[], keepDims: boolean): (x: tf.Tensor) => tf.Tensor[] {
  return (x) => {
    const integers = tf.cast(tf.mul(x, 9), 'int32');
    const truths = tf.greater(x, -0.7);
    return [
      tf.sum(x, axes, keepDims),
      tf.mean(x, axes, keepDims),
      tf.prod(x, axes, keepDims),
      tf.max(x, axes, keepDims),
      tf.min(x, axes, keepDims),
      tf.sum(integers, axes, keepDims),
      tf.max(integers, axes, keepDims),
      tf.min(integers, axes, keepDims),
      tf.sum(truths, axes, keepDims),
      tf.all(truths, axes, keepDims),
      tf.any(tf.logicalNot(truths), axes, keepDims),
      tf.argMax(x, axes[0] ?? 0),
      tf.argMin(integers, axes[0] ?? 0),
    ];
  };
}

emulated('reductions', (cuda) => {
  test('any axes of any shape', async () => {
    await fc.assert(
      fc.asyncProperty(
        shape,
        fc.nat(),
        fc.boolean(),
        fc.nat(30),
        async (dims, seed, keepDims, bits) => {
          const axes = dims
            .map((_, axis) => axis)
            .filter((axis) => (((bits + 1) >> axis) & 1) === 1);
          const error = await errorAgainstCpu([input(dims, seed)], all(axes, keepDims));
          expect(error).toBeLessThan(1e-6);
        },
      ),
      { numRuns: 12 },
    );
  });

  test.each([
    { shape: [3, 1025], axes: [1], form: 'a block for each row' },
    { shape: [2, 20_000], axes: [1], form: 'rows in parts' },
    { shape: [300, 7], axes: [0], form: 'columns' },
    { shape: [9000, 40], axes: [0], form: 'columns in parts' },
    { shape: [2, 3000, 3], axes: [1], form: 'columns within a batch' },
    { shape: [40, 3, 50], axes: [0, 2], form: 'two passes' },
    { shape: [12, 1, 5000, 2], axes: [0, 2], form: 'two passes, the first in parts' },
    { shape: [20_001], axes: [0], form: 'everything' },
  ])('$form: $shape along $axes', async ({ shape: dims, axes }) => {
    const compute = (x: tf.Tensor) => all(axes, false)(x).filter((_, i) => i !== 2);
    expect(await errorAgainstCpu([input(dims, 7)], compute)).toBeLessThan(1e-6);
  });

  test('NaN: maxima hand it on, ArgMax passes it over unless it comes first', async () => {
    const x = tf.tensor2d([1, Number.NaN, 3, Number.NaN, 5, 4], [2, 3]);
    expect([...(await tf.max(x, 1).data())]).toEqual([Number.NaN, Number.NaN]);
    expect([...(await tf.min(x, 0).data())]).toEqual([Number.NaN, Number.NaN, 3]);
    expect([...(await tf.argMax(x, 1).data())]).toEqual([2, 0]);
  });

  test('of nothing: sums are 0, products 1', async () => {
    const x = tf.zeros([2, 0]);
    expect([...(await tf.sum(x, 1).data())]).toEqual([0, 0]);
    expect([...(await tf.prod(x, 1).data())]).toEqual([1, 1]);
    expect(tf.sum(x, 0).shape).toEqual([0]);
  });

  test('a sum reads bf16 where nothing else exists', () => {
    const values = valuesOf(60 * 16, 3);
    const t = tf.tensor2d(values, [60, 16]);
    const half = cuda().output16([60, 16]);
    cuda().copy(half.pointer, cuda().pointer16(t), t.size * 2);
    const sums = cuda().hostValues(runKernel(cuda(), 'Sum', { x: half }, { axis: [0] }));
    expect(cuda().isOnly16(half)).toBe(true);
    const rounded = cuda().hostValues(half);
    for (let c = 0; c < 16; c++) {
      let sum = 0;
      for (let r = 0; r < 60; r++) sum += rounded[r * 16 + c] ?? 0;
      expect(sums[c]).toBeCloseTo(sum, 5);
    }
  });

  test.each([5, 129, 512, 600])('softmax and its logarithm of rows of %i', async (n) => {
    const compute = (x: tf.Tensor) => {
      const logits = tf.add(tf.mul(x, 20), 1000);
      const logarithm = tf.engine().runKernel<tf.Tensor>('LogSoftmax', { logits }, { axis: -1 });
      return [tf.softmax(logits), logarithm];
    };
    await tf.setBackend('cuda');
    const x = tf.tensor2d(valuesOf(3 * n, 9), [3, n]);
    const [p, log] = tf.tidy(() => compute(x)).map((t) => t.dataSync());
    for (let row = 0; row < 3; row++) {
      const logits = Array.from({ length: n }, (_, i) =>
        Math.fround(Math.fround((valuesOf(3 * n, 9)[row * n + i] ?? 0) * 20) + 1000),
      );
      const greatest = Math.max(...logits);
      const sum = logits.reduce((s, v) => s + Math.exp(v - greatest), 0);
      for (const [i, v] of logits.entries()) {
        const exact = v - greatest - Math.log(sum);
        expect(Math.abs((p?.[row * n + i] ?? NaN) / Math.exp(exact) - 1)).toBeLessThan(1e-5);
        expect(Math.abs((log?.[row * n + i] ?? NaN) - exact)).toBeLessThan(
          1e-5 * Math.max(1, -exact),
        );
      }
    }
  });

  test('counts, and sums of weights', async () => {
    const values = Int32Array.from(valuesOf(700, 4), (v) => Math.floor((v + 1) * 6));
    const inputs = [{ values, shape: [700] }, input([700], 5)];
    const compute = (x: tf.Tensor, w: tf.Tensor) => {
      const [flat, weights] = [x as tf.Tensor1D, w as tf.Tensor1D];
      const [rows, weights2] = [
        tf.reshape<tf.Rank.R2>(x, [7, 100]),
        tf.reshape<tf.Rank.R2>(w, [7, 100]),
      ];
      const none = tf.tensor1d([]);
      return [
        tf.bincount(flat, weights, 9),
        tf.bincount(flat, none, 20),
        tf.denseBincount(rows, weights2, 9),
        tf.denseBincount(rows, none as unknown as tf.Tensor2D, 9, true),
      ];
    };
    expect(await errorAgainstCpu(inputs, compute)).toBeLessThan(1e-6);
  });
});
