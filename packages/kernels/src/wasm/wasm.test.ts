import '@tensorflow/tfjs-backend-cpu';
import '@tensorflow/tfjs-layers';
import * as tf from '@tensorflow/tfjs-core';
import { Random } from '@d2dmoe/core';
import fc from 'fast-check';
import { beforeAll, beforeEach, expect, test } from 'vitest';
import { relativeError } from '../../testing/closeness.js';
import { useWasm } from '../node.js';
import { Adam, layerNorm, linear, rmsNorm, softmaxCrossEntropy } from '../training/index.js';

beforeAll(async () => {
  await useWasm();
});

beforeEach(() => {
  // Freed memory that the next tensors get back must not look like zeros.
  tf.tensor1d(new Float32Array(1 << 16).fill(Number.NaN)).dispose();
});

function normals(shape: number[], seed: number): tf.Tensor {
  const random = new Random(seed);
  return tf.tensor(
    Float32Array.from({ length: tf.util.sizeFromShape(shape) }, () => random.normal()),
    shape,
  );
}

/** One product accumulated in float64. */
function product(
  a: tf.Tensor,
  b: tf.Tensor,
  transposeA: boolean,
  transposeB: boolean,
): Float64Array {
  const x = a.dataSync();
  const y = b.dataSync();
  const [m, k] = transposeA ? [a.shape[1], a.shape[0]] : [a.shape[0], a.shape[1]];
  const n = transposeB ? b.shape[0] : b.shape[1];
  const out = new Float64Array((m as number) * (n as number));
  for (let i = 0; i < m!; i++) {
    for (let j = 0; j < n!; j++) {
      let sum = 0;
      for (let p = 0; p < k!; p++) {
        sum += x[transposeA ? p * m! + i : i * k! + p]! * y[transposeB ? j * k! + p : p * n! + j]!;
      }
      out[i * n! + j] = sum;
    }
  }
  return out;
}

test('products of any size and transposition equal float64 sums to 3e-6', () => {
  const size = fc.integer({ min: 1, max: 70 });
  const depth = fc.oneof(size, fc.integer({ min: 250, max: 530 }));
  fc.assert(
    fc.property(
      size,
      size,
      depth,
      fc.boolean(),
      fc.boolean(),
      fc.nat(),
      (m, n, k, tA, tB, seed) => {
        const a = normals(tA ? [k, m] : [m, k], seed) as tf.Tensor2D;
        const b = normals(tB ? [n, k] : [k, n], seed + 1) as tf.Tensor2D;
        const c = tf.matMul(a, b, tA, tB);
        expect(c.shape).toEqual([m, n]);
        // Rounding errors of up to 530 terms, added one after another, reach 1.4e-6.
        expect(relativeError(c.dataSync(), product(a, b, tA, tB))).toBeLessThan(3e-6);
        tf.dispose([a, b, c]);
      },
    ),
    { numRuns: 60 },
  );
});

test('a product wider and taller than one block is right', () => {
  const a = normals([199, 300], 1) as tf.Tensor2D;
  const b = normals([300, 2051], 2) as tf.Tensor2D;
  expect(relativeError(tf.matMul(a, b).dataSync(), product(a, b, false, false))).toBeLessThan(1e-6);
});

test('batch axes broadcast', () => {
  const a = normals([2, 1, 5, 7], 1);
  const b = normals([3, 7, 4], 2);
  const c = tf.matMul(a, b);
  expect(c.shape).toEqual([2, 3, 5, 4]);
  for (let i = 0; i < 2; i++) {
    for (let j = 0; j < 3; j++) {
      const one = tf.reshape(tf.slice(a, [i, 0, 0, 0], [1, 1, 5, 7]), [5, 7]);
      const other = tf.reshape(tf.slice(b, [j, 0, 0], [1, 7, 4]), [7, 4]);
      const block = tf.slice(c, [i, j, 0, 0], [1, 1, 5, 4]).dataSync();
      expect(relativeError(block, product(one, other, false, false))).toBeLessThan(1e-6);
    }
  }
});

