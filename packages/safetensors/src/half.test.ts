import { expect, test } from 'vitest';
import {
  bfloat16ToFloat32,
  float16ToFloat32,
  float32ToBFloat16,
  float32ToFloat16,
} from './half.js';

const ALL_BITS = Uint16Array.from({ length: 0x10000 }, (_, bits) => bits);

/** IEEE 754: (−1)^s · 2^(e − bias) · 1.f, or (−1)^s · 2^(1 − bias) · 0.f where e = 0. */
function decode(bits: number, exponentBits: number, fractionBits: number): number {
  const sign = bits >= 0x8000 ? -1 : 1;
  const exponent = Math.floor((bits % 0x8000) / 2 ** fractionBits);
  const fraction = (bits % 2 ** fractionBits) / 2 ** fractionBits;
  const bias = 2 ** (exponentBits - 1) - 1;
  if (exponent === 2 ** exponentBits - 1) {
    return fraction === 0 ? sign * Infinity : Number.NaN;
  }
  return exponent === 0
    ? sign * fraction * 2 ** (1 - bias)
    : sign * (1 + fraction) * 2 ** (exponent - bias);
}

const formats = [
  { name: 'F16', widen: float16ToFloat32, round: float32ToFloat16, exponent: 5, fraction: 10 },
  { name: 'BF16', widen: bfloat16ToFloat32, round: float32ToBFloat16, exponent: 8, fraction: 7 },
];

for (const { name, widen, round, exponent, fraction } of formats) {
  const infinity = (2 ** exponent - 1) * 2 ** fraction;

  test(`${name}: all 65,536 values widen as IEEE 754 defines them`, () => {
    const values = widen(ALL_BITS);
    const wrong = ALL_BITS.filter(
      (bits) => !Object.is(values[bits], decode(bits, exponent, fraction)),
    );
    expect([...wrong]).toEqual([]);
  });

  test(`${name}: a value that is representable keeps its bits, a NaN stays a NaN`, () => {
    const bits = round(widen(ALL_BITS));
    const isNaN = (value: number) => (value & 0x7fff) > infinity;
    const wrong = ALL_BITS.filter((before) => {
      const after = bits[before] as number;
      return isNaN(before) ? !isNaN(after) || (before ^ after) >= 0x8000 : before !== after;
    });
    expect([...wrong]).toEqual([]);
  });

  test(`${name}: between any two neighbours the nearer wins, half way the even one`, () => {
    const words = new Uint32Array(1);
    const word = new Float32Array(words.buffer);
    const roundOne = (value: number, step: number) => {
      word[0] = value;
      words[0] = (words[0] as number) + step;
      return round(word)[0] as number;
    };
    const wrong: number[] = [];
    for (let low = 0; low < infinity; low++) {
      // The step above the largest finite value would be 2^(bias + 1), from which on all rounds to infinity.
      const next =
        low + 1 === infinity ? 2 ** (2 ** (exponent - 1)) : decode(low + 1, exponent, fraction);
      const middle = (decode(low, exponent, fraction) + next) / 2;
      const even = low % 2 === 0 ? low : low + 1;
      const sound =
        roundOne(middle, 0) === even &&
        roundOne(middle, -1) === low &&
        roundOne(middle, 1) === low + 1 &&
        roundOne(-middle, 0) === even + 0x8000 &&
        roundOne(-middle, -1) === low + 0x8000 &&
        roundOne(-middle, 1) === low + 1 + 0x8000;
      if (!sound) {
        wrong.push(low);
      }
    }
    expect(wrong).toEqual([]);
  });
}

test('float32 values beyond the range of F16 become infinite or zero', () => {
  const values = Float32Array.of(65_519.996, 65_520, 3e38, -3e38, Infinity, 2 ** -25, 1e-40, -0);
  expect([...float16ToFloat32(float32ToFloat16(values))]).toEqual([
    65_504,
    Infinity,
    Infinity,
    -Infinity,
    Infinity,
    0,
    0,
    -0,
  ]);
});

test('a view into the middle of a buffer is rounded, not the buffer', () => {
  const values = Float32Array.of(1, 2, 3).subarray(1);
  expect([...float16ToFloat32(float32ToFloat16(values))]).toEqual([2, 3]);
  expect([...bfloat16ToFloat32(float32ToBFloat16(values))]).toEqual([2, 3]);
});
