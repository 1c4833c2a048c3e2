import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { constants, tmpdir } from 'node:os';
import { join } from 'node:path';
import { turboBuild } from './build.mjs';
import { run } from './children.mjs';
import { addTallies, summaryLine, tallyGate, tallyVitest } from './tally.mjs';

/** @typedef {import('./tally.mjs').Tally} Tally */

/**
 * Runs every gate that a change has to pass, all of them even after a failure, and ends with one line of counts.
 * Each gate before the tests counts as one test.
 *
 * @param {string[]} args Passed on to vitest, e.g. the path of one package.
 */
export async function runGates(args) {
  // The build comes first because the type-aware lint and the types of tests and tools look at what it writes.
  /** @type {[string, () => ReturnType<typeof run>][]} */
  const gates = [
    ['build', () => turboBuild()],
    ['lint', () => run('oxlint', ['--type-aware', '--deny-warnings'], { quiet: true })],
    ['format', () => run('biome', ['format', '.'], { quiet: true })],
    ['types of tests and tools', () => run('tsc', ['-p', '.'], { quiet: true })],
  ];
  /** @type {Tally[]} */
  const tallies = [];
  for (const [name, gate] of gates) {
    const started = performance.now();
    const outcome = await gate();
    stopIfInterrupted(outcome);
    const passed = outcome.code === 0;
    if (!passed) console.log(outcome.output.trimEnd());
    const seconds = ((performance.now() - started) / 1000).toFixed(1);
    console.log(`${passed ? 'passed' : 'FAILED'}  ${name}  (${seconds} s)`);
    tallies.push(tallyGate(passed));
  }
  tallies.push(await runVitest(args));

  const total = addTallies(tallies);
  process.exitCode = total.failed === 0 ? 0 : 1;
  console.log(summaryLine(total));
}

/**
 * @param {string[]} args
 * @returns {Promise<Tally>}
 */
async function runVitest(args) {
  const folder = mkdtempSync(join(tmpdir(), 'd2dmoe-test-'));
  const reportFile = join(folder, 'report.json');
  try {
    const reporters = ['--reporter=default', '--reporter=json', `--outputFile.json=${reportFile}`];
    const outcome = await run('vitest', ['run', ...reporters, ...args]);
    stopIfInterrupted(outcome);
    return tallyVitest(readReport(reportFile), outcome.code);
  } finally {
    rmSync(folder, { recursive: true });
  }
}

/** @param {string} file */
function readReport(file) {
  try {
    return JSON.parse(readFileSync(file, 'utf8'));
  } catch {
    // vitest ended before it wrote its report; its exit code says so too.
    return undefined;
  }
}

/** @param {import('./children.mjs').Outcome} outcome */
function stopIfInterrupted({ signal, interrupted }) {
  const end = interrupted ?? signal;
  if (end !== null) process.exit(128 + constants.signals[end]);
}
