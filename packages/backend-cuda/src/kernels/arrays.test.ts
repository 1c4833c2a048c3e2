import * as tf from '@tensorflow/tfjs-core';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { errorAgainstCpu, type Input, input } from '../../testing/against-cpu.js';
import { emulated } from '../../testing/emulated.js';
import { kernel } from '../launch.js';
import { at, zeros } from './layout.js';

const seeds = fc.integer({ min: 1, max: 2 ** 31 });
const numRuns = 25;

/** Extents among which are whole vectors of 16 bytes and sides of a tile in shared memory. */
const extents = fc.constantFrom(1, 2, 3, 4, 5, 8, 16);
const shapes = fc.array(extents, { minLength: 1, maxLength: 4 });

/** Random numbers as int32 where `isInt`. */
function numbers(shape: number[], seed: number, isInt: boolean): Input {
  const { values } = input(shape, seed);
  return { shape, values: isInt ? Int32Array.from(values, (v) => Math.floor(v * 1000)) : values };
}

/** The same op on all three widths: the number, and whether it is positive. */
function onBoth(op: (x: tf.Tensor) => tf.Tensor | tf.Tensor[]): (x: tf.Tensor) => tf.Tensor[] {
  return (x) => [op(x), op(tf.greater(x, 0))].flat();
}

