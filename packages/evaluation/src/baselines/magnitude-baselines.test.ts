import type { Model, Site, TextBatch } from '@d2dmoe/models';
import * as tf from '@tensorflow/tfjs-core';
import '@tensorflow/tfjs-backend-cpu';
import { afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { denseCost } from '../dense-cost.js';
import { evaluateDense } from '../evaluate.js';
import { siteCost } from '../site-cost.js';
import { realTokens, sentenceLengths, tinyBatches } from '../../testing/batches.js';
import { failOnLeaks } from '../../testing/leaks.js';
import { convertedTinyModel } from '../../testing/models.js';
import { referenceFeedForward } from '../../testing/reference-ffn.js';
import { catsBaseline } from './cats.js';
import { thresholdFor } from './magnitudes.js';
import { tealBaseline } from './teal.js';

beforeAll(() => tf.setBackend('cpu'));

const ffns = ['layers.0.ffn', 'layers.1.ffn'] as const;
const isLarge = (threshold: number) => (value: number) => Math.abs(value) > threshold;

describe.each(['tiny-bert', 'tiny-vit', 'tiny-gpt2', 'tiny-gemma-gqa'] as const)('%s', (name) => {
  let model: Model;
  beforeEach(async () => {
    model = await convertedTinyModel(name);
  });
  afterEach(() => model.dispose());
  failOnLeaks();

  const lengths = name === 'tiny-vit' ? [17, 17, 17, 17] : sentenceLengths;
  const tokens = lengths.reduce((sum, length) => sum + length, 0);
  const batches = () => tinyBatches[name](9);
  const calibration = () => tinyBatches[name](77);

  /**
   * Runs the data with an FFN in float64 whose tokens report what they execute, by a count of multiply-adds: the score
   * is left to the method, the counts are what the method must have found.
   */
  function countByLoop(
    run: (site: Site, x: number[]) => { output: number[]; multiplyAdds: number },
  ): Map<string, number> {
    const counts = new Map<string, number>();
    for (const { batch } of batches()) {
      const isReal = realTokens(batch);
      tf.tidy(() => {
        model.forward(batch, {
          substitute: (site, x) => {
            if (site.kind !== 'feedForward') return undefined;
            const rows = x.arraySync().map((row, i) => {
              const { output, multiplyAdds } = run(site, row);
              if (isReal(i)) counts.set(site.name, (counts.get(site.name) ?? 0) + multiplyAdds);
              return output;
            });
            return tf.tensor2d(rows);
          },
        });
      });
      tf.dispose({ ...batch });
    }
    return counts;
  }

  function expectCosts(
    point: { cost: number; convertedCost: number },
    counts: Map<string, number>,
  ) {
    const run = ffns.reduce((sum, ffn) => sum + (counts.get(ffn) as number), 0);
    const replaced = ffns.reduce((sum, ffn) => sum + tokens * siteCost(model.site(ffn)), 0);
    const dense = lengths.reduce((sum, length) => sum + denseCost(model.shape, length).total, 0);
    expect(point.convertedCost).toBeCloseTo(run / replaced, 12);
    expect(point.cost).toBeCloseTo((dense - replaced + run) / dense, 12);
  }

  test('CATS costs what a loop over tokens and neurons adds up', async () => {
    const curve = await catsBaseline({ model, batches, calibration, values: [0.3, 0.8] });
    const thresholds = curve.settings['thresholds'] as Record<string, number>[];
    for (const [i, point] of curve.points.entries()) {
      const active = new Map<string, number>();
      const counts = countByLoop((site, x) => {
        const { dIn, dOut, hidden, gated } = site;
        const ffn = referenceFeedForward(() => model.weights(site));
        const keeps = ffn.activations(x).map(isLarge(thresholds[i]?.[site.name] as number));
        const count = keeps.filter(Boolean).length;
        active.set(site.name, (active.get(site.name) ?? 0) + count);
        const output = ffn.project(ffn.hidden(x).map((value, j) => (keeps[j] ? value : 0)));
        return { output, multiplyAdds: hidden * dIn + count * (dOut + (gated ? dIn : 0)) };
      });
      expectCosts(point, counts);
      for (const share of Object.values(point.executed)) {
        expect(share).toBeGreaterThan(0);
        expect(share).toBeLessThan(1);
      }
    }
    const [more, less] = curve.points;
    expect(less?.cost).toBeLessThan(more?.cost as number);
  });

  test('TEAL costs what a loop over tokens and inputs adds up', async () => {
    const curve = await tealBaseline({ model, batches, calibration, values: [0.25, 0.7] });
    const thresholds = curve.settings['thresholds'] as Record<string, number>[];
    for (const [i, point] of curve.points.entries()) {
      const at = (key: string) => isLarge(thresholds[i]?.[key] as number);
      const counts = countByLoop((site, x) => {
        const ffn = referenceFeedForward(() => model.weights(site));
        const keepsInput = at(`${site.name}.input`);
        const inputs = x.map((value) => (keepsInput(value) ? value : 0));
        const keepsHidden = at(`${site.name}.hidden`);
        const hidden = ffn.hidden(inputs).map((value) => (keepsHidden(value) ? value : 0));
        const columns = (site.gated ? 2 : 1) * site.hidden * x.filter(keepsInput).length;
        const rows = site.dOut * hidden.filter((value) => value !== 0).length;
        return { output: ffn.project(hidden), multiplyAdds: columns + rows };
      });
      expectCosts(point, counts);
      // Thresholds of other data give about the target sparsity.
      expect(point.convertedCost).toBeGreaterThan(0.2);
      expect(point.convertedCost).toBeLessThan(0.9);
    }
  });

  test.each([
    ['CATS', catsBaseline],
    ['TEAL', tealBaseline],
  ] as const)('%s at a target of 0 is the dense model', async (_, run) => {
    const { score } = await evaluateDense(model, batches());
    const { points } = await run({ model, batches, calibration, values: [0] });
    expect(points[0]?.score.value).toBeCloseTo(score.value, 6);
    expect(points[0]?.score.name).toBe(score.name);
    expect(points[0]?.cost).toBeLessThanOrEqual(1);
    // These models' activations are smooth: few values are exactly 0.
    expect(points[0]?.cost).toBeGreaterThan(0.99);
    expect(points[0]?.executed[ffns[0]]).toBeGreaterThan(0.95);
  });

  test('after a ReLU zeros are skipped at any target, and cost nothing in score', async () => {
    model.relufy();
    const { score } = await evaluateDense(model, batches());
    const { points } = await catsBaseline({ model, batches, calibration, values: [0] });
    expect(points[0]?.score.value).toBeCloseTo(score.value, 5);
    expect(points[0]?.executed[ffns[0]]).toBeLessThan(0.9);
  });

  test('padding sets no threshold', async () => {
    if (name !== 'tiny-bert') return;
    // The same sentences, with other tokens where there is padding.
    function* other() {
      for (const { batch, labels } of padded()) {
        const { inputIds, attentionMask } = batch as Required<TextBatch>;
        const padded = tf.tidy(() =>
          tf.where(tf.cast(attentionMask, 'bool'), inputIds, tf.onesLike(inputIds)),
        );
        inputIds.dispose();
        yield { batch: { inputIds: padded, attentionMask }, labels };
      }
    }
    function* padded() {
      const [first, second] = calibration();
      tf.dispose({ ...second?.batch });
      if (first) yield first;
    }
    const values = [0.5];
    const one = await tealBaseline({ model, batches, calibration: padded, values });
    const two = await tealBaseline({ model, batches, calibration: other, values });
    const [first, second] = [one, two].map(
      ({ settings }) => (settings['thresholds'] as Record<string, number>[])[0] ?? {},
    );
    expect(Object.keys(first ?? {})).toHaveLength(4);
    for (const [key, value] of Object.entries(first ?? {})) {
      expect(second?.[key]).toBeCloseTo(value, 5);
    }
  });
});

test('a threshold is the least at or below which the share lies', () => {
  const sorted = Float32Array.of(0, 0, 1, 2, 3, 4, 5, 6, 7, 8);
  expect([0, 0.1, 0.2, 0.3, 0.5, 1].map((share) => thresholdFor(sorted, share))).toEqual([
    0, 0, 0, 1, 3, 8,
  ]);
  for (const share of [-0.1, 1.1, Number.NaN]) {
    expect(() => thresholdFor(sorted, share)).toThrowError(/from 0 to 1/);
  }
});

test('no calibration data, no thresholds', async () => {
  const model = await convertedTinyModel('tiny-bert');
  const options = { model, batches: () => tinyBatches['tiny-bert'](1), calibration: () => [] };
  await expect(catsBaseline(options)).rejects.toThrowError(/hold no token/);
  model.dispose();
});
