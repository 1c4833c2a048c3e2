import '@tensorflow/tfjs-backend-cpu';
import '@tensorflow/tfjs-backend-wasm';
import '@tensorflow/tfjs-layers';
import { Random } from '@d2dmoe/core';
import * as tf from '@tensorflow/tfjs-core';
import * as fc from 'fast-check';
import { beforeAll, describe, expect, test } from 'vitest';
import { dynamicKExperts, maskExperts, packExperts } from '../index.js';

describe.each(['cpu', 'wasm'])('%s', (backend) => {
  beforeAll(async () => {
    await tf.setBackend(backend);
  });

  test('activations and gradients of experts that are not selected are 0, the others as they were', () => {
    const sizes = fc.record({
      rows: fc.integer({ min: 1, max: 5 }),
      experts: fc.integer({ min: 1, max: 6 }),
      size: fc.integer({ min: 1, max: 5 }),
      seed: fc.integer(),
    });
    fc.assert(
      fc.property(sizes, ({ rows, experts, size, seed }) => {
        const before = tf.memory().numTensors;
        const random = new Random(seed);
        const width = experts * size;
        const draw = () => Float32Array.from({ length: rows * width }, () => random.normal());
        const chosen = Array.from({ length: rows * experts }, () => random.integer(2));
        const [values, upstream] = [draw(), draw()];
        const hidden = tf.tensor2d(values, [rows, width]);
        const selection = tf.tensor2d(chosen, [rows, experts], 'bool');
        const dy = tf.tensor2d(upstream, [rows, width]);
        const { value, grad } = tf.valueAndGrad((x) => maskExperts(x as tf.Tensor2D, selection))(
          hidden,
          dy,
        );
        const kept = (all: Float32Array) =>
          all.map((a, i) => {
            const row = Math.floor(i / width);
            return a * (chosen[row * experts + Math.floor((i % width) / size)] as number);
          });
        // Not toEqual: a product with 0 may be -0.
        const gaps = [
          value.dataSync<'float32'>().map((a, i) => a - (kept(values)[i] as number)),
          grad.dataSync<'float32'>().map((a, i) => a - (kept(upstream)[i] as number)),
        ];
        expect(gaps.flatMap((gap) => [...gap]).filter((gap) => gap !== 0)).toEqual([]);
        tf.dispose([hidden, selection, dy, value, grad]);
        expect(tf.memory().numTensors).toBe(before);
      }),
    );
  });

  test('the down projection of the result is what the expert op gives', () => {
    tf.tidy(() => {
      const x = tf.randomNormal<tf.Rank.R2>([6, 5], 0, 1, 'float32', 1);
      const up = tf.randomNormal<tf.Rank.R2>([12, 5], 0, 1, 'float32', 2);
      const down = tf.randomNormal<tf.Rank.R2>([12, 4], 0, 1, 'float32', 3);
      const selection = tf.cast<tf.Tensor2D>(tf.randomUniform([6, 4], 0, 2, 'int32', 4), 'bool');
      const packed = packExperts({ up, down, activation: 'relu' }, 3);
      const hidden = tf.relu(tf.matMul<tf.Tensor2D>(x, up, false, true));
      const masked = tf.matMul(maskExperts(hidden, selection), down).dataSync();
      const executed = dynamicKExperts(x, selection, packed).dataSync();
      masked.forEach((value, i) => expect(value).toBeCloseTo(executed[i] as number, 5));
      packed.dispose();
    });
  });
});

test('a selection of another shape is refused', () => {
  tf.tidy(() => {
    const refused = () => maskExperts(tf.zeros([2, 6]), tf.zeros([2, 4], 'bool'));
    expect(refused).toThrow(/\[2, 4\].*\[2, 6\]/);
  });
});
