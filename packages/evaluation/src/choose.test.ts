import { expect, test } from 'vitest';
import { cheapestWithin, costAtScore, scoreAtCost } from './choose.js';
import type { Score } from './score.js';

const accuracy = (value: number): Score => ({ name: 'accuracy', value, higherIsBetter: true });
const loss = (value: number): Score => ({ name: 'loss', value, higherIsBetter: false });

const classifier = [
  { cost: 1.02, score: accuracy(0.92) },
  { cost: 0.6, score: accuracy(0.9) },
  { cost: 0.4, score: accuracy(0.8) },
  { cost: 0.5, score: accuracy(0.9) },
];
const language = [
  { cost: 0.8, score: loss(3.6) },
  { cost: 0.9, score: loss(3.4) },
  { cost: 1.1, score: loss(3.3) },
];

test('the cheapest point within a budget', () => {
  const keep = (share: number) =>
    cheapestWithin(classifier, { keep: share, dense: accuracy(0.92) });
  expect(keep(0.99)).toBe(classifier[0]);
  expect(keep(0.97)).toBe(classifier[3]);
  expect(keep(0.5)).toBe(classifier[2]);
  expect(keep(1.01)).toBeUndefined();
});

test('a loss may grow by the share that need not be kept', () => {
  const keep = (share: number) => cheapestWithin(language, { keep: share, dense: loss(3.3) });
  expect(keep(1)).toBe(language[2]);
  expect(keep(0.96)).toBe(language[1]); // 3.432
  expect(keep(0.9)).toBe(language[0]); // 3.63
});

test('of equally cheap points the better is chosen', () => {
  const points = [0.7, 0.9, 0.8].map((value) => ({ cost: 0.5, score: accuracy(value) }));
  expect(cheapestWithin(points, { keep: 0.5, dense: accuracy(1) })).toBe(points[1]);
});

test('a loss is not held against an accuracy', () => {
  expect(() => cheapestWithin(language, { keep: 0.99, dense: accuracy(0.9) })).toThrowError(/loss/);
});

test('the score at a cost lies on the line between the neighbouring points', () => {
  expect(scoreAtCost(classifier, 0.5)).toBe(0.9);
  expect(scoreAtCost(classifier, 0.45)).toBeCloseTo(0.85, 12);
  expect(scoreAtCost(language, 1)).toBeCloseTo(3.35, 12);
  expect(scoreAtCost(classifier, 0.39)).toBeUndefined();
  expect(scoreAtCost(classifier, 1.03)).toBeUndefined();
  expect(scoreAtCost([], 0.5)).toBeUndefined();
});

test('the cost at a score is where the curve first gets there', () => {
  expect(costAtScore(classifier, 0.9)).toBeCloseTo(0.5, 12);
  expect(costAtScore(classifier, 0.85)).toBeCloseTo(0.45, 12);
  expect(costAtScore(classifier, 0.1)).toBe(0.4);
  expect(costAtScore(classifier, 0.93)).toBeUndefined();
  expect(costAtScore(language, 3.5)).toBeCloseTo(0.85, 12);
  expect(costAtScore(language, 3.2)).toBeUndefined();
});

test('both are inverse to each other on a strictly rising stretch', () => {
  for (const score of [0.81, 0.84, 0.88]) {
    expect(scoreAtCost(classifier, costAtScore(classifier, score) as number)).toBeCloseTo(
      score,
      12,
    );
  }
});
