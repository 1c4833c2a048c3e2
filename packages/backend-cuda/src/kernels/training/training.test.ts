import {
  activate,
  Adam,
  clippingScale,
  linear,
  rotate,
  rotaryTables,
  softmaxCrossEntropy,
} from '@d2dmoe/kernels';
import '@tensorflow/tfjs-backend-cpu';
import '@tensorflow/tfjs-layers';
import * as tf from '@tensorflow/tfjs-core';
import fc from 'fast-check';
import { afterEach, expect, test } from 'vitest';
import { valuesOf } from '../../../testing/against-cpu.js';
import { emulated } from '../../../testing/emulated.js';
import { relativeError } from '../../../../kernels/testing/closeness.js';

const seeds = fc.integer({ min: 1, max: 1e6 });

/** [rows × inner] · [inner × columns] in float64, with b's rows or columns as its inner axis. */
function product(
  a: ArrayLike<number>,
  b: ArrayLike<number>,
  [rows, inner, columns]: [number, number, number],
  { transposeA = false, transposeB = false } = {},
): Float64Array {
  return Float64Array.from({ length: rows * columns }, (_, at) => {
    const [i, j] = [Math.floor(at / columns), at % columns];
    let sum = 0;
    for (let k = 0; k < inner; k++) {
      const left = a[transposeA ? k * rows + i : i * inner + k] as number;
      sum += left * (b[transposeB ? j * inner + k : k * columns + j] as number);
    }
    return sum;
  });
}

/** Holds what `run` gives on the backend against what it gives on tfjs's cpu. */
async function expectAsOnCpu(run: () => ArrayLike<number>[], tolerance: number): Promise<void> {
  const got = run();
  await tf.setBackend('cpu');
  const expected = run();
  await tf.setBackend('cuda');
  for (const [i, values] of got.entries()) {
    expect(relativeError(values, expected[i] ?? [])).toBeLessThan(tolerance);
  }
}

