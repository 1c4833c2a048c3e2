import '@tensorflow/tfjs-backend-cpu';
import '@tensorflow/tfjs-backend-wasm';
import '@tensorflow/tfjs-layers';
import { Random } from '@d2dmoe/core';
import * as tf from '@tensorflow/tfjs-core';
import * as fc from 'fast-check';
import { beforeAll, describe, expect, test } from 'vitest';
import { distillationLoss } from './index.js';

interface Case {
  shape: number[];
  student: number[];
  teacher: number[];
}

const cases: fc.Arbitrary<Case> = fc
  .record({
    shape: fc.array(fc.integer({ min: 1, max: 6 }), { minLength: 2, maxLength: 3 }),
    scale: fc.constantFrom(0.1, 1, 20),
    seed: fc.integer(),
  })
  .map(({ shape, scale, seed }) => {
    const random = new Random(seed);
    const size = shape.reduce((product, n) => product * n, 1);
    const draw = () => Array.from({ length: size }, () => Math.fround(scale * random.normal()));
    return { shape, student: draw(), teacher: draw() };
  });

/** log softmax in float64. */
function logSoftmax(row: number[]): number[] {
  const most = Math.max(...row);
  const total = Math.log(row.reduce((sum, z) => sum + Math.exp(z - most), 0)) + most;
  return row.map((z) => z - total);
}

function reference({ shape, teacher }: Case, student: number[]): number {
  const classes = shape.at(-1) ?? 1;
  let sum = 0;
  for (let start = 0; start < student.length; start += classes) {
    const p = logSoftmax(teacher.slice(start, start + classes));
    const q = logSoftmax(student.slice(start, start + classes));
    p.forEach((log, i) => (sum += Math.exp(log) * (log - (q[i] as number))));
  }
  return (sum * classes) / student.length;
}

describe.each(['cpu', 'wasm'])('%s', (backend) => {
  beforeAll(async () => {
    await tf.setBackend(backend);
  });

  test('the loss and its gradient are those of float64', () => {
    fc.assert(
      fc.property(cases, (example) => {
        const before = tf.memory().numTensors;
        const { shape, student, teacher } = example;
        const logits = tf.tensor(student, shape);
        const targets = tf.tensor(teacher, shape);
        const { value, grad } = tf.valueAndGrad((x) => distillationLoss(x, targets))(logits);
        const expected = reference(example, student);
        expect(Math.abs((value.dataSync()[0] as number) - expected)).toBeLessThan(
          1e-5 + 1e-5 * expected,
        );
        const gradient = grad.dataSync();
        student.forEach((z, i) => {
          const at = (h: number) => reference(example, student.with(i, z + h));
          const slope = (at(1e-4) - at(-1e-4)) / 2e-4;
          expect(Math.abs((gradient[i] as number) - slope)).toBeLessThan(1e-5);
        });
        tf.dispose([logits, targets, value, grad]);
        expect(tf.memory().numTensors).toBe(before);
      }),
      { numRuns: 40 },
    );
  });

  test('equal predictions are at distance 0, however far the logits are shifted', () => {
    tf.tidy(() => {
      const teacher = tf.tensor2d([
        [3, -2, 0.5],
        [900, 0, -900],
      ]);
      const same = tf.add(teacher, 64);
      expect(distillationLoss(same, teacher).dataSync()[0]).toBeCloseTo(0, 6);
      const gradient = tf.grad((x) => distillationLoss(x, teacher))(same);
      expect(Math.max(...gradient.dataSync().map(Math.abs))).toBeLessThan(1e-6);
      // The teacher is certain of a class that the model rules out: 1,800 nats, and no infinity.
      const contrary = tf.tensor2d([
        [3, -2, 0.5],
        [-900, 0, 900],
      ]);
      expect(distillationLoss(contrary, teacher).dataSync()[0]).toBeCloseTo(900, 2);
    });
  });
});

test('other shapes than the teacher’s are refused', () => {
  tf.tidy(() => {
    const refused = () => distillationLoss(tf.zeros([2, 3]), tf.zeros([3, 2]));
    expect(refused).toThrow(/\[2, 3\].*\[3, 2\]/);
    expect(() => distillationLoss(tf.zeros([0, 3]), tf.zeros([0, 3]))).toThrow(/at least one row/);
  });
});
