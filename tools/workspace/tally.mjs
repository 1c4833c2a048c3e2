/**
 * Counts of tests by their result.
 *
 * @typedef {{ passed: number, failed: number, skipped: number }} Tally
 */

/**
 * The part of vitest's JSON report that is counted here.
 *
 * @typedef {{ testResults: { status: string, assertionResults: { status: string }[] }[] }} VitestReport
 */

/**
 * @param {boolean} passed
 * @returns {Tally}
 */
export function tallyGate(passed) {
  return { passed: passed ? 1 : 0, failed: passed ? 0 : 1, skipped: 0 };
}

/**
 * Counts vitest's tests. What failed without being a test counts as one failed test: a file that could not be loaded
 * or set up, an error outside of all tests, a crash that left no report.
 *
 * @param {VitestReport | undefined} report
 * @param {number | null} exitCode
 * @returns {Tally}
 */
export function tallyVitest(report, exitCode) {
  const tally = { passed: 0, failed: 0, skipped: 0 };
  for (const file of report?.testResults ?? []) {
    const failedBefore = tally.failed;
    for (const { status } of file.assertionResults) {
      if (status === 'passed') tally.passed++;
      else if (status === 'failed') tally.failed++;
      else tally.skipped++;
    }
    if (file.status === 'failed' && tally.failed === failedBefore) tally.failed++;
  }
  if ((exitCode !== 0 || report === undefined) && tally.failed === 0) tally.failed = 1;
  return tally;
}

/**
 * @param {Tally[]} tallies
 * @returns {Tally}
 */
export function addTallies(tallies) {
  const total = { passed: 0, failed: 0, skipped: 0 };
  for (const tally of tallies) {
    total.passed += tally.passed;
    total.failed += tally.failed;
    total.skipped += tally.skipped;
  }
  return total;
}

/**
 * The last line that `npm test` prints; other tools read it.
 *
 * @param {Tally} tally
 */
export function summaryLine({ passed, failed, skipped }) {
  return `${passed} passed, ${failed} failed, ${skipped} skipped`;
}
