import { execFileSync } from 'node:child_process';
import { mkdirSync, writeFileSync } from 'node:fs';
import { availableParallelism, cpus } from 'node:os';
import { dirname } from 'node:path';
import { describeBar } from './bars.js';
import type { Row } from './row.js';

/** What a file of results holds; the README describes it. */
export interface Report {
  machine: { cpu: string; cores: number; node: string };
  /** The commit that was built, with "+" behind it where files had been changed since. */
  commit: string;
  /** When the run began, ISO 8601. */
  date: string;
  relaxedSimd: boolean;
  /** Threads of the expert op's cases. */
  threads: number;
  /** Whether turns were too short to judge by. */
  quick: boolean;
  rows: Row[];
}

/** The report of a run that begins now, without its rows. */
export function startReport(settings: Pick<Report, 'relaxedSimd' | 'threads' | 'quick'>): Report {
  return {
    machine: {
      cpu: cpus()[0]?.model ?? 'unknown',
      cores: availableParallelism(),
      node: process.version,
    },
    commit: currentCommit(),
    date: new Date().toISOString(),
    ...settings,
    rows: [],
  };
}

function currentCommit(): string {
  const git = (...args: string[]) =>
    execFileSync('git', args, { cwd: import.meta.dirname, encoding: 'utf8' }).trim();
  try {
    return git('rev-parse', 'HEAD') + (git('status', '--porcelain') === '' ? '' : '+');
  } catch {
    return 'unknown';
  }
}

/** Writes the results, whole or not at all as far as JSON goes. */
export function writeReport(file: string, report: Report): void {
  mkdirSync(dirname(file), { recursive: true });
  writeFileSync(file, `${JSON.stringify(report, null, 2)}\n`);
}

/** One row as a line: what was found, the bar, the value, and by what. */
export function rowLine({ name, bar, value, holds, times, mebibytes, error }: Row): string {
  if (value === null) return `FAILED   ${name}: ${error}`;
  const verdict = bar === undefined ? 'measured' : holds ? 'holds   ' : 'MISSED  ';
  const parts = mebibytes
    ? Object.entries(mebibytes).map(([label, size]) => `${label} ${size} MiB`)
    : Object.entries(times ?? {}).map(([label, { median }]) => `${label} ${duration(median)}`);
  return [
    verdict,
    value.toFixed(value < 10 ? 3 : 1).padStart(6),
    (bar ? describeBar(bar) : '').padEnd(7),
    ` ${name}  (${parts.join(', ')})`,
  ].join(' ');
}

function duration(milliseconds: number): string {
  const digits = milliseconds < 10 ? 3 : milliseconds < 1000 ? 1 : 0;
  return `${milliseconds.toFixed(digits)} ms`;
}

/** The last line: how many bars there were, and how many hold. */
export function summaryLine(rows: readonly Row[]): string {
  const barred = rows.filter(({ bar }) => bar !== undefined);
  const held = barred.filter(({ holds }) => holds).length;
  const failed = rows.filter(({ value }) => value === null).length;
  const failures = failed === 0 ? '' : `; ${failed} rows could not be measured`;
  return `${held} of ${barred.length} bars hold${failures}.`;
}