test('bias and ReLU are fused, other activations still run', () => {
  const a = normals([9, 13], 1) as tf.Tensor2D;
  const b = normals([13, 11], 2) as tf.Tensor2D;
  const bias = normals([11], 3);
  for (const activation of ['linear', 'relu', 'sigmoid'] as const) {
    const actual = tf.fused.matMul({ a, b, bias, activation }).dataSync();
    const expected = product(a, b, false, false).map((value, i) => {
      const z = value + bias.dataSync()[i % 11]!;
      if (activation === 'relu') return Math.max(z, 0);
      return activation === 'linear' ? z : 1 / (1 + Math.exp(-z));
    });
    expect(relativeError(actual, expected)).toBeLessThan(1e-6);
  }
});

test('inner dimensions that differ are refused', () => {
  expect(() => tf.matMul(tf.ones([2, 3]), tf.ones([4, 5]))).toThrow(/inner/i);
});

test('gather has its gradient', () => {
  const table = normals([5, 6], 1);
  const ids = tf.tensor1d([3, 0, 3, 4], 'int32');
  const weights = normals([4, 6], 2);
  const gradient = tf
    .grad((t) => tf.sum(tf.mul(tf.gather(t, ids), weights)))(table)
    .dataSync();
  const expected = new Float64Array(30);
  for (const [row, id] of [3, 0, 3, 4].entries()) {
    for (let j = 0; j < 6; j++) expected[id * 6 + j]! += weights.dataSync()[row * 6 + j]!;
  }
  expect(relativeError(gradient, expected)).toBeLessThan(1e-6);
});

/** Central differences of a scalar function in every element of one input, on tensors of float32. */
function differences(f: (x: tf.Tensor) => tf.Tensor, x: tf.Tensor): number[] {
  const values = x.dataSync();
  const step = 1e-2;
  const at = (i: number, delta: number) =>
    tf.tidy(
      () =>
        f(
          tf.tensor(
            values.map((v, j) => (i === j ? v + delta : v)),
            x.shape,
          ),
        ).dataSync()[0]!,
    );
  return Array.from(values, (_, i) => (at(i, step) - at(i, -step)) / (2 * step));
}

const ops: Record<string, (x: tf.Tensor, s: tf.Tensor, b: tf.Tensor) => tf.Tensor> = {
  layerNorm: (x, s, b) => layerNorm(x, s, b, 1e-5),
  rmsNorm: (x, s) => rmsNorm(x, s, 1e-5),
};

