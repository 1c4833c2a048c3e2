import { spawn } from 'node:child_process';
import { constants } from 'node:os';
import { root } from './paths.mjs';

/**
 * How a child ended: its exit code, or the signal that killed it. `interrupted` names the signal that this process was
 * sent meanwhile. `output` is what a quiet child wrote.
 *
 * @typedef {{
 *   code: number | null,
 *   signal: NodeJS.Signals | null,
 *   interrupted: NodeJS.Signals | null,
 *   output: string,
 * }} Outcome
 */

/**
 * Runs a command to its end. Signals that this process gets while waiting go to the child, which decides what they
 * mean; but Ctrl-C in a terminal reaches the child without our help, and must reach it once only.
 *
 * @param {string} command
 * @param {string[]} args
 * @param {{ cwd?: string, quiet?: boolean, stdoutToStderr?: boolean }} [options] `quiet` collects the output instead
 *   of showing it.
 * @returns {Promise<Outcome>}
 */
export function run(command, args, { cwd = root, quiet = false, stdoutToStderr = false } = {}) {
  const child = spawn(command, args, {
    cwd,
    stdio: quiet
      ? ['ignore', 'pipe', 'pipe']
      : ['inherit', stdoutToStderr ? 2 : 'inherit', 'inherit'],
    // On Windows, npm's and pnpm's commands are batch files, which only a shell runs.
    shell: process.platform === 'win32' && command !== process.execPath,
  });
  /** @type {Buffer[]} */
  const chunks = [];
  child.stdout?.on('data', (chunk) => chunks.push(chunk));
  child.stderr?.on('data', (chunk) => chunks.push(chunk));

  /** @type {NodeJS.Signals | null} */
  let interrupted = null;
  /** @param {NodeJS.Signals} signal */
  const pass = (signal) => {
    interrupted = signal;
    if (signal !== 'SIGINT' || !process.stdin.isTTY) child.kill(signal);
  };
  const signals = /** @type {const} */ (['SIGINT', 'SIGTERM', 'SIGHUP']);
  for (const signal of signals) process.on(signal, pass);

  return new Promise((resolve, reject) => {
    child.on('error', reject);
    child.on('close', (code, signal) => {
      for (const name of signals) process.off(name, pass);
      resolve({ code, signal, interrupted, output: Buffer.concat(chunks).toString() });
    });
  });
}

/**
 * Lets this process end as the child did: with its exit code, or by its signal.
 *
 * @param {Outcome} outcome
 */
export function endLike({ code, signal }) {
  if (signal === null) process.exitCode = code ?? 1;
  else process.kill(process.pid, signal);
}

/**
 * Ends this process when something that it depends on did not succeed.
 *
 * @param {Outcome} outcome
 * @param {string} failure What could not be done, for the user.
 */
export function requireSuccess({ code, signal, interrupted, output }, failure) {
  if (code === 0 && interrupted === null) return;
  const end = interrupted ?? signal;
  if (end !== null) process.exit(128 + constants.signals[end]);
  if (output !== '') console.error(output.trimEnd());
  console.error(`error: ${failure}`);
  process.exit(1);
}
