import { expect, test } from 'vitest';
import { addTallies, summaryLine, tallyGate, tallyVitest } from './tally.mjs';

const file = (status: string, ...tests: string[]) => ({
  status,
  assertionResults: tests.map((status) => ({ status })),
});

test('tests are counted by their result, and everything that did not run is skipped', () => {
  const report = {
    testResults: [
      file('failed', 'passed', 'failed', 'failed'),
      file('passed', 'passed', 'pending', 'todo', 'skipped'),
    ],
  };
  expect(tallyVitest(report, 1)).toEqual({ passed: 2, failed: 2, skipped: 3 });
});

test('a file that failed without a failed test counts as one', () => {
  const report = {
    testResults: [file('failed'), file('failed', 'skipped'), file('passed', 'passed')],
  };
  expect(tallyVitest(report, 1)).toEqual({ passed: 1, failed: 2, skipped: 1 });
});

test('an error outside of all tests, and a crash, count as one failed test', () => {
  expect(tallyVitest({ testResults: [file('passed', 'passed')] }, 1).failed).toBe(1);
  expect(tallyVitest(undefined, 1)).toEqual({ passed: 0, failed: 1, skipped: 0 });
  expect(tallyVitest(undefined, 0)).toEqual({ passed: 0, failed: 1, skipped: 0 });
});

test('gates and tests add up to one line', () => {
  const total = addTallies([
    tallyGate(true),
    tallyGate(false),
    { passed: 10, failed: 2, skipped: 3 },
  ]);
  expect(summaryLine(total)).toBe('11 passed, 3 failed, 3 skipped');
});