emulated('arrays', (cuda) => {
  /** The greatest difference from the cpu backend, plus the number of tensors that were left behind. */
  const mistakes = async (inputs: Input[], op: (...x: tf.Tensor[]) => tf.Tensor[]) => {
    const before = cuda().numDataIds();
    return (await errorAgainstCpu(inputs, op)) + Math.abs(cuda().numDataIds() - before);
  };

  test('transpose moves what the cpu backend moves', async () => {
    const cases = shapes.chain((shape) =>
      fc.record({
        shape: fc.constant(shape),
        perm: fc.shuffledSubarray([...shape.keys()], { minLength: shape.length }),
        isInt: fc.boolean(),
        seed: seeds,
      }),
    );
    await fc.assert(
      fc.asyncProperty(cases, async ({ shape, perm, isInt, seed }) => {
        expect(
          await mistakes(
            [numbers(shape, seed, isInt)],
            onBoth((x) => tf.transpose(x, perm)),
          ),
        ).toBe(0);
      }),
      { numRuns },
    );
  });

  test('matrices are transposed by tiles, with ragged edges and a batch', async () => {
    for (const [shape, perm] of [
      [
        [70, 130],
        [1, 0],
      ],
      [
        [2, 65, 3, 64],
        [2, 3, 0, 1],
      ],
      [
        [3, 33, 40, 2],
        [0, 2, 1, 3],
      ],
      [
        [9, 120, 2],
        [1, 0, 2],
      ],
    ] as const) {
      expect(
        await mistakes(
          [input([...shape], 7)],
          onBoth((x) => tf.transpose(x, [...perm])),
        ),
      ).toBe(0);
    }
  });

  test('more axes than a kernel takes at once', async () => {
    const shape = [2, 3, 2, 3, 2, 3, 2, 3];
    expect(
      await mistakes([input(shape, 1)], (x) => [tf.transpose(x, [7, 5, 3, 1, 6, 4, 2, 0])]),
    ).toBe(0);
    expect(
      await mistakes([input([2, 1, 2, 3, 2, 3], 1)], (x) => [tf.tile(x, [2, 2, 2, 2, 2, 2])]),
    ).toBe(0);
  });

  test('slices, reversals, tiles and splits', async () => {
    const cases = shapes.chain((shape) =>
      fc.record({
        shape: fc.constant(shape),
        ends: fc.tuple(...shape.map((n) => fc.tuple(fc.nat(n - 1), fc.nat(n - 1)))),
        steps: fc.tuple(...shape.map(() => fc.constantFrom(-2, -1, 1, 2, 3))),
        axes: fc.subarray([...shape.keys()]),
        reps: fc.tuple(...shape.map(() => fc.integer({ min: 0, max: 3 }))),
        axis: fc.nat(shape.length - 1),
        isInt: fc.boolean(),
        seed: seeds,
      }),
    );
    await fc.assert(
      fc.asyncProperty(cases, async (c) => {
        const begin = c.ends.map((pair) => Math.min(...pair));
        const end = c.ends.map((pair) => Math.max(...pair));
        const extent = at(c.shape, c.axis);
        expect(
          await mistakes([numbers(c.shape, c.seed, c.isInt)], (x) => [
            ...onBoth((t) =>
              tf.slice(
                t,
                begin,
                end.map((e, i) => e - at(begin, i) + 1),
              ),
            )(x),
            ...onBoth((t) => tf.reverse(t, c.axes))(x),
            ...onBoth((t) => tf.tile(t, c.reps))(x),
            ...onBoth((t) =>
              tf.split(t, [extent - Math.floor(extent / 2), Math.floor(extent / 2)], c.axis),
            )(x),
            ...onBoth((t) => tf.unstack(t, c.axis))(x),
            tf.stridedSlice(
              x,
              c.steps.map((s, i) => (s > 0 ? at(begin, i) : at(end, i))),
              c.steps.map((s, i) => (s > 0 ? at(end, i) : at(begin, i))),
              c.steps,
            ),
          ]),
        ).toBe(0);
      }),
      { numRuns },
    );
  });

  test('concat and stack', async () => {
    const cases = shapes.chain((shape) =>
      fc.record({
        shape: fc.constant(shape),
        axis: fc.nat(shape.length - 1),
        sizes: fc.array(fc.integer({ min: 0, max: 9 }), { minLength: 2, maxLength: 4 }),
        seed: seeds,
      }),
    );
    await fc.assert(
      fc.asyncProperty(cases, async ({ shape, axis, sizes, seed }) => {
        expect(
          await mistakes(
            sizes.map((n, i) => input(Array.from<number>(shape).with(axis, n), seed + i)),
            (...x) => [
              tf.concat(x, axis),
              tf.concat(
                x.map((t) => tf.greater(t, 0)),
                axis,
              ),
              tf.stack([at(x, 0), at(x, 0), at(x, 0)], axis),
            ],
          ),
        ).toBe(0);
      }),
      { numRuns },
    );
  });

  test('constant and mirrored padding', async () => {
    const cases = fc
      .array(fc.constantFrom(2, 3, 4, 8), { minLength: 1, maxLength: 4 })
      .chain((shape) =>
        fc.record({
          shape: fc.constant(shape),
          paddings: fc.tuple(
            ...shape.map((n) => fc.tuple(fc.constantFrom(0, 0, 1, 4), fc.nat(n - 1))),
          ),
          constant: fc.constantFrom(0, 1, -3),
          isInt: fc.boolean(),
          seed: seeds,
        }),
      );
    await fc.assert(
      fc.asyncProperty(cases, async ({ shape, paddings, constant, isInt, seed }) => {
        const mirrored = paddings.map(([a, b], i): [number, number] => [
          Math.min(a, at(shape, i) - 1),
          b,
        ]);
        expect(
          await mistakes([numbers(shape, seed, isInt)], (x) => [
            tf.pad(x, paddings, constant),
            tf.pad(tf.greater(x, 0), paddings, 1),
            tf.mirrorPad(x, mirrored, 'reflect'),
            tf.mirrorPad(x, mirrored, 'symmetric'),
          ]),
        ).toBe(0);
      }),
      { numRuns },
    );
  });

  test('space, batch and depth', async () => {
    expect(
      await mistakes([input([2, 4, 6, 3], 5)], (x) => {
        const image = x as tf.Tensor4D;
        const blocks = tf.spaceToBatchND(
          image,
          [2, 3],
          [
            [1, 1],
            [0, 3],
          ],
        );
        const back = tf.batchToSpaceND(
          blocks,
          [2, 3],
          [
            [1, 1],
            [0, 3],
          ],
        );
        return [blocks, back, tf.depthToSpace(tf.reshape(image, [2, 2, 3, 12]), 2)];
      }),
    ).toBe(0);
  });

  test('pieces of other dtypes take that of the first', async () => {
    expect(
      await mistakes([input([3], 1), numbers([4], 2, true)], (a, b) => [
        tf.concat([a, b]),
        tf.concat([b, a]),
      ]),
    ).toBe(0);
  });

  test('strings are moved on the host', async () => {
    const x = tf.tensor2d(['a', 'b', 'c', 'd', 'e', 'f'], [2, 3], 'string');
    const [first, second] = tf.unstack(x) as [tf.Tensor, tf.Tensor];
    expect(await tf.concat([second, first]).data()).toEqual(['d', 'e', 'f', 'a', 'b', 'c']);
    expect(await tf.slice(x, [0, 1], [2, 1]).data()).toEqual(['b', 'e']);
    expect(await tf.tile(tf.slice(x, [1, 0], [1, 2]), [2, 2]).data()).toEqual(
      ['d', 'e', 'd', 'e'].concat(['d', 'e', 'd', 'e']),
    );
    const gathered = (name: string, named: tf.NamedTensorMap, attrs: Record<string, number> = {}) =>
      tf.engine().runKernel<tf.Tensor>(name, named, attrs).data();
    const indices = tf.tensor1d([2, 0], 'int32');
    expect(await gathered(tf.GatherV2, { x, indices }, { axis: 1 })).toEqual(['c', 'a', 'f', 'd']);
    expect(
      await gathered(tf.GatherNd, { params: x, indices: tf.tensor2d([[1]], [1, 1], 'int32') }),
    ).toEqual(['d', 'e', 'f']);
  });

  test('complex numbers move part by part', async () => {
    const x = tf.complex(tf.tensor2d([[1, 2, 3]]), tf.tensor2d([[4, 5, 6]]));
    const moved = tf.concat([
      tf.reverse(x, 1),
      tf.pad(
        tf.slice(x, [0, 1], [1, 2]),
        [
          [0, 0],
          [1, 0],
        ],
        7,
      ),
    ]);
    expect(await moved.data()).toEqual(Float32Array.of(3, 6, 2, 5, 1, 4, 7, 0, 2, 5, 3, 6));
  });

  test('what exists in bf16 only stays so', async () => {
    const backend = cuda();
    const values = Float32Array.from({ length: 2 * 3 * 16 }, (_, i) => i);
    const x = tf.tensor(values, [2, 3, 16]);
    const half = backend.output16([2, 3, 16]);
    backend.copy(half.pointer, backend.pointer16(x), values.length * 2);
    const halves = tf.engine().makeTensorFromTensorInfo(half);
    const index = tf.tensor1d([2, 0], 'int32');
    for (const op of [
      (t: tf.Tensor) => tf.transpose(t, [1, 0, 2]),
      (t: tf.Tensor) => tf.transpose(t),
      (t: tf.Tensor) => tf.slice(t, [0, 1, 3], [2, 2, 8]),
      (t: tf.Tensor) => tf.gather(t, index, 1),
      (t: tf.Tensor) => tf.concat([t, t], 2),
    ]) {
      const moved = op(halves);
      expect(backend.isOnly16(moved)).toBe(true);
      expect(await moved.data()).toEqual(await op(x).data());
    }
    expect(backend.isOnly16(halves)).toBe(true);
    // Both forms exist of x: the exact one is read.
    expect(backend.isOnly16(tf.transpose(x))).toBe(false);
  });

  test('copies of more than 2^31 elements count in 64 bits', async () => {
    const backend = cuda();
    const x = tf.tensor2d([1, 2, 3, 4, 5, 6], [2, 3]);
    const output = backend.output([3, 2], 'float32');
    const copy = kernel('arrays', 'arrays_copy_wide_4', 'p p l l*19');
    const pad = (list: number[]) => [...list, ...zeros(6 - list.length)];
    const axes = [2, ...pad([2, 3]), ...pad([3, 1]), ...pad([1, 2])];
    backend.launch(copy, 1, 256, [backend.pointer(x), output.pointer, 6, axes]);
    expect(Array.from(backend.hostValues(output))).toEqual([1, 4, 2, 5, 3, 6]);
    backend.disposeData(output.dataId);
  });
});