emulated('training', (cuda) => {
  afterEach(() => {
    cuda().precision = 'float32';
  });

  test.each([
    ['float32', 1e-5],
    ['bf16', 1e-2],
    ['fp16', 1e-3],
  ] as const)('%s: linear and its gradients equal float64’s', (precision, tolerance) => {
    cuda().precision = precision;
    const size = fc.oneof(fc.integer({ min: 1, max: 40 }), fc.constantFrom(8, 16, 72));
    fc.assert(
      fc.property(
        fc.tuple(size, size, size),
        fc.boolean(),
        fc.boolean(),
        seeds,
        ([rows, dIn, dOut], transposed, biased, seed) => {
          const x = valuesOf(rows * dIn, seed);
          const weight = valuesOf(dIn * dOut, seed + 1);
          const bias = valuesOf(dOut, seed + 2);
          const dy = valuesOf(rows * dOut, seed + 3);
          const got = tf.tidy(() => {
            const inputs: tf.Tensor[] = [
              tf.tensor2d(x, [rows, dIn]),
              tf.tensor2d(weight, transposed ? [dIn, dOut] : [dOut, dIn]),
            ];
            if (biased) inputs.push(tf.tensor1d(bias));
            const op = (...[x, weight, bias]: tf.Tensor[]) =>
              linear(x as tf.Tensor2D, weight as tf.Tensor2D, bias as tf.Tensor1D | undefined, {
                transposed,
              });
            const gradients = tf.grads(op)(inputs, tf.tensor2d(dy, [rows, dOut]));
            return [op(...inputs), ...gradients].map((t) => t.dataSync().slice());
          });
          const y = product(x, weight, [rows, dIn, dOut], { transposeB: !transposed }).map(
            (v, i) => v + (biased ? (bias[i % dOut] as number) : 0),
          );
          const dx = product(dy, weight, [rows, dOut, dIn], { transposeB: transposed });
          const dweight = transposed
            ? product(x, dy, [dIn, rows, dOut], { transposeA: true })
            : product(dy, x, [dOut, rows, dIn], { transposeA: true });
          const dbias = product(new Float64Array(rows).fill(1), dy, [1, rows, dOut]);
          const expected = biased ? [y, dx, dweight, dbias] : [y, dx, dweight];
          expect(got.length).toBe(expected.length);
          for (const [i, values] of got.entries()) {
            // A single sum may cancel; the rounding of its terms does not.
            const terms = [dIn, dOut, rows, rows][i] as number;
            const scale = Math.sqrt(terms * values.length) / 3;
            const error = relativeError(values, expected[i] as Float64Array);
            const norm = Math.hypot(...(expected[i] as Float64Array));
            expect(Math.min(error, (error * norm) / scale)).toBeLessThan(tolerance);
          }
        },
      ),
      { numRuns: 8, seed: 1 },
    );
  });

  test.each([
    ['float32', 1e-5],
    ['bf16', 1e-2],
  ] as const)('%s logits: cross-entropy and its gradient equal float64’s', (form, tolerance) => {
    fc.assert(
      fc.property(
        fc.integer({ min: 1, max: 12 }),
        fc.constantFrom(2, 7, 100, 1024, 1030, 3000),
        seeds,
        (rows, classes, seed) => {
          const backend = cuda();
          const values = valuesOf(rows * classes, seed).map((v) => 6 * v + 50);
          // −1 counts nothing.
          const labels = Array.from(valuesOf(rows, seed + 1), (v, i) =>
            i % 3 === 1 ? -1 : Math.min(Math.floor(((v + 1) / 2) * classes), classes - 1),
          );
          const dy = valuesOf(rows, seed + 2);
          const [loss, gradient, logits] = tf.tidy(() => {
            let logits = tf.tensor2d(values, [rows, classes]);
            if (form === 'bf16') {
              const half = backend.output16([rows, classes]);
              backend.copy(half.pointer, backend.pointer16(logits), values.length * 2);
              logits = tf.engine().makeTensorFromTensorInfo(half) as tf.Tensor2D;
            }
            const op = (x: tf.Tensor) =>
              softmaxCrossEntropy(x as tf.Tensor2D, tf.tensor1d(labels, 'int32'));
            const results = [op(logits), tf.grad(op)(logits, tf.tensor1d(dy)), logits];
            return results.map((t) => t.dataSync<'float32'>().slice());
          }) as [Float32Array, Float32Array, Float32Array];
          const expectedLoss = new Float64Array(rows);
          const expected = new Float64Array(rows * classes);
          for (const [row, label] of labels.entries()) {
            if (label < 0) continue;
            const z = Array.from(logits.subarray(row * classes, (row + 1) * classes));
            const max = z.reduce((a, b) => Math.max(a, b));
            const total = z.reduce((sum, v) => sum + Math.exp(v - max), 0);
            expectedLoss[row] = max + Math.log(total) - (z[label] as number);
            for (const [i, v] of z.entries()) {
              const slope = Math.exp(v - max) / total - Number(i === label);
              expected[row * classes + i] = slope * (dy[row] as number);
            }
          }
          expect(relativeError(loss, expectedLoss)).toBeLessThan(1e-5);
          expect(relativeError(gradient, expected)).toBeLessThan(tolerance);
          const blind = labels.flatMap((label, row) => (label < 0 ? [row] : []));
          for (const row of blind) {
            const slopes = gradient.subarray(row * classes, (row + 1) * classes);
            expect(slopes.every((slope) => slope === 0)).toBe(true);
          }
        },
      ),
      { numRuns: 30, seed: 1 },
    );
  });

  test('Adam in place over many tensors, clipped by their common norm, follows its formula', () => {
    const shapes = [[3], [5000], [], [7, 9], [0, 4], ...Array.from({ length: 70 }, () => [2, 3])];
    const options = { weightDecay: 0.1, learningRate: 0.01 };
    const params = new Map(
      shapes.map((shape, i) => {
        const start = tf.tensor(valuesOf(tf.util.sizeFromShape(shape), i + 1), shape);
        const variable = tf.variable(start);
        start.dispose();
        return [`p${i}`, variable];
      }),
    );
    const values = shapes.map((shape, i) =>
      Float64Array.from(valuesOf(tf.util.sizeFromShape(shape), i + 1)),
    );
    const first = values.map(({ length }) => new Float64Array(length));
    const second = values.map(({ length }) => new Float64Array(length));
    const adam = new Adam(params, options);
    // A bf16 form that a product has asked for.
    const weight = params.get('p3') as tf.Variable;
    cuda().pointer16(weight);
    const launched: string[] = [];
    const backend = cuda();
    const launch = backend.launch.bind(backend);
    backend.launch = (kernel, ...rest) => {
      launched.push(kernel.name);
      launch(kernel, ...rest);
    };
    const before = tf.memory().numTensors;
    for (let step = 1; step <= 3; step++) {
      // The first gradients are too long, the others short enough.
      const drawn = values.map(({ length }, i) =>
        valuesOf(length, 1000 * step + i).map((v) => v * (step === 1 ? 1 : 1e-3)),
      );
      const gradients = Object.fromEntries(
        drawn.map((gradient, i) => [`p${i}`, tf.tensor(gradient, shapes[i] as number[])]),
      );
      const scale = clippingScale(Object.values(gradients), 1);
      adam.step(gradients, 0.01, scale);
      const norm = Math.sqrt(drawn.reduce((sum, g) => g.reduce((s, v) => s + v * v, sum), 0));
      const factor = Math.min(1, 1 / norm);
      expect(scale.dataSync<'float32'>()[0]).toBeCloseTo(factor, 6);
      tf.dispose([gradients, scale]);
      for (const [i, p] of values.entries()) {
        const [m, v] = [first[i] as Float64Array, second[i] as Float64Array];
        const keep = (shapes[i] as number[]).length > 1 ? 1 - 0.01 * 0.1 : 1;
        for (let j = 0; j < p.length; j++) {
          const g = factor * (drawn[i]?.[j] as number);
          m[j] = 0.9 * (m[j] as number) + 0.1 * g;
          v[j] = 0.999 * (v[j] as number) + 0.001 * g * g;
          const update = (m[j] as number) / (1 - 0.9 ** step);
          const deviation = Math.sqrt((v[j] as number) / (1 - 0.999 ** step)) + 1e-8;
          p[j] = (p[j] as number) * keep - (0.01 * update) / deviation;
        }
      }
    }
    backend.launch = launch;
    expect(tf.memory().numTensors).toBe(before);
    expect(launched.filter((name) => name === 'adam_steps').length).toBe(3 * 2);
    for (const [i, p] of values.entries()) {
      expect(relativeError(params.get(`p${i}`)?.dataSync() ?? [], p)).toBeLessThan(1e-5);
      const moment = adam.state().get(`p${i}.second`)?.dataSync() ?? [];
      expect(relativeError(moment, second[i] as Float64Array)).toBeLessThan(1e-5);
    }
    const half = backend.output16(weight.shape);
    backend.copy(half.pointer, backend.form16(weight), weight.size * 2);
    const rounded = tf.engine().makeTensorFromTensorInfo(half);
    expect(relativeError(rounded.dataSync(), values[3] as Float64Array)).toBeLessThan(4e-3);
    adam.dispose();
    tf.dispose([rounded, ...params.values()]);
  });

  test('a parameter whose data a clone shares is replaced, and the clone keeps its values', () => {
    const start = tf.tensor1d([1, 2, 3]);
    const variable = tf.variable(start);
    start.dispose();
    const clone = tf.clone<tf.Tensor>(variable);
    const adam = new Adam(new Map([['w', variable]]));
    const gradient = tf.tensor1d([1, -1, 1]);
    adam.step({ w: gradient }, 0.5);
    expect([...clone.dataSync()]).toEqual([1, 2, 3]);
    const moved = variable.dataSync();
    expect(relativeError(moved, [0.5, 2.5, 2.5])).toBeLessThan(1e-6);
    // Nobody else has the new values: the next step is in place, and equals the one of a fresh optimizer.
    clone.dispose();
    adam.step({ w: gradient }, 0.5);
    expect(relativeError(variable.dataSync(), [0, 3, 2])).toBeLessThan(1e-6);
    adam.dispose();
    tf.dispose([variable, gradient]);
  });

  test('rotary embedding and its gradient are those of the composed form', async () => {
    expect.hasAssertions();
    const run = () =>
      tf.tidy(() => {
        const x = tf.tensor2d(valuesOf(2 * 5 * 3 * 6, 4), [10, 18]);
        const tables = rotaryTables(2, 5, 6, 100);
        const dy = tf.tensor2d(valuesOf(180, 5), [10, 18]);
        const op = (x: tf.Tensor) => rotate(x as tf.Tensor2D, tables);
        return [op(x), tf.grad(op)(x, dy)].map((t) => t.dataSync().slice());
      });
    await expectAsOnCpu(run, 1e-6);
  });

  test.each(['relu', 'gelu', 'gelu_tanh', 'silu'] as const)(
    '%s and its gradient are those of the composed form',
    async (activation) => {
      expect.hasAssertions();
      const run = () =>
        tf.tidy(() => {
          const x = tf.tensor2d(
            valuesOf(7 * 9, 4).map((v) => 4 * v),
            [7, 9],
          );
          const dy = tf.tensor2d(valuesOf(7 * 9, 5), [7, 9]);
          const op = (x: tf.Tensor) => activate(x, activation);
          return [op(x), tf.grad(op)(x, dy)].map((t) => t.dataSync().slice());
        });
      await expectAsOnCpu(run, 1e-5);
    },
  );

  test('in bf16 a product, ReLU’s gradient and what follows stay in 16 bits', () => {
    const backend = cuda();
    backend.precision = 'bf16';
    const [rows, d] = [16, 24];
    const kernels: string[] = [];
    const launch = backend.launch.bind(backend);
    backend.launch = (kernel, ...rest) => {
      kernels.push(kernel.name);
      launch(kernel, ...rest);
    };
    const x = tf.tensor2d(valuesOf(rows * d, 1), [rows, d]);
    const weight = tf.tensor2d(valuesOf(d * d, 2), [d, d]);
    tf.tidy(() => {
      const f = (x: tf.Tensor) =>
        linear(activate(linear(x as tf.Tensor2D, weight), 'relu'), weight);
      const [y, dx] = [f(x), tf.grad(f)(x)];
      expect([backend.isOnly16(y), backend.isOnly16(dx)]).toEqual([true, true]);
      // A gradient in float32, from a term on the activations, say.
      const g = (x: tf.Tensor) => {
        const hidden = activate(linear(x as tf.Tensor2D, weight), 'relu');
        return tf.add(linear(hidden, weight), tf.mul(hidden, tf.scalar(0.5)));
      };
      const [h, withTerm] = [tf.tidy(() => activate(linear(x, weight), 'relu')), tf.grad(g)(x)];
      const open = tf.cast(tf.greater(h, 0), 'float32');
      const dHidden = tf.add(tf.matMul(tf.ones([rows, d]), weight), 0.5);
      const expected = tf.matMul(tf.mul(dHidden, open), weight);
      expect(relativeError(withTerm.dataSync(), expected.dataSync())).toBeLessThan(1e-2);
    });
    backend.launch = launch;
    expect(kernels).toContain('relu_grad_bf16_bf16');
    expect(kernels).toContain('relu_grad_bf16_f32');
    tf.dispose([x, weight]);
  });
});