for (const backend of ['wasm', 'cpu']) {
  for (const [name, op] of Object.entries(ops)) {
    test(`${name} and its gradients on ${backend}, odd widths too`, async () => {
      await tf.setBackend(backend);
      for (const d of [4, 7, 13]) {
        const x = normals([3, d], d);
        const scale = normals([d], d + 1);
        const shift = normals([d], d + 2);
        const weights = normals([3, d], d + 3);
        const expected = Array.from(x.dataSync(), (_, index) => {
          const row = [...x.dataSync()].slice(
            Math.floor(index / d) * d,
            Math.floor(index / d) * d + d,
          );
          const mean = name === 'layerNorm' ? row.reduce((a, v) => a + v, 0) / d : 0;
          const variance = row.reduce((a, v) => a + (v - mean) ** 2, 0) / d;
          const normal = (row[index % d]! - mean) / Math.sqrt(variance + 1e-5);
          return (
            normal * scale.dataSync()[index % d]! +
            (name === 'layerNorm' ? shift.dataSync()[index % d]! : 0)
          );
        });
        expect(relativeError(op(x, scale, shift).dataSync(), expected)).toBeLessThan(1e-5);
        const loss = (x: tf.Tensor, s: tf.Tensor, b: tf.Tensor) =>
          tf.sum(tf.mul(op(x, s, b), weights));
        const inputs = name === 'layerNorm' ? [x, scale, shift] : [x, scale];
        const gradients = tf.grads((...i: tf.Tensor[]) => loss(i[0]!, i[1]!, i[2] ?? shift))(
          inputs,
        );
        for (const [i, gradient] of gradients.entries()) {
          const numeric = differences((t) => {
            const at = inputs.map((input, j) => (i === j ? t : input));
            return loss(at[0]!, at[1]!, at[2] ?? shift);
          }, inputs[i]!);
          expect(relativeError(gradient.dataSync(), numeric)).toBeLessThan(5e-3);
        }
      }
      await tf.setBackend('wasm');
    });
  }

  test(`linear and its gradients on ${backend}, in both layouts`, async () => {
    await tf.setBackend(backend);
    for (const transposed of [false, true]) {
      const x = normals([5, 3], 1) as tf.Tensor2D;
      const w = normals(transposed ? [3, 4] : [4, 3], 2) as tf.Tensor2D;
      const b = normals([4], 3) as tf.Tensor1D;
      const weights = normals([5, 4], 4);
      const loss = (x: tf.Tensor, w: tf.Tensor, b: tf.Tensor) =>
        tf.sum(
          tf.mul(
            linear(x as tf.Tensor2D, w as tf.Tensor2D, b as tf.Tensor1D, { transposed }),
            weights,
          ),
        );
      const gradients = tf.grads((...i: tf.Tensor[]) => loss(i[0]!, i[1]!, i[2]!))([x, w, b]);
      for (const [i, gradient] of gradients.entries()) {
        const numeric = differences((t) => {
          const at = [x, w, b].map((input, j) => (i === j ? t : input));
          return loss(at[0]!, at[1]!, at[2]!);
        }, [x, w, b][i]!);
        expect(relativeError(gradient.dataSync(), numeric)).toBeLessThan(2e-3);
      }
    }
    await tf.setBackend('wasm');
  });

  test(`softmaxCrossEntropy and its gradient on ${backend}; a label of −1 counts nothing`, async () => {
    await tf.setBackend(backend);
    const logits = normals([4, 6], 1) as tf.Tensor2D;
    const labels = [2, 5, -1, 0];
    const loss = (x: tf.Tensor) =>
      softmaxCrossEntropy(x as tf.Tensor2D, tf.tensor1d(labels, 'int32'));
    const expected = labels.map((label, row) => {
      const z = [...logits.dataSync()].slice(row * 6, row * 6 + 6);
      return label < 0 ? 0 : Math.log(z.reduce((a, v) => a + Math.exp(v), 0)) - z[label]!;
    });
    expect(relativeError(loss(logits).dataSync(), expected)).toBeLessThan(1e-6);
    const weights = tf.tensor1d([0.5, 1, 2, 3]);
    const weighted = (x: tf.Tensor) => tf.sum(tf.mul(loss(x), weights));
    const gradient = tf.grad(weighted)(logits).dataSync();
    expect(relativeError(gradient, differences(weighted, logits))).toBeLessThan(2e-3);
    expect([...gradient].slice(12, 18).every((value) => value === 0)).toBe(true);
    await tf.setBackend('wasm');
  });

  test(`Adam on ${backend} follows its formula and resumes bit for bit`, async () => {
    await tf.setBackend(backend);
    const gradientAt = (step: number) => normals([3, 5], 100 + step);
    const run = (adam: Adam, from: number, to: number) => {
      for (let step = from; step < to; step++) {
        const gradient = gradientAt(step);
        adam.step({ w: gradient }, 0.01 * (step + 1));
        gradient.dispose();
      }
    };
    const start = normals([3, 5], 1);
    const whole = tf.variable(start);
    const options = { weightDecay: 0.1 };
    const adam = new Adam(new Map([['w', whole]]), options);
    const before = tf.memory().numTensors;
    run(adam, 0, 3);
    expect(tf.memory().numTensors).toBe(before);

    const resumed = tf.variable(tf.tensor(whole.dataSync(), [3, 5]));
    const second = new Adam(new Map([['w', resumed]]), options);
    second.restore(
      adam.steps,
      new Map(
        [...adam.state()].map(([name, tensor]) => [
          name,
          tf.tensor(tensor.dataSync(), tensor.shape),
        ]),
      ),
    );
    run(adam, 3, 6);
    run(second, 3, 6);
    expect([...resumed.dataSync()]).toEqual([...whole.dataSync()]);

    const p = Float64Array.from(start.dataSync());
    const m = new Float64Array(15);
    const v = new Float64Array(15);
    for (let step = 0; step < 6; step++) {
      const g = gradientAt(step).dataSync();
      const rate = 0.01 * (step + 1);
      for (let i = 0; i < 15; i++) {
        m[i] = 0.9 * m[i]! + 0.1 * g[i]!;
        v[i] = 0.999 * v[i]! + 0.001 * g[i]! ** 2;
        const mHat = m[i]! / (1 - 0.9 ** (step + 1));
        const vHat = v[i]! / (1 - 0.999 ** (step + 1));
        p[i] = p[i]! * (1 - rate * 0.1) - (rate * mHat) / (Math.sqrt(vHat) + 1e-8);
      }
    }
    expect(relativeError(whole.dataSync(), p)).toBeLessThan(1e-5);
    await tf.setBackend('wasm');
  });
}
