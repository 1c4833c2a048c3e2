import '@tensorflow/tfjs-backend-cpu';
import '@tensorflow/tfjs-backend-wasm';
import '@tensorflow/tfjs-layers';
import { Random } from '@d2dmoe/core';
import { bufferSource, openSafetensors } from '@d2dmoe/safetensors';
import { readFileSync } from 'node:fs';
import * as tf from '@tensorflow/tfjs-core';
import * as fc from 'fast-check';
import { beforeAll, describe, expect, test } from 'vitest';
import { type RegularizerName, regularizers } from './index.js';

const fixtures = await openSafetensors(
  bufferSource(
    readFileSync(new URL('../../../tools/fixtures/method.safetensors', import.meta.url)),
  ),
);

/** One token's term, in float64, as method and papers write it. */
const references: Record<RegularizerName, (row: number[], displacement: number) => number> = {
  l1: (row) => row.reduce((sum, a) => sum + Math.abs(a), 0),
  squareHoyer: hoyer,
  clampedPreactivation: (row, delta) => row.reduce((sum, z) => sum + Math.max(z, delta) - delta, 0),
  clampedPreactivationHoyer: (row, delta) => hoyer(row.map((z) => Math.max(z, delta) - delta)),
};

function hoyer(row: number[]): number {
  const l1 = row.reduce((sum, a) => sum + Math.abs(a), 0);
  const squares = row.reduce((sum, a) => sum + a * a, 0);
  return l1 ** 2 / (squares + 1e-15);
}

interface Case {
  name: RegularizerName;
  shape: number[];
  values: number[];
  displacement: number;
  mask: number[] | undefined;
}

const names = Object.keys(regularizers) as RegularizerName[];

/** Values keep their distance from the kinks at 0 and δ, where a finite difference says nothing. */
const cases: fc.Arbitrary<Case> = fc
  .record({
    name: fc.constantFrom(...names),
    shape: fc.array(fc.integer({ min: 1, max: 5 }), { minLength: 2, maxLength: 4 }),
    displacement: fc.constantFrom(-10, -2, 0),
    masked: fc.boolean(),
    seed: fc.integer(),
  })
  .map(({ name, shape, displacement, masked, seed }) => {
    const random = new Random(seed);
    const size = shape.reduce((product, n) => product * n, 1);
    const values = Array.from({ length: size }, () => (random.integer(40) - 19.5) * 0.7);
    const tokens = size / (shape.at(-1) ?? 1);
    const mask = Array.from({ length: tokens }, (_, i) => (i === 0 ? 1 : random.integer(2)));
    return { name, shape, values, displacement, mask: masked ? mask : undefined };
  });

function reference({ name, shape, displacement, mask }: Case, values: number[]): number {
  const neurons = shape.at(-1) ?? 1;
  let sum = 0;
  let count = 0;
  for (let token = 0; token < values.length / neurons; token++) {
    const weight = mask?.[token] ?? 1;
    const row = values.slice(token * neurons, (token + 1) * neurons);
    sum += weight * references[name](row, displacement);
    count += weight;
  }
  return sum / count;
}

function relativeDifference(actual: ArrayLike<number>, expected: ArrayLike<number>): number {
  expect(actual.length).toBe(expected.length);
  let difference = 0;
  let norm = 0;
  for (let i = 0; i < expected.length; i++) {
    difference += ((actual[i] as number) - (expected[i] as number)) ** 2;
    norm += (expected[i] as number) ** 2;
  }
  return norm === 0 ? Math.sqrt(difference) : Math.sqrt(difference / norm);
}

function valueAndGradient(
  regularizer: (values: tf.Tensor) => tf.Scalar,
  values: ArrayLike<number>,
  shape: number[],
): { value: number; gradient: Float32Array; gradientShape: number[] } {
  return tf.tidy(() => {
    const x = tf.tensor(Float32Array.from(values), shape);
    const { value, grad } = tf.valueAndGrad(regularizer)(x);
    return {
      value: value.dataSync()[0] as number,
      gradient: grad.dataSync() as Float32Array,
      gradientShape: grad.shape,
    };
  });
}

