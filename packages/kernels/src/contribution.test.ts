import * as tf from '@tensorflow/tfjs-core';
import * as fc from 'fast-check';
import { beforeAll, describe, expect, test } from 'vitest';
import { contributionNorms, expertGrams } from './contribution.js';
import { hiddenActivations } from './feed-forward.js';
import { referenceContributionNorms, referenceHiddenActivations } from './reference.js';
import { backends } from '../testing/backends.js';
import { relativeError } from '../testing/closeness.js';
import { ffnShapes, matrix, randomExperts, weightsOf } from '../testing/random-experts.js';
import { recordedExperts, recordedTensors } from '../testing/recorded.js';

let recorded: (name: string) => Float64Array;
beforeAll(async () => {
  recorded = await recordedTensors();
});

describe.each(backends)('%s', (_, use) => {
  beforeAll(use);

  test('gives the router targets that PyTorch gave', () => {
    tf.tidy(() => {
      const weights = weightsOf(recordedExperts(recorded, 'plain', 'relu'));
      const hidden = hiddenActivations(matrix(recorded('op.x'), 7, 10), weights);
      const norms = contributionNorms(hidden, weights.down, 4);
      expect(relativeError(norms.dataSync(), recorded('router.targets'))).toBeLessThan(1e-5);
    });
  });

  test('equals the reference for experts smaller and larger than the output', () => {
    fc.assert(
      fc.property(ffnShapes, (shape) => {
        const { x, ffn } = randomExperts(shape);
        const values = referenceHiddenActivations(x, ffn).map(Math.fround);
        const expected = referenceContributionNorms(values, ffn);
        const before = tf.memory().numTensors;
        tf.tidy(() => {
          const { down } = weightsOf(ffn);
          const hidden = matrix(values, shape.rows, shape.experts * shape.expertSize);
          const norms = contributionNorms(hidden, down, shape.expertSize);
          expect(norms.shape).toEqual([shape.rows, shape.experts]);
          expect(relativeError(norms.dataSync(), expected)).toBeLessThan(1e-5);
          const grams = expertGrams(down, shape.expertSize);
          const withGrams = contributionNorms(hidden, down, shape.expertSize, grams);
          expect(withGrams.dataSync()).toEqual(norms.dataSync());
        });
        expect(tf.memory().numTensors).toBe(before);
      }),
    );
  });

  test('neurons that cancel give 0, not NaN', () => {
    tf.tidy(() => {
      const down = Float64Array.from({ length: 2 * 9 }, (_, i) => (i < 9 ? 0.1 : -0.1) * (i % 9));
      const hidden = tf.tensor2d([[0.7, 0.7]]);
      const [norm] = contributionNorms(hidden, matrix(down, 2, 9), 2).dataSync();
      expect(norm).toBeLessThan(1e-3);
    });
  });

  test('refuses hidden activations of another width', () => {
    tf.tidy(() => {
      const down: tf.Tensor2D = tf.zeros([24, 10]);
      expect(() => contributionNorms(tf.zeros([2, 20]), down, 4)).toThrow(
        expect.objectContaining({ code: 'SHAPE_MISMATCH' }),
      );
    });
  });
});
