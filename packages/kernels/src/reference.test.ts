import * as fc from 'fast-check';
import { beforeAll, describe, expect, test } from 'vitest';
import {
  referenceContributionNorms,
  referenceDynamicKExperts,
  referenceHiddenActivations,
  referenceSelectExperts,
} from './reference.js';
import { greatestError } from '../testing/closeness.js';
import {
  recordedActivations,
  recordedExperts,
  recordedTensors,
  recordedThresholds,
} from '../testing/recorded.js';

describe('gives what PyTorch gave in float64', () => {
  let recorded: (name: string) => Float64Array;
  beforeAll(async () => {
    recorded = await recordedTensors();
  });

  test.each(recordedThresholds)('selection by threshold %s', (tau) => {
    const selection = referenceSelectExperts(recorded('op.predicted_norms'), 6, {
      rule: 'threshold',
      value: Number(tau),
    });
    expect([...selection]).toEqual([...recorded(`select.threshold_${tau}`)]);
  });

  test.each([1, 3])('selection of the top %d', (k) => {
    const selection = referenceSelectExperts(recorded('op.predicted_norms'), 6, {
      rule: 'topK',
      value: k,
    });
    expect([...selection]).toEqual([...recorded(`select.topk_${k}`)]);
  });

  test.each([0.25, 0.5, 0.95])('selection by a cumulative share of %d', (share) => {
    const selection = referenceSelectExperts(recorded('op.predicted_norms'), 6, {
      rule: 'cumulativeShare',
      value: share,
    });
    expect([...selection]).toEqual([...recorded(`select.cumulative_${share}`)]);
  });

  describe.each(['plain', 'gated'] as const)('%s FFN', (form) => {
    test.each(recordedActivations)('%s', (activation) => {
      const ffn = recordedExperts(recorded, form, activation);
      for (const tau of recordedThresholds) {
        const selection = Uint8Array.from(recorded(`select.threshold_${tau}`));
        const output = referenceDynamicKExperts(recorded('op.x'), selection, ffn);
        const expected = recorded(`op.${form}.${activation}.tau_${tau}`);
        expect(greatestError(output, expected)).toBeLessThan(1e-13);
      }
    });
  });

  test('router targets', () => {
    const ffn = recordedExperts(recorded, 'plain', 'relu');
    const hidden = referenceHiddenActivations(recorded('op.x'), ffn);
    const norms = referenceContributionNorms(hidden, ffn);
    expect(greatestError(norms, recorded('router.targets'))).toBeLessThan(1e-13);
  });
});

describe('selection', () => {
  // Multiples of an eighth, so that ties are common and every sum is exact.
  const rows = fc
    .integer({ min: 1, max: 12 })
    .chain((n) =>
      fc.array(fc.array(fc.nat(16), { minLength: n, maxLength: n }), {
        minLength: 1,
        maxLength: 4,
      }),
    )
    .map((rows) => rows.map((row) => row.map((eighths) => eighths / 8)));
  const sixteenths = fc.nat(16).map((n) => n / 16);
  const select = (row: number[], rule: Parameters<typeof referenceSelectExperts>[2]) =>
    referenceSelectExperts(Float64Array.from(row), row.length, rule);
  const sum = (values: Iterable<number>) => [...values].reduce((total, value) => total + value, 0);

  test('the threshold selects what reaches τ of the greatest, and shrinks as τ grows', () => {
    fc.assert(
      fc.property(rows, sixteenths, sixteenths, ([row = []], a, b) => {
        const low = select(row, { rule: 'threshold', value: Math.min(a, b) });
        const high = select(row, { rule: 'threshold', value: Math.max(a, b) });
        expect(sum(high)).toBeGreaterThanOrEqual(1);
        expect(high.every((selected, i) => selected <= (low[i] as number))).toBe(true);
        const limit = Math.max(a, b) * Math.max(...row);
        fc.pre(Math.max(...row) > 0);
        expect([...high]).toEqual(row.map((norm) => Number(norm >= limit)));
      }),
    );
  });

  test('a threshold of 0 selects all, zeros too', () => {
    expect([...select([0, 2, 0], { rule: 'threshold', value: 0 })]).toEqual([1, 1, 1]);
    expect([...select([0, 0, 0], { rule: 'threshold', value: 0 })]).toEqual([1, 1, 1]);
  });

  test('a row of zeros selects the first expert alone', () => {
    expect([...select([0, 0, 0], { rule: 'threshold', value: 0.1 })]).toEqual([1, 0, 0]);
    expect([...select([0, 0, 0], { rule: 'topK', value: 1 })]).toEqual([1, 0, 0]);
    expect([...select([0, 0, 0], { rule: 'cumulativeShare', value: 1 })]).toEqual([1, 0, 0]);
  });

  test('ties go to the lower number', () => {
    expect([...select([1, 3, 3, 3], { rule: 'topK', value: 2 })]).toEqual([0, 1, 1, 0]);
    expect([...select([1, 3, 3, 3], { rule: 'cumulativeShare', value: 0.6 })]).toEqual([
      0, 1, 1, 0,
    ]);
  });

  test('topK selects k experts, none of them below another', () => {
    fc.assert(
      fc.property(rows, fc.integer({ min: 1, max: 14 }), ([row = []], k) => {
        const selection = select(row, { rule: 'topK', value: k });
        expect(sum(selection)).toBe(Math.min(k, row.length));
        const selected = row.filter((_, i) => selection[i]);
        const others = row.filter((_, i) => !selection[i]);
        expect(Math.min(...selected)).toBeGreaterThanOrEqual(Math.max(...others));
      }),
    );
  });

  test('cumulativeShare reaches its share, and does not without its least member', () => {
    fc.assert(
      fc.property(rows, sixteenths, ([row = []], share) => {
        const selection = select(row, { rule: 'cumulativeShare', value: share });
        const selected = row.filter((_, i) => selection[i]);
        expect(selected.length).toBeGreaterThanOrEqual(1);
        expect(sum(selected)).toBeGreaterThanOrEqual(share * sum(row));
        fc.pre(selected.length > 1);
        expect(sum(selected) - Math.min(...selected)).toBeLessThan(share * sum(row));
      }),
    );
  });

  test('each row is selected by itself', () => {
    fc.assert(
      fc.property(rows, sixteenths, (rows, value) => {
        const rule = { rule: 'threshold' as const, value };
        const together = referenceSelectExperts(
          Float64Array.from(rows.flat()),
          rows[0]?.length as number,
          rule,
        );
        expect([...together]).toEqual(rows.flatMap((row) => [...select(row, rule)]));
      }),
    );
  });
});
