import { describe, expect, test } from 'vitest';
import { baseline, denseAccuracy, lossPoint, point } from '../../testing/report-data.js';
import { comparisonSentences, headline } from './findings.js';

const dynamicK = [point(0.9, 1), point(0.895, 0.6), point(0.88, 0.4)];
const findings = { dense: denseAccuracy, dynamicK, baselines: [], operatingPoints: [] };
const denseLoss = {
  ...denseAccuracy,
  score: { name: 'loss', value: 3, higherIsBetter: false } as const,
};

describe('the headline', () => {
  test('says what the first operating point keeps and costs', () => {
    const operatingPoints = [{ name: 'a', chosen: '', point: point(0.8973, 0.4249) }];
    expect(headline({ ...findings, operatingPoints })).toBe(
      'Keeps 99.7 % of the accuracy at 0.42 of the cost',
    );
  });

  test('does not claim more than all', () => {
    const operatingPoints = [{ name: 'a', chosen: '', point: point(0.93, 0.0512) }];
    expect(headline({ ...findings, operatingPoints })).toBe(
      'Keeps all of the accuracy at 0.051 of the cost',
    );
  });

  test('takes the curve’s cheapest point of 99 %, else of less, where none was calibrated', () => {
    expect(headline(findings)).toBe('Keeps 99.4 % of the accuracy at 0.60 of the cost');
    expect(headline({ ...findings, dynamicK: dynamicK.slice(2) })).toBe(
      'Keeps 97.8 % of the accuracy at 0.40 of the cost',
    );
    expect(headline({ ...findings, dynamicK: [point(0.5, 0.3)] })).toBe(
      'No threshold keeps 95 % of the accuracy',
    );
  });

  test('speaks of a loss as one', () => {
    const own = { ...findings, dense: denseLoss };
    expect(headline({ ...own, dynamicK: [lossPoint(3.06, 0.9)] })).toBe(
      'Keeps the loss within 2 % of the dense model’s at 0.90 of the cost',
    );
    expect(headline({ ...own, dynamicK: [lossPoint(2.9, 0.9)] })).toBe(
      'Keeps all of the quality at 0.90 of the cost',
    );
  });
});

describe('the comparison', () => {
  const compare = (...baselines: ReturnType<typeof baseline>[]) =>
    comparisonSentences({ ...findings, baselines });

  test('says that no baseline beats dynamic-k where none does', () => {
    expect(compare(baseline('one', [point(0.89, 0.6), point(0.7, 0.2)]))).toEqual([
      'No baseline beats dynamic-k at any cost that both were measured at.',
      'To keep 99 % of the accuracy, dynamic-k is the cheapest, at 0.600.',
      'To keep 97 % of the accuracy, dynamic-k is the cheapest, at 0.400.',
      'To keep 95 % of the accuracy, dynamic-k is the cheapest, at 0.400.',
    ]);
  });

  test('says where a baseline is ahead and by how much, between points by interpolation', () => {
    const ahead = baseline('one', [point(0.9, 0.8), point(0.893, 0.5), point(0.8, 0.45)]);
    const behind = baseline('two', [point(0.89, 0.9)]);
    const sentences = compare(ahead, behind);
    expect(sentences.slice(0, 4)).toEqual([
      '1 of 2 baselines beats dynamic-k at some cost.',
      // At 0.5 dynamic-k has 0.8875, at 0.8 it has 0.8975.
      'The one & co beats dynamic-k at costs 0.500 to 0.800, by up to 0.55 points (at 0.500).',
      'Dynamic-k is at least as good as The two & co at every cost that both were measured at.',
      'To keep 99 % of the accuracy, dynamic-k costs 0.600; cheaper is The one & co (0.500).',
    ]);
    expect(sentences.at(-1)).toBe(
      'The standard error of an accuracy over 2,500 samples is 0.60 points.',
    );
  });

  test('does not call a baseline ahead that dynamic-k matches at a lower cost', () => {
    // Dynamic-k’s own curve dips at 0.6; at 0.5 it had more already.
    const dipping = [point(0.9, 1), point(0.86, 0.6), point(0.89, 0.5)];
    const sentences = comparisonSentences({
      ...findings,
      dynamicK: dipping,
      baselines: [baseline('one', [point(0.88, 0.6)])],
    });
    expect(sentences[0]).toBe(
      'No baseline beats dynamic-k at any cost that both were measured at.',
    );
  });

  test('tells of a baseline that costs less than dynamic-k ever does', () => {
    expect(compare(baseline('one', [point(0.86, 0.3)]))[1]).toBe(
      'The one & co keeps 95 % of the accuracy at 0.300, below dynamic-k’s lowest cost of 0.400.',
    );
  });

  test('counts a bound as no rival', () => {
    const sentences = compare(baseline('oracle', [point(0.9, 0.4)], { isBound: true }));
    expect(sentences.slice(0, 3)).toEqual([
      'No baseline beats dynamic-k at any cost that both were measured at.',
      'The oracle & co beats dynamic-k at cost 0.400, by 2.00 points: a bound that no router reaches, not a method.',
      'To keep 99 % of the accuracy, dynamic-k is the cheapest, at 0.600.',
    ]);
  });

  test('holds losses the other way round', () => {
    const sentences = comparisonSentences({
      dense: denseLoss,
      dynamicK: [lossPoint(3, 1), lossPoint(3.1, 0.6)],
      baselines: [baseline('one', [lossPoint(3.02, 0.6)]), baseline('two', [lossPoint(3.2, 0.6)])],
      operatingPoints: [],
    });
    expect(sentences).toEqual([
      '1 of 2 baselines beats dynamic-k at some cost.',
      'The one & co beats dynamic-k at cost 0.600, by 0.080.',
      'Dynamic-k is at least as good as The two & co at every cost that both were measured at.',
      'To keep the loss within 1 %, dynamic-k costs 1.000; cheaper is The one & co (0.600).',
      'To keep the loss within 3 %, dynamic-k costs 1.000; cheaper is The one & co (0.600).',
      'To keep the loss within 5 %, dynamic-k is the cheapest, at 0.600.',
    ]);
  });
});
