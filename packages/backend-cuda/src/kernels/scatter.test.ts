import * as tf from '@tensorflow/tfjs-core';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { errorAgainstCpu, valuesOf } from '../../testing/against-cpu.js';
import { emulated } from '../../testing/emulated.js';
import { zeros } from './layout.js';

const seeds = fc.integer({ min: 1, max: 2 ** 31 });
const numRuns = 20;

/** Whole numbers in [low, high). */
function integers(count: number, low: number, high: number, seed: number): Int32Array {
  return Int32Array.from(
    valuesOf(count, seed),
    (value) => low + Math.floor(((value + 1) / 2) * (high - low)),
  );
}

/** Sums of rows by segment in float64. */
function segmentSums(x: Float32Array, ids: Int32Array, segments: number, width: number): number[] {
  const sums = zeros(segments * width);
  ids.forEach((id, row) => {
    if (id < 0 || id >= segments) return;
    for (let c = 0; c < width; c++) {
      sums[id * width + c] = (sums[id * width + c] ?? 0) + (x[row * width + c] ?? 0);
    }
  });
  return sums;
}

async function segmentError(ids: Int32Array, segments: number, width: number): Promise<number> {
  const x = valuesOf(ids.length * width, ids.length);
  const sums = tf.unsortedSegmentSum(
    tf.tensor2d(x, [ids.length, width]),
    tf.tensor1d(ids, 'int32'),
    segments,
  );
  const got = await sums.data();
  const expected = segmentSums(x, ids, segments, width);
  return expected.reduce((most, value, i) => Math.max(most, Math.abs(value - (got[i] ?? NaN))), 0);
}

