import * as fc from 'fast-check';
import { expect, test } from 'vitest';
import { replacementWidth } from './index.js';

test('a square projection gets half its width, as published', () => {
  expect(replacementWidth({ dIn: 768, dOut: 768, expertSize: 6 })).toBe(384);
  expect(replacementWidth({ dIn: 256, dOut: 256, expertSize: 8 })).toBe(128);
  expect(replacementWidth({ dIn: 192, dOut: 192, expertSize: 6, bias: false })).toBe(96);
});

test('keys and values narrower than the queries get less, by (256·64 + 64) / 321 = 51', () => {
  expect(replacementWidth({ dIn: 256, dOut: 64, expertSize: 1 })).toBe(51);
  expect(replacementWidth({ dIn: 256, dOut: 64, expertSize: 8 })).toBe(48);
  expect(replacementWidth({ dIn: 256, dOut: 64, expertSize: 1, factor: 2 })).toBe(102);
  expect(replacementWidth({ dIn: 8, dOut: 2, expertSize: 16 })).toBe(16);
});

test('the replacement has as many parameters as the projection, to half an expert', () => {
  const size = fc.integer({ min: 1, max: 900 });
  fc.assert(
    fc.property(
      size,
      size,
      fc.integer({ min: 1, max: 16 }),
      fc.constantFrom(0.5, 1, 2),
      fc.boolean(),
      (dIn, dOut, expertSize, factor, bias) => {
        const hidden = replacementWidth({ dIn, dOut, expertSize, factor, bias });
        expect(hidden % expertSize).toBe(0);
        const perNeuron = dIn + dOut + 1;
        const wanted = factor * (dIn * dOut + (bias ? dOut : 0));
        // Half an expert off at most; where that would be none, there is one.
        const off = Math.abs(hidden * perNeuron - wanted) / (perNeuron * expertSize);
        expect(hidden === expertSize ? off - 0.5 : off).toBeLessThanOrEqual(0.5 + 1e-9);
      },
    ),
  );
});

test.each([
  [{ dIn: 0, dOut: 4, expertSize: 2 }, /dIn .* not 0/],
  [{ dIn: 4, dOut: 1.5, expertSize: 2 }, /dOut .* not 1.5/],
  [{ dIn: 4, dOut: 4, expertSize: -1 }, /expertSize .* not -1/],
  [{ dIn: 4, dOut: 4, expertSize: 2, factor: 0 }, /above 0, not 0/],
])('%o is refused', (options, message) => {
  expect(() => replacementWidth(options)).toThrow(
    expect.objectContaining({
      code: 'REPLACEMENT_SIZE_INVALID',
      message: expect.stringMatching(message),
    }),
  );
});