describe.each(['cpu', 'wasm'])('on %s', (backend) => {
  beforeAll(async () => {
    await tf.setBackend(backend);
  });

  test('values and gradients equal the float64 formula and its finite differences', () => {
    fc.assert(
      fc.property(cases, (drawn) => {
        const { name, shape, values, displacement, mask } = drawn;
        const options = { displacement, ...(mask && { mask: tf.tensor(mask) }) };
        const actual = valueAndGradient((x) => regularizers[name].term(x, options), values, shape);
        options.mask?.dispose();

        const expected = reference(drawn, values);
        expect(Math.abs(actual.value - expected)).toBeLessThan(1e-5 * Math.max(1, expected));

        const step = 1e-5;
        const differences = values.map((_, i) => {
          const at = (delta: number) =>
            reference(drawn, values.with(i, (values[i] as number) + delta));
          return (at(step) - at(-step)) / (2 * step);
        });
        // Where a term is constant (square Hoyer over one neuron) both sides are rounding.
        const scale = Math.max(1e-2, Math.hypot(...differences));
        const error = Math.hypot(...differences.map((d, i) => d - (actual.gradient[i] as number)));
        expect(error / scale).toBeLessThan(1e-4);
        expect(actual.gradientShape).toEqual(shape);
      }),
      { numRuns: 60 },
    );
  });

  // PyTorch's losses of a layer [2, 5, 24] in float64; l1's was taken through a ReLU.
  test.each([
    ['l1', 'l1.pre_activations', (z: tf.Tensor) => regularizers.l1.term(tf.relu(z))],
    ['square_hoyer', 'square_hoyer.activations', regularizers.squareHoyer.term],
    ['clamped', 'clamped.pre_activations', regularizers.clampedPreactivation.term],
    [
      'clamped_hoyer',
      'clamped.pre_activations',
      (z: tf.Tensor) => regularizers.clampedPreactivationHoyer.term(z, { displacement: -2 }),
    ],
  ] as const)('%s equals the values recorded from PyTorch', async (name, input, regularizer) => {
    const values = await fixtures.readFloat32(input);
    const actual = valueAndGradient((x) => regularizer(x), values, [2, 5, 24]);
    const loss = await fixtures.readFloat32(`${name}.loss`);
    const gradient = await fixtures.readFloat32(`${name}.gradient`);
    expect(relativeDifference([actual.value], loss)).toBeLessThan(1e-6);
    expect(relativeDifference(actual.gradient, gradient)).toBeLessThan(1e-6);
  });

  test.each(names)('%s: a token without activity has a finite value and derivative 0', (name) => {
    const { on, term } = regularizers[name];
    const idle = on === 'activation' ? [0, 0, 0] : [-10, -30, -11];
    const { value, gradient } = valueAndGradient((x) => term(x), [...idle, 3, 1, 0], [2, 3]);
    expect(value).toBeGreaterThan(0);
    expect(value).toBeLessThan(Infinity);
    expect(gradient.slice(0, 3)).toEqual(new Float32Array(3));
    expect(gradient.every(Number.isFinite)).toBe(true);
  });

  test.each(names)('%s: whatever padding holds, value and gradient stay', (name) => {
    const { term } = regularizers[name];
    const counted = [1, -2, 3, 0.5, 4, -1];
    const alone = valueAndGradient((x) => term(x), counted, [2, 3]);
    const mask = tf.tensor2d([[1, 0, 1, 0]], [1, 4], 'bool');
    const padded = valueAndGradient(
      (x) => term(x, { mask }),
      [...counted.slice(0, 3), 7, 8, 9, ...counted.slice(3), 0, 0, 0],
      [1, 4, 3],
    );
    expect(padded.value).toBeCloseTo(alone.value, 5);
    expect([...padded.gradient.slice(3, 6), ...padded.gradient.slice(9)]).toEqual([
      0, 0, 0, 0, 0, 0,
    ]);
    expect(
      relativeDifference(
        [...padded.gradient.slice(0, 3), ...padded.gradient.slice(6, 9)],
        alone.gradient,
      ),
    ).toBeLessThan(1e-6);

    const none = valueAndGradient(
      (x) => term(x, { mask: tf.zerosLike(mask) }),
      padded.gradient,
      [1, 4, 3],
    );
    expect(none.value).toBe(0);
    expect(none.gradient.every((derivative) => derivative === 0)).toBe(true);
    mask.dispose();
  });

  test('the gradient flows to a weight below and scales with what is done to the term above', () => {
    const weight = 0.8;
    const objective = (w: number) => 5 * hoyer([Math.max(0, 2 * w), Math.max(0, 3 * w + 1)]);
    const gradient = tf.tidy(() => {
      const w = tf.scalar(weight);
      const loss = tf.grad((w: tf.Tensor) => {
        const activations = tf.relu(
          tf.add(tf.mul(tf.tensor2d([[2, 3]]), w), tf.tensor2d([[0, 1]])),
        );
        return tf.mul(regularizers.squareHoyer.term(activations), 5);
      });
      return loss(w).dataSync()[0] as number;
    });
    const step = 1e-5;
    const difference = (objective(weight + step) - objective(weight - step)) / (2 * step);
    expect(gradient / difference).toBeCloseTo(1, 4);
  });

  test('nothing but the result stays in memory', () => {
    const x = tf.randomUniform([4, 3], -1, 1, 'float32', 1);
    const before = tf.memory().numTensors;
    for (const name of names) {
      const result = tf.tidy(() =>
        tf.valueAndGrad((a: tf.Tensor) => regularizers[name].term(a))(x),
      );
      expect(tf.memory().numTensors).toBe(before + 2);
      tf.dispose([result.value, result.grad]);
      regularizers[name].term(x).dispose();
      expect(tf.memory().numTensors).toBe(before);
    }
    x.dispose();
  });
});

test('values without a token axis, or a mask of another length, are refused', () => {
  expect(() => regularizers.l1.term(tf.tensor1d([1, 2]))).toThrow(/shape \[2\]/);
  expect(() => regularizers.l1.term(tf.ones([2, 3, 4]), { mask: tf.ones([2, 2]) })).toThrow(
    /4 elements; expected 6/,
  );
});
