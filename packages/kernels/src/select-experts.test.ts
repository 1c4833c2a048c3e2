import * as tf from '@tensorflow/tfjs-core';
import * as fc from 'fast-check';
import { beforeAll, describe, expect, test } from 'vitest';
import { referenceSelectExperts } from './reference.js';
import { SelectExperts, selectExperts } from './select-experts.js';
import { backends } from '../testing/backends.js';
import { matrix } from '../testing/random-experts.js';
import { recordedTensors, recordedThresholds } from '../testing/recorded.js';
import type { SelectionRule } from './types.js';

let recorded: (name: string) => Float64Array;
beforeAll(async () => {
  recorded = await recordedTensors();
});

/** Rules whose products with a multiple of an eighth float32 holds exactly. */
const exactRules: fc.Arbitrary<SelectionRule> = fc.oneof(
  fc.nat(16).map((n) => ({ rule: 'threshold' as const, value: n / 16 })),
  fc.integer({ min: 1, max: 14 }).map((value) => ({ rule: 'topK' as const, value })),
  fc.nat(16).map((n) => ({ rule: 'cumulativeShare' as const, value: n / 16 })),
);

describe.each(backends)('%s', (_, use) => {
  beforeAll(use);

  function select(norms: Float64Array, experts: number, rule: SelectionRule): number[] {
    return tf.tidy(() => {
      const selection = selectExperts(matrix(norms, norms.length / experts, experts), rule);
      expect(selection.dtype).toBe('bool');
      expect(selection.shape).toEqual([norms.length / experts, experts]);
      return [...selection.dataSync()];
    });
  }

  test('selects what PyTorch selected', () => {
    const norms = recorded('op.predicted_norms');
    for (const tau of recordedThresholds) {
      const selection = select(norms, 6, { rule: 'threshold', value: Number(tau) });
      expect(selection).toEqual([...recorded(`select.threshold_${tau}`)]);
    }
    for (const value of [1, 3]) {
      const selection = select(norms, 6, { rule: 'topK', value });
      expect(selection).toEqual([...recorded(`select.topk_${value}`)]);
    }
    for (const value of [0.25, 0.5, 0.95]) {
      const selection = select(norms, 6, { rule: 'cumulativeShare', value });
      expect(selection).toEqual([...recorded(`select.cumulative_${value}`)]);
    }
  });

  test('selects what the reference selects, ties and zeros included', () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 1, max: 12 }),
        fc.nat(6),
        fc.infiniteStream(fc.nat(12)),
        exactRules,
        (experts, rows, eighths, rule) => {
          const norms = Float64Array.from(
            { length: rows * experts },
            () => (eighths.next().value as number) / 8,
          );
          const expected = referenceSelectExperts(norms, experts, rule);
          expect(select(norms, experts, rule)).toEqual([...expected]);
        },
      ),
    );
  });

  test('a row of zeros selects the first expert alone, or all at a threshold of 0', () => {
    const norms = Float64Array.from([0, 0, 0, 0, 2, 0]);
    const first = (rule: SelectionRule) => select(norms, 3, rule).slice(0, 3);
    expect(first({ rule: 'threshold', value: 0.01 })).toEqual([1, 0, 0]);
    expect(first({ rule: 'threshold', value: 1 })).toEqual([1, 0, 0]);
    expect(first({ rule: 'topK', value: 1 })).toEqual([1, 0, 0]);
    expect(first({ rule: 'cumulativeShare', value: 1 })).toEqual([1, 0, 0]);
    expect(select(norms, 3, { rule: 'threshold', value: 0 })).toEqual([1, 1, 1, 1, 1, 1]);
  });

  test('refuses a rule whose value is out of range', () => {
    const norms = Float64Array.from([1, 2]);
    expect(() => select(norms, 2, { rule: 'topK', value: 0 })).toThrow(
      expect.objectContaining({ code: 'SELECTION_RULE_INVALID' }),
    );
  });

  test('is a constant to the gradient', () => {
    tf.tidy(() => {
      const loss = (norms: tf.Tensor) => {
        const rule: SelectionRule = { rule: 'threshold', value: 0.5 };
        const selection = selectExperts(norms as tf.Tensor2D, rule);
        return tf.sum(tf.mul(norms, tf.cast(selection, 'float32')));
      };
      const norms = tf.tensor2d([1, 2, 0.5, 4, 0, 3], [2, 3]);
      expect([...tf.grad(loss)(norms).dataSync()]).toEqual([1, 1, 0, 1, 0, 1]);
    });
  });

  test('leaves no tensor but its result', () => {
    const norms = tf.tensor2d([1, 2, 0.5, 4, 0, 3], [2, 3]);
    for (const rule of [
      { rule: 'threshold', value: 0.5 },
      { rule: 'topK', value: 2 },
      { rule: 'cumulativeShare', value: 0.5 },
    ] as SelectionRule[]) {
      const before = tf.memory().numTensors;
      const selection = selectExperts(norms, rule);
      expect(tf.memory().numTensors).toBe(before + 1);
      selection.dispose();
    }
    norms.dispose();
  });
});

test('a backend that registers the kernel runs it', async () => {
  await tf.setBackend('cpu');
  const calls: unknown[] = [];
  tf.registerKernel({
    kernelName: SelectExperts,
    backendName: 'cpu',
    kernelFunc: ({ inputs, attrs }) => {
      calls.push({ inputs: Object.keys(inputs), attrs });
      return tf.tensor2d([0, 1, 0], [1, 3], 'bool');
    },
  });
  try {
    const norms = tf.tensor2d([[3, 2, 1]]);
    const selection = selectExperts(norms, { rule: 'topK', value: 2 });
    expect([...selection.dataSync()]).toEqual([0, 1, 0]);
    expect(calls).toEqual([{ inputs: ['predictedNorms'], attrs: { rule: 'topK', value: 2 } }]);
    expect(() => selectExperts(norms, { rule: 'topK', value: 0 })).toThrow('topK');
    tf.dispose([norms, selection]);
  } finally {
    tf.unregisterKernel(SelectExperts, 'cpu');
  }
});
