import { expect, test } from 'vitest';
import { describeBar, holds } from './bars.js';
import { timedCases } from './cases.js';

for (const relaxedSimd of [true, false]) {
  for (const threads of [1, 2]) {
    const cases = timedCases({ relaxedSimd, threads });
    const rows = cases.flatMap(({ rows }) => rows);
    const set = `${relaxedSimd ? 'with' : 'without'} relaxed SIMD, ${threads} threads`;

    test(`rows name participants of their case (${set})`, () => {
      for (const { participants, rows } of cases) {
        const labels = Object.keys(participants);
        expect(
          rows.flatMap(({ time, by }) => [time, by]).filter((l) => !labels.includes(l)),
        ).toEqual([]);
      }
    });

    test(`no two rows have the same name (${set})`, () => {
      expect(new Set(rows.map(({ name }) => name)).size).toBe(rows.length);
    });

    test(`the two of a row have the same number of threads, unless threads are what it is about (${set})`, () => {
      for (const { name, participants, rows } of cases) {
        if (name.startsWith('2 threads')) continue;
        for (const { time, by } of rows) {
          expect(participants[time]?.threads).toBe(participants[by]?.threads);
        }
      }
    });
  }
}

test('relaxed SIMD raises the bars that depend on it', () => {
  const bars = (relaxedSimd: boolean) =>
    new Map(
      timedCases({ relaxedSimd, threads: 1 })
        .flatMap(({ rows }) => rows)
        .map(({ name, bar }) => [name, bar]),
    );
  const product = 'product [197×768]·[768×3072]: tfjs-wasm / d2dmoe';
  expect(bars(true).get(product)).toEqual({ atLeast: 1.8 });
  expect(bars(false).get(product)).toEqual({ atLeast: 1.35 });
  const experts = 'experts of 32, N = 1: onnxruntime-node dense / f = 0.4 (38 of 96)';
  expect(bars(true).get(experts)).toEqual({ atLeast: 1 });
  expect(bars(false).has(experts)).toBe(true);
  expect(bars(false).get(experts)).toBeUndefined();
});

test('a bar is met at its own value, and never by a value that is missing or no number', () => {
  expect(holds({ atLeast: 1.35 }, 1.35)).toBe(true);
  expect(holds({ atLeast: 1.35 }, 1.34)).toBe(false);
  expect(holds({ atMost: 0.2 }, 0.2)).toBe(true);
  expect(holds({ atMost: 0.2 }, 0.21)).toBe(false);
  for (const bar of [{ atLeast: 1 }, { atMost: 1 }]) {
    expect(holds(bar, null)).toBe(false);
    expect(holds(bar, Number.NaN)).toBe(false);
  }
  expect([{ atLeast: 10 }, { atMost: 0.3 }].map(describeBar)).toEqual(['≥ 10', '≤ 0.3']);
});
