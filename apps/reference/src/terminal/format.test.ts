import { expect, test } from 'vitest';
import { formatBytes, formatCount, formatDuration, formatMetric, formatPercent } from './format.js';

test.each([
  [0, '0.0 s'],
  [4.23, '4.2 s'],
  [9.96, '10 s'],
  [59.4, '59 s'],
  [59.6, '1 min 00 s'],
  [185, '3 min 05 s'],
  [3599.6, '1 h 00 min'],
  [3720, '1 h 02 min'],
  [86_399, '1 d 00 h'],
  [183_600, '2 d 03 h'],
  [Number.POSITIVE_INFINITY, '?'],
  [Number.NaN, '?'],
])('%d seconds read %s', (seconds, text) => {
  expect(formatDuration(seconds)).toBe(text);
});

test.each([
  [0, '0 B'],
  [999, '999 B'],
  [1000, '1 kB'],
  [12_440_000, '12.4 MB'],
  [999_600_000, '1 GB'],
  [5_053_000_000, '5.05 GB'],
])('%d bytes read %s', (bytes, text) => {
  expect(formatBytes(bytes)).toBe(text);
});

test.each([
  [950, '950'],
  [1200, '1.2k'],
  [999_499, '999k'],
  [999_500, '1M'],
  [11_170_000, '11.2M'],
  [4_050_000_000, '4.05G'],
])('a count of %d reads %s', (count, text) => {
  expect(formatCount(count)).toBe(text);
});

test('shares read as percentages', () => {
  expect(formatPercent(0.39412)).toBe('39.4 %');
  expect(formatPercent(0.62, 0)).toBe('62 %');
});

test.each([
  [0, '0'],
  [32, '32'],
  [0.43214, '0.4321'],
  [12.3412, '12.34'],
  [9.87654, '9.877'],
  [12_345.6, '12346'],
  [0.000025, '2.500e-5'],
  [-0.5, '-0.5000'],
  [Number.NaN, 'NaN'],
])('a figure of %d reads %s', (value, text) => {
  expect(formatMetric(value)).toBe(text);
});
