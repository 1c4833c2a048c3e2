import * as tf from '@tensorflow/tfjs-core';
import * as fc from 'fast-check';
import { beforeAll, describe, expect, test } from 'vitest';
import { contributionNorms, expertGrams } from './contribution.js';
import { hiddenActivations } from './feed-forward.js';
import { referenceContributionNorms, referenceHiddenActivations } from './reference.js';
import { backends } from './testing/backends.js';
import { relativeError } from './testing/closeness.js';
import { ffnShapes, matrix, packedTensors, randomExperts } from './testing/random-experts.js';
import { recordedExperts, recordedTensors } from './testing/recorded.js';

let recorded: (name: string) => Float64Array;
beforeAll(async () => {
  recorded = await recordedTensors();
});

describe.each(backends)('%s', (_, use) => {
  beforeAll(use);

  test('gives the router targets that PyTorch gave', () => {
    tf.tidy(() => {
      const experts = packedTensors(recordedExperts(recorded, 'plain', 'relu'));
      const hidden = hiddenActivations(matrix(recorded('op.x'), 7, 10), experts);
      const norms = contributionNorms(hidden, experts);
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
          const experts = packedTensors(ffn);
          const hidden = matrix(values, shape.rows, shape.experts * shape.expertSize);
          const norms = contributionNorms(hidden, experts);
          expect(norms.shape).toEqual([shape.rows, shape.experts]);
          expect(relativeError(norms.dataSync(), expected)).toBeLessThan(1e-5);
          const withGrams = contributionNorms(hidden, experts, expertGrams(experts));
          expect(withGrams.dataSync()).toEqual(norms.dataSync());
        });
        expect(tf.memory().numTensors).toBe(before);
      }),
    );
  });

  test('neurons that cancel give 0, not NaN', () => {
    tf.tidy(() => {
      const down = Float64Array.from({ length: 2 * 9 }, (_, i) => (i < 9 ? 0.1 : -0.1) * (i % 9));
      const experts = packedTensors({
        dIn: 1,
        dOut: 9,
        experts: 1,
        expertSize: 2,
        activation: 'relu',
        up: Float64Array.of(1, 1),
        down,
      });
      const [norm] = contributionNorms(tf.tensor2d([[0.7, 0.7]]), experts).dataSync();
      expect(norm).toBeLessThan(1e-3);
    });
  });

  test('refuses hidden activations of another width', () => {
    tf.tidy(() => {
      const experts = packedTensors(recordedExperts(recorded, 'plain', 'relu'));
      expect(() => contributionNorms(tf.zeros([2, 20]), experts)).toThrow(
        expect.objectContaining({ code: 'SHAPE_MISMATCH' }),
      );
    });
  });
});