emulated('gather and scatter', (cuda) => {
  test('rows are summed by segment, whatever their order and number', async () => {
    const cases = fc.record({
      rows: fc.integer({ min: 1, max: 300 }),
      width: fc.constantFrom(1, 3, 4, 8, 130),
      // One, two and three passes of the sort.
      segments: fc.constantFrom(1, 7, 300, 70_000),
      seed: seeds,
    });
    await fc.assert(
      fc.asyncProperty(cases, async ({ rows, width, segments, seed }) => {
        const ids = integers(rows, -2, segments + 2, seed);
        expect(await segmentError(ids, segments, segments > 300 ? 4 : width)).toBeLessThan(1e-5);
      }),
      { numRuns },
    );
  });

  test('a segment may span many blocks of the sort and of the sum', async () => {
    const ids = integers(5000, 0, 3, 11);
    expect(await segmentError(ids.fill(1, 1000, 4700), 3, 4)).toBeLessThan(1e-4);
    expect(await segmentError(new Int32Array(4100), 2, 1)).toBeLessThan(1e-4);
  });

  test('integers are summed as integers, truths are counted', async () => {
    const ids = tf.tensor1d([1, 0, 1, 5, -1], 'int32');
    const x = tf.tensor1d([2 ** 30, 3, 2 ** 24 + 1, 9, 9], 'int32');
    const sums = tf.unsortedSegmentSum(x, ids, 3);
    expect(await sums.data()).toEqual(Int32Array.of(3, 2 ** 30 + 2 ** 24 + 1, 0));
    const counts = tf.unsortedSegmentSum(tf.tensor1d([true, true, true, true, true]), ids, 3);
    expect(await counts.data()).toEqual(Int32Array.of(1, 2, 0));
  });

  test('the gradient of an embedding is that of the cpu backend', async () => {
    const ids = integers(60, 0, 9, 3);
    const table = { values: valuesOf(9 * 8, 4), shape: [9, 8] };
    const indices = { values: ids, shape: [3, 20] };
    const error = await errorAgainstCpu([table, indices], (w, i) => [
      tf.grad((t) => tf.square(tf.gather(t, i as tf.Tensor2D)))(w),
    ]);
    expect(error).toBeLessThan(1e-5);
  });

  test('gather along any axis, with batches', async () => {
    const cases = fc
      .record({
        shape: fc.array(fc.constantFrom(1, 2, 3, 4, 8), { minLength: 1, maxLength: 4 }),
        picks: fc.array(fc.integer({ min: 1, max: 5 }), { maxLength: 2 }),
        batchDims: fc.nat(1),
        axis: fc.nat(3),
        seed: seeds,
      })
      .filter(({ shape, axis, batchDims }) => axis < shape.length && batchDims <= axis);
    await fc.assert(
      fc.asyncProperty(cases, async ({ shape, picks, batchDims, axis, seed }) => {
        const batch = shape.slice(0, batchDims);
        const count = tf.util.sizeFromShape([...batch, ...picks]);
        const x = { shape, values: valuesOf(tf.util.sizeFromShape(shape), seed) };
        const indices = {
          shape: [...batch, ...picks],
          values: integers(count, 0, shape[axis] ?? 1, seed + 1),
        };
        const error = await errorAgainstCpu([x, indices], (a, i) => [
          tf.gather(a, i, axis, batchDims),
          tf.gather(tf.greater(a, 0), i, axis, batchDims),
        ]);
        expect(error).toBe(0);
      }),
      { numRuns },
    );
  });

  test('an index out of range throws where the host knows it, and gives zeros where it does not', async () => {
    const x = tf.tensor2d([1, 2, 3, 4], [2, 2]);
    expect(() => tf.gather(x, tf.tensor1d([0, 2], 'int32'))).toThrow(
      'GatherV2: the index value 2 is not in [0, 1]',
    );
    const onDevice = tf.add(tf.tensor1d([0, 2, -1], 'int32'), tf.scalar(0, 'int32'));
    expect(cuda().knownValues(onDevice)).toBeUndefined();
    expect(await tf.gather(x, onDevice).data()).toEqual(Float32Array.of(1, 2, 0, 0, 0, 0));
    expect(await tf.gatherND(x, tf.reshape(onDevice, [3, 1])).data()).toEqual(
      Float32Array.of(1, 2, 0, 0, 0, 0),
    );
    expect(() => tf.gatherND(x, tf.tensor2d([[0], [2]], [2, 1], 'int32'))).toThrow(
      'Invalid indices: 2 does not index into 2,2',
    );
  });

  test('elements named by coordinates are gathered, added and written', async () => {
    const cases = fc.record({
      rows: fc.integer({ min: 1, max: 40 }),
      slice: fc.constantFrom(1, 3, 4, 8),
      depth: fc.constantFrom(1, 2),
      seed: seeds,
    });
    await fc.assert(
      fc.asyncProperty(cases, async ({ rows, slice, depth, seed }) => {
        const shape = [...zeros(depth).fill(5), slice];
        const size = tf.util.sizeFromShape(shape);
        const inputs = [
          { shape: [rows, depth], values: integers(rows * depth, 0, 5, seed) },
          { shape: [rows, slice], values: valuesOf(rows * slice, seed + 1) },
          { shape, values: valuesOf(size, seed + 2) },
        ];
        const error = await errorAgainstCpu(inputs, (indices, updates, base) => [
          tf.gatherND(base, indices),
          tf.gatherND(tf.greater(base, 0), indices),
          tf.scatterND(indices, updates, shape),
          tf.scatterND(indices, tf.cast(tf.mul(updates, 99), 'int32'), shape),
          // The cpu backend writes into its input: it gets one of its own.
          tf.tensorScatterUpdate(tf.add(base, 0), indices, updates),
        ]);
        expect(error).toBeLessThan(1e-5);
      }),
      { numRuns },
    );
  });

  test('sparse values, a scalar for all of them, and defaults', async () => {
    const inputs = [
      { shape: [4], values: Int32Array.of(3, 0, 3, 6) },
      { shape: [4], values: Float32Array.of(1, 2, 3, 4) },
    ];
    const error = await errorAgainstCpu(inputs, (indices, values) => [
      tf.sparseToDense(indices, values, [8], tf.scalar(-1)),
      tf.sparseToDense(indices, tf.scalar(5), [8]),
      tf.sparseToDense(indices, tf.greater(values, 2), [8], tf.scalar(true)),
    ]);
    expect(error).toBe(0);
  });

  test('one-hot rows of every dtype', async () => {
    const inputs = [{ shape: [2, 2], values: Int32Array.of(0, 4, 2, -1) }];
    const error = await errorAgainstCpu(inputs, (i) => [
      tf.oneHot(i, 4, 2.5, -1, 'float32'),
      tf.oneHot(i, 4),
      tf.cast(tf.oneHot(i, 4, 1, 0, 'bool'), 'float32'),
    ]);
    expect(error).toBe(0);
  });
});
