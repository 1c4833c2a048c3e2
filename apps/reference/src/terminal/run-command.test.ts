import { D2DMoEError } from '@d2dmoe/core';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { runCommand } from './run-command.js';

let printed = '';
const exit = vi.fn<(code?: number | string | null) => never>();

beforeEach(() => {
  printed = '';
  exit.mockReset();
  vi.spyOn(process, 'exit').mockImplementation(exit);
  vi.spyOn(process.stderr, 'write').mockImplementation((text) => {
    printed += String(text);
    return true;
  });
});
afterEach(() => {
  vi.restoreAllMocks();
  vi.unstubAllEnvs();
  vi.useRealTimers();
});

const failWith = (error: unknown) =>
  runCommand(async () => {
    throw error;
  });

test('work that succeeds leaves nothing behind', async () => {
  const listeners = () =>
    ['SIGINT', 'SIGTERM', 'uncaughtException'].map((name) => process.listenerCount(name));
  const before = listeners();
  await runCommand(async (signal) => {
    expect(signal.aborted).toBe(false);
    expect(listeners()).not.toEqual(before);
  });
  expect(listeners()).toEqual(before);
  expect(printed).toBe('');
  expect(exit).not.toHaveBeenCalled();
});

test.each([
  ['USAGE', 2],
  ['CONFIG_INVALID', 2],
  ['SAFETENSORS_TRUNCATED', 2],
  ['DISK_FULL', 1],
  ['WRITE_FAILED', 1],
])('%s is one line and exit code %d', async (code, exitCode) => {
  await failWith(new D2DMoEError(code, 'this was wrong;\n  that would be right.'));
  expect(printed).toBe(`error: this was wrong; that would be right. [${code}]\n`);
  expect(exit.mock.calls).toEqual([[exitCode]]);
});

test('an error of another copy of the core package is recognised', async () => {
  const foreign = Object.assign(new Error('no'), {
    [Symbol.for('d2dmoe.error')]: true,
    code: 'CONFIG_INVALID',
  });
  await failWith(foreign);
  expect(printed).toBe('error: no [CONFIG_INVALID]\n');
  expect(exit).toHaveBeenCalledWith(2);
});

test('a fault of the program is exit code 1, without a stack trace', async () => {
  await failWith(new TypeError('x is not a function'));
  expect(printed).toBe('error: x is not a function (D2DMOE_DEBUG=1 shows where)\n');
  expect(exit.mock.calls).toEqual([[1]]);
});

test('D2DMOE_DEBUG=1 shows the stack trace, and the cause', async () => {
  vi.stubEnv('D2DMOE_DEBUG', '1');
  await failWith(new D2DMoEError('DISK_FULL', 'full', { cause: new Error('ENOSPC') }));
  expect(printed).toContain('error: full [DISK_FULL]\n');
  expect(printed).toContain('run-command.test.ts');
  expect(printed).toContain('ENOSPC');
});

test('a rejection that nobody awaits is reported like any error', async () => {
  await runCommand(async () => {
    process.emit('unhandledRejection', new Error('lost'), Promise.resolve());
  });
  expect(printed).toContain('error: lost');
  expect(exit).toHaveBeenCalledWith(1);
});

test('standard output whose reader has gone does not end the work; other failures of it do', async () => {
  await runCommand(async () => {
    process.stdout.emit('error', Object.assign(new Error('gone'), { code: 'EPIPE' }));
    expect(exit).not.toHaveBeenCalled();
    process.stdout.emit('error', Object.assign(new Error('disk'), { code: 'EIO' }));
    expect(exit).toHaveBeenCalledWith(1);
  });
});

/** Work that runs until it is aborted, as a stage does. */
const untilAborted = (signal: AbortSignal) =>
  new Promise<void>((_, reject) => {
    signal.addEventListener('abort', () => reject(signal.reason as Error));
  });

test.each(['SIGINT', 'SIGTERM'] as const)(
  'a real %s ends the work at a resumable point',
  async (name) => {
    const running = runCommand(untilAborted);
    process.kill(process.pid, name);
    await running;
    expect(printed).toBe(
      'stopping; press Ctrl-C again to quit now\n' +
        'stopped; run the same command again to go on from here.\n',
    );
    expect(exit.mock.calls).toEqual([[130]]);
  },
);

test('a second Ctrl-C quits at once, but the echo of the first one does not', async () => {
  vi.useFakeTimers();
  let finish = () => {};
  const running = runCommand(
    () =>
      new Promise((resolve) => {
        finish = resolve;
      }),
  );
  process.emit('SIGINT');
  vi.advanceTimersByTime(20);
  process.emit('SIGINT');
  expect(exit).not.toHaveBeenCalled();
  vi.advanceTimersByTime(400);
  process.emit('SIGINT');
  expect(exit.mock.calls).toEqual([[130]]);
  finish();
  await running;
});

test('work that was just done when Ctrl-C came has succeeded', async () => {
  await runCommand(async () => {
    process.emit('SIGINT');
  });
  expect(exit).not.toHaveBeenCalled();
});
