import { Random } from '@d2dmoe/core';
import * as fc from 'fast-check';
import { expect, test } from 'vitest';
import { completeSplits, divideDocuments } from './split-off.js';

const numbers = (n: number) => Array.from({ length: n }, (_, i) => i);

test('what is given stays as it is', () => {
  const given = { train: [1], validation: [2], test: [3] };
  expect(completeSplits(given, new Random(0))).toEqual(given);
});

test('splits that are made are disjoint, complete, in order and the same for the same seed', () => {
  fc.assert(
    fc.property(fc.integer({ min: 3, max: 300 }), fc.integer(), (n, seed) => {
      const { train, validation, test } = completeSplits({ train: numbers(n) }, new Random(seed));
      const size = Math.max(1, Math.floor(n / 10));
      expect([validation.length, test.length]).toEqual([size, size]);
      for (const split of [train, validation, test]) {
        expect(split).toEqual([...split].sort((a, b) => a - b));
      }
      expect([...train, ...validation, ...test].sort((a, b) => a - b)).toEqual(numbers(n));
      const again = completeSplits({ train: numbers(n) }, new Random(seed));
      expect(again.validation).toEqual(validation);
    }),
  );
});

test('validation is the same whether test is given or not, and at most 2,000 examples', () => {
  const whole = { train: numbers(50_000) };
  const both = completeSplits(whole, new Random(4));
  const one = completeSplits({ ...whole, test: [1, 2] }, new Random(4));
  expect(both.validation.length).toBe(2000);
  expect(one.validation).toEqual(both.validation);
  expect(one.test).toEqual([1, 2]);
  expect(one.train.length).toBe(48_000);
  expect(one.splitOff).toBe("validation: 2000 of train's 50000 examples, by seed");
  expect(completeSplits(whole, new Random(5)).validation).not.toEqual(both.validation);
});

test('a missing test split is half of a given validation split, and train is left whole', () => {
  const splits = completeSplits({ train: numbers(9), validation: numbers(7) }, new Random(1));
  expect(splits.train).toEqual(numbers(9));
  expect([splits.test.length, splits.validation.length]).toEqual([3, 4]);
  expect([...splits.test, ...splits.validation].sort((a, b) => a - b)).toEqual(numbers(7));
});

test('documents cut up join to what they were, at line ends or spaces where there are any', () => {
  fc.assert(
    fc.property(fc.string({ unit: 'grapheme', maxLength: 500 }), (text) => {
      const parts = divideDocuments([{ text }]).map((part) => part.text);
      expect(parts.join('')).toBe(text);
      expect(parts.length).toBeLessThanOrEqual(20);
      expect(
        parts.every((part) => part !== '' && !/^[\udc00-\udfff]|[\ud800-\udbff]$/.test(part)),
      ).toBe(true);
    }),
  );
  const words = 'some words on a single line '.repeat(40);
  const parts = divideDocuments([{ text: words }]);
  expect(parts.length).toBeGreaterThan(15);
  expect(parts.every(({ text }) => text.endsWith(' '))).toBe(true);
  const ten = numbers(10).map((i) => ({ text: `${i}\n`.repeat(50) }));
  expect(divideDocuments(ten)).toBe(ten);
});
