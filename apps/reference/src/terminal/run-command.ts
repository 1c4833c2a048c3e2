import { inspect } from 'node:util';
import { D2DMoEError } from '@d2dmoe/core';
import { closeRegion, printLine } from './live-region.js';

/** Milliseconds within which signals count as one: npm passes Ctrl-C on to a child that has already got it. */
const sameInterrupt = 300;
/** The exit code of a program that SIGINT ended, as shells report it. */
const interruptedExit = 130;
/** Codes of errors that are no fault of the command line or its input. */
const failedRun = new Set([
  'DISK_FULL',
  'WRITE_FAILED',
  'HUB_UNREACHABLE',
  'HUB_RATE_LIMITED',
  'HUB_FILE_CORRUPT',
  'HUB_FAILED',
]);

/**
 * Runs a whole command and turns how it ends into what the user sees.
 *
 * The first Ctrl-C (or SIGTERM) aborts the signal with a D2DMoEError `INTERRUPTED` as its reason, so that the work can
 * stop at a resumable point; a second one quits at once. An error becomes one line on standard error and an exit code:
 * 2 for a D2DMoEError, which tells of wrong usage or input; 130 for `INTERRUPTED`; 1 for a full disk, a hub that does
 * not work, and whatever is not a D2DMoEError. A stack trace is shown where `D2DMOE_DEBUG=1` asks for it. A reader of
 * the output that goes away (`| head`) does not end the work.
 *
 * @param main The work. It resolves on success; then this resolves too, and the process ends when nothing is left to
 *   do.
 */
export async function runCommand(main: (signal: AbortSignal) => Promise<void>): Promise<void> {
  const controller = new AbortController();
  let firstInterrupt: number | undefined;
  const onInterrupt = () => {
    const now = performance.now();
    if (firstInterrupt === undefined) {
      firstInterrupt = now;
      controller.abort(
        new D2DMoEError('INTERRUPTED', 'stopped; run the same command again to go on from here.'),
      );
      printLine(process.stderr, 'stopping; press Ctrl-C again to quit now');
    } else if (now - firstInterrupt > sameInterrupt) {
      process.exit(interruptedExit);
    }
  };
  process.on('SIGINT', onInterrupt);
  process.on('SIGTERM', onInterrupt);
  process.on('uncaughtException', fail);
  process.on('unhandledRejection', fail);
  for (const stream of [process.stdout, process.stderr]) {
    // They stay, because a write may fail after the work has ended.
    if (!stream.listeners('error').includes(ignoreClosedPipe)) stream.on('error', ignoreClosedPipe);
  }
  try {
    await main(controller.signal);
  } catch (error) {
    fail(error);
  } finally {
    process.off('SIGINT', onInterrupt);
    process.off('SIGTERM', onInterrupt);
    process.off('uncaughtException', fail);
    process.off('unhandledRejection', fail);
  }
}

/** Says what went wrong and ends the process. */
function fail(error: unknown): void {
  closeRegion(process.stderr);
  const debug = process.env['D2DMOE_DEBUG'] === '1';
  process.stderr.write(`${describeFailure(error)}\n`);
  if (debug) process.stderr.write(`${inspect(error)}\n`);
  process.exit(exitCode(error));
}

function describeFailure(error: unknown): string {
  const message = (error instanceof Error ? error.message : String(error)).replaceAll(
    /\s*\n\s*/g,
    ' ',
  );
  if (!D2DMoEError.isInstance(error)) {
    return `error: ${message} (D2DMOE_DEBUG=1 shows where)`;
  }
  if (error.code === 'INTERRUPTED') return message;
  const code = `[${error.code}]`;
  const dimmed = process.stderr.isTTY && !process.env['NO_COLOR'] ? `\x1b[2m${code}\x1b[22m` : code;
  return `error: ${message} ${dimmed}`;
}

function exitCode(error: unknown): number {
  if (!D2DMoEError.isInstance(error)) return 1;
  if (error.code === 'INTERRUPTED') return interruptedExit;
  return failedRun.has(error.code) ? 1 : 2;
}

function ignoreClosedPipe(error: NodeJS.ErrnoException): void {
  if (error.code !== 'EPIPE') fail(error);
}
