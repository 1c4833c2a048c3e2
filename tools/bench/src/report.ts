import { execFileSync } from 'node:child_process';
import { mkdirSync, renameSync, writeFileSync } from 'node:fs';
import { availableParallelism, cpus } from 'node:os';
import { dirname } from 'node:path';
import { describeBar } from './bars.js';
import type { Row } from './row.js';

/** Where a run took place. */
export interface Machine {
  cpu: string;
  cores: number;
  node: string;
  /** The card, with the CUDA version of its driver, where it was the card's run. */
  gpu?: string;
}

/** What a file of results holds; the README describes it. */
export interface Report {
  machine: Machine;
  /** The commit that was built, with "+" behind it where files had been changed since. */
  commit: string;
  /** When the run began, ISO 8601. */
  date: string;
  /** Whether our kernels used it; absent in a run of the card. */
  relaxedSimd?: boolean;
  /** Threads of the expert op's cases; absent in a run of the card. */
  threads?: number;
  /** Whether turns were too short to judge by. */
  quick: boolean;
  rows: Row[];
}

/** The report of a run that begins now, without its rows. */
export function startReport(
  settings: Pick<Report, 'relaxedSimd' | 'threads' | 'quick'>,
  gpu?: string,
): Report {
  return {
    machine: {
      cpu: cpus()[0]?.model ?? 'unknown',
      cores: availableParallelism(),
      node: process.version,
      ...(gpu !== undefined && { gpu }),
    },
    commit: currentCommit(),
    date: new Date().toISOString(),
    ...settings,
    rows: [],
  };
}

function currentCommit(): string {
  const git = (...args: string[]) =>
    execFileSync('git', args, {
      cwd: import.meta.dirname,
      encoding: 'utf8',
      stdio: ['ignore', 'pipe', 'ignore'],
    }).trim();
  try {
    return git('rev-parse', 'HEAD') + (git('status', '--porcelain') === '' ? '' : '+');
  } catch {
    return 'unknown';
  }
}

/** Writes the results so far; what a reader finds is one state of them, whole. */
export function writeReport(file: string, report: Report): void {
  mkdirSync(dirname(file), { recursive: true });
  const next = `${file}.next`;
  writeFileSync(next, `${JSON.stringify(report, null, 2)}\n`);
  renameSync(next, file);
}

/** One row as a line: what was found, the bar, the value, and by what. */
export function rowLine(row: Row): string {
  const { name, bar, value, holds, error } = row;
  const parts = details(row).join(', ');
  if (value === null) return `FAILED   ${name}: ${error}${parts && ` (${parts})`}`;
  const verdict = bar === undefined ? 'measured' : holds ? 'holds   ' : 'MISSED  ';
  return [
    verdict,
    value.toFixed(value < 10 ? 3 : 1).padStart(6),
    (bar ? describeBar(bar) : '').padEnd(7),
    ` ${name}  (${parts})`,
  ].join(' ');
}

function details({ times, mebibytes, gigabytesPerSecond }: Row): string[] {
  const each = <T>(values: Record<string, T> | undefined, text: (value: T) => string) =>
    Object.entries(values ?? {}).map(([label, value]) => `${label} ${text(value)}`);
  return [
    ...each(mebibytes, (size) => `${size} MiB`),
    ...each(times, ({ median }) => duration(median)),
    ...each(gigabytesPerSecond, (rate) => `${rate.toFixed(0)} GB/s`),
  ];
}

function duration(milliseconds: number): string {
  const digits = milliseconds < 10 ? 3 : milliseconds < 1000 ? 1 : 0;
  return `${milliseconds.toFixed(digits)} ms`;
}

/** The last line: how many bars there were, and how many hold. */
function summaryLine(rows: readonly Row[]): string {
  const barred = rows.filter(({ bar }) => bar !== undefined);
  const held = barred.filter(({ holds }) => holds).length;
  const failed = rows.filter(({ value }) => value === null).length;
  const failures = failed === 0 ? '' : `; ${failed} rows could not be measured`;
  return `${held} of ${barred.length} bars hold${failures}.`;
}

/** Prints the last line, writes the results if they are asked for, and sets the exit code. */
export function finishReport(report: Report, json: string | undefined): void {
  console.log(summaryLine(report.rows));
  if (json !== undefined) writeReport(json, report);
  process.exitCode = report.rows.every(({ holds }) => holds) ? 0 : 1;
}
