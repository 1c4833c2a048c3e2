import { spawn } from 'node:child_process';
import { fileURLToPath } from 'node:url';

const cli = fileURLToPath(new URL('../dist/cli.js', import.meta.url));

/** How a run of the built command ended, and what it printed. */
export interface Outcome {
  code: number | null;
  signal: NodeJS.Signals | null;
  stdout: string;
  stderr: string;
}

/** What {@link runBuilt} may be told. */
export interface RunOptions {
  cwd?: string;
  env?: Record<string, string>;
  /** Sees all that standard error has so far, each time that there is more, and may send the process a signal. */
  onStderr?: (text: string, kill: (signal: NodeJS.Signals) => void) => void;
  /** The same for standard output. */
  onStdout?: (text: string, kill: (signal: NodeJS.Signals) => void) => void;
  /** Arguments for Node, before the script's path. */
  node?: readonly string[];
}

/** Runs the built `d2dmoe`, as a user does. */
export function runBuilt(args: readonly string[], options: RunOptions = {}): Promise<Outcome> {
  const { cwd, env, onStderr, onStdout, node = [] } = options;
  const child = spawn(process.execPath, [...node, cli, ...args], {
    cwd,
    env: { ...process.env, ...env },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let stdout = '';
  let stderr = '';
  child.stdout.setEncoding('utf8').on('data', (text: string) => {
    stdout += text;
    onStdout?.(stdout, (signal) => child.kill(signal));
  });
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    stderr += text;
    onStderr?.(stderr, (signal) => child.kill(signal));
  });
  return new Promise((resolve, reject) => {
    child.on('error', reject);
    child.on('close', (code, signal) => resolve({ code, signal, stdout, stderr }));
  });
}
