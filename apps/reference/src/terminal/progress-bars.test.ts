import type { ProgressEvent } from '@d2dmoe/core';
import { Writable } from 'node:stream';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { closeRegion, printLine } from './live-region.js';
import { progressReporter } from './progress-bars.js';

/** A terminal that keeps what a person would see, and fails the test when a line wraps. */
class Screen extends Writable {
  readonly isTTY = true;
  readonly rows = 24;
  columns: number;
  lines: string[] = [''];
  cursorVisible = true;
  frames = 0;
  #row = 0;
  #column = 0;

  constructor(columns: number) {
    super({ decodeStrings: false });
    this.columns = columns;
  }

  override _write(text: string, _: BufferEncoding, done: () => void): void {
    this.frames++;
    // oxlint-disable-next-line no-control-regex -- escape sequences are what a terminal reads
    for (const [part, count, code] of text.matchAll(/\x1b\[\??(\d*)([A-Za-z])|[^]/gu)) {
      if (code !== undefined) this.#control(code, Number(count || 1));
      else if (part === '\r') this.#column = 0;
      else if (part === '\n') this.#newLine();
      else this.#put(part);
    }
    done();
  }

  get text(): string {
    return this.lines
      .map((line) => line.trimEnd())
      .join('\n')
      .trimEnd();
  }

  #control(code: string, count: number): void {
    if (code === 'A') this.#row = Math.max(0, this.#row - count);
    else if (code === 'K') this.lines[this.#row] = this.#line.slice(0, this.#column);
    else if (code === 'J') {
      this.lines.length = this.#row + 1;
      this.lines[this.#row] = this.#line.slice(0, this.#column);
    } else if (count === 25) this.cursorVisible = code === 'h';
    else throw new Error(`unexpected escape sequence ${code}`);
  }

  #newLine(): void {
    this.#row++;
    this.#column = 0;
    this.lines[this.#row] ??= '';
  }

  #put(character: string): void {
    if (this.#column >= this.columns - 1)
      throw new Error(`"${this.#line}" reaches the last column`);
    const line = this.#line.padEnd(this.#column);
    this.lines[this.#row] = line.slice(0, this.#column) + character + line.slice(this.#column + 1);
    this.#column++;
  }

  get #line(): string {
    return this.lines[this.#row] ?? '';
  }
}

/** A stream that is no terminal. */
class Log extends Writable {
  text = '';
  override _write(chunk: Buffer, _: BufferEncoding, done: () => void): void {
    this.text += chunk.toString();
    done();
  }
}

beforeEach(() => {
  vi.useFakeTimers();
  for (const name of ['NO_COLOR', 'CI']) vi.stubEnv(name, '');
  vi.stubEnv('TERM', 'xterm');
});
afterEach(() => {
  vi.useRealTimers();
  vi.unstubAllEnvs();
});

const step = (
  name: string,
  step: number,
  steps: number,
  metrics?: Record<string, number>,
): ProgressEvent => ({
  status: 'progress',
  name,
  step,
  steps,
  progress: (100 * step) / steps,
  ...(metrics && { metrics }),
});

test('a bar shows name, percent, steps, time left and figures', () => {
  const screen = new Screen(100);
  const report = progressReporter(screen);
  report({ status: 'initiate', name: 'sparsify', step: 0, steps: 1500 });
  vi.advanceTimersByTime(60_000);
  report(step('sparsify', 375, 1500, { loss: 0.43211, accuracy: 0.9 }));
  expect(screen.text).toBe(
    `sparsify  ${'█'.repeat(6)}${'░'.repeat(17)}   25 %   375/1500  3 min 00 s left   loss 0.4321  accuracy 0.9000`,
  );
  expect(screen.cursorVisible).toBe(false);
  report.close();
  expect(screen.cursorVisible).toBe(true);
});

test('running tasks have a line each, and ended ones leave a line above them', () => {
  const screen = new Screen(80);
  const report = progressReporter(screen);
  report({ status: 'initiate', name: 'convert', progress: 0 });
  report({ status: 'skip', name: 'sparsify' });
  report({ status: 'initiate', name: 'split', step: 0, steps: 4 });
  vi.advanceTimersByTime(2000);
  report(step('split', 4, 4));
  report({ status: 'done', name: 'split', metrics: { objective: 1.5 } });
  report({ status: 'initiate', name: 'route', step: 0, steps: 10 });
  vi.advanceTimersByTime(200);
  expect(screen.text.split('\n').map((line) => line.replaceAll(/[█░]+/g, '#'))).toEqual([
    'sparsify: skipped, nothing to do',
    'split: done in 2.0 s, objective 1.500',
    'convert  #    0 %',
    'route    #    0 %   0/10',
  ]);
  report.close();
});

test('time left is reckoned from where resumed work began', () => {
  const screen = new Screen(80);
  const report = progressReporter(screen);
  report({ status: 'initiate', name: 'route', step: 500, steps: 1000 });
  vi.advanceTimersByTime(10_000);
  report(step('route', 600, 1000));
  expect(screen.text).toContain('40 s left');
  report.close();
});

test('at most ten frames a second, and the last state is shown', () => {
  const screen = new Screen(80);
  const report = progressReporter(screen);
  report({ status: 'initiate', name: 'split', step: 0, steps: 1000 });
  const before = screen.frames;
  for (let i = 1; i <= 1000; i++) {
    report(step('split', i, 1000));
    vi.advanceTimersByTime(1);
  }
  expect(screen.frames - before).toBeLessThanOrEqual(10);
  vi.advanceTimersByTime(100);
  expect(screen.text).toContain('1000/1000');
  report.close();
});

test.each([8, 12, 20, 30, 40, 60, 80, 200])(
  'nothing wraps in a terminal of %d columns',
  (columns) => {
    const screen = new Screen(columns);
    const report = progressReporter(screen);
    report({ status: 'initiate', name: 'sparsify', step: 0, steps: 1500 });
    vi.advanceTimersByTime(60_000);
    report(step('sparsify', 375, 1500, { loss: 0.4, accuracy: 0.9, sparsity: 0.8, spread: 123.4 }));
    report.close();
    expect(screen.lines[1]).toBe('');
    expect(screen.text.startsWith('sparsify'.slice(0, columns - 2))).toBe(true);
  },
);

test('a terminal that changes its width is redrawn to fit', () => {
  const screen = new Screen(80);
  const report = progressReporter(screen);
  report(step('sparsify', 375, 1500, { loss: 0.4 }));
  const wide = screen.lines[0]?.length;
  screen.columns = 120;
  screen.emit('resize');
  expect(screen.lines[0]?.length).toBeGreaterThan(wide ?? 0);
  report.close();
});

test('a name with control characters cannot leave its line', () => {
  const screen = new Screen(60);
  const report = progressReporter(screen);
  report(step('a\nb\x1b[2Jc', 1, 2));
  expect(screen.text).toMatch(/^a bc .* 50 % {2}1\/2$/);
  report.close();
});

test('lines that others print go above the bars', () => {
  const screen = new Screen(80);
  const report = progressReporter(screen);
  report(step('route', 1, 2));
  printLine(screen, 'first\nsecond');
  expect(screen.text).toMatch(/^first\nsecond\nroute .* 50 %/);
  report.close();
  printLine(screen, 'third');
  expect(screen.text).toMatch(/^first\nsecond\nroute .*\nthird$/);
});

test('closing shows the last state and is final', () => {
  const screen = new Screen(80);
  const exitListeners = process.listenerCount('exit');
  const interruptListeners = process.listenerCount('SIGINT');
  const report = progressReporter(screen);
  report(step('route', 1, 4));
  report(step('route', 2, 4));
  report.close();
  report.close();
  report(step('route', 3, 4));
  vi.advanceTimersByTime(1000);
  expect(screen.text).toMatch(/^route .* 50 % {2}2\/4$/);
  expect(process.listenerCount('exit')).toBe(exitListeners);
  expect(process.listenerCount('SIGINT')).toBe(interruptListeners);
  expect(screen.listenerCount('resize')).toBe(0);
});

test('a region that another hand has closed draws no more', () => {
  const screen = new Screen(80);
  const report = progressReporter(screen);
  report(step('route', 1, 4));
  closeRegion(screen);
  const seen = screen.text;
  report(step('route', 2, 4));
  vi.advanceTimersByTime(1000);
  expect(screen.text).toBe(seen);
  report.close();
});

test('the cursor comes back at exit and on Ctrl-C', () => {
  const screen = new Screen(80);
  const other = () => {};
  process.on('SIGINT', other);
  const report = progressReporter(screen);
  expect(screen.cursorVisible).toBe(false);
  process.emit('SIGINT');
  expect(screen.cursorVisible).toBe(true);
  report.close();
  process.off('SIGINT', other);

  const second = new Screen(80);
  const again = progressReporter(second);
  process.emit('exit', 0);
  expect(second.cursorVisible).toBe(true);
  again.close();
});

test('Ctrl-C still ends the process where nobody else handles it', () => {
  const others = process.listeners('SIGINT');
  process.removeAllListeners('SIGINT');
  const kill = vi.spyOn(process, 'kill').mockImplementation(() => true);
  const screen = new Screen(80);
  progressReporter(screen);
  process.emit('SIGINT');
  expect(kill).toHaveBeenCalledWith(process.pid, 'SIGINT');
  expect(process.listenerCount('SIGINT')).toBe(0);
  expect(screen.cursorVisible).toBe(true);
  kill.mockRestore();
  for (const listener of others) process.on('SIGINT', listener);
});

test('without a terminal there are plain lines at the start, every 10 % and at the end', () => {
  const log = new Log();
  const report = progressReporter(log);
  report({ status: 'skip', name: 'sparsify' });
  report({ status: 'initiate', name: 'route', step: 0, steps: 100 });
  for (let i = 1; i <= 100; i++) {
    vi.advanceTimersByTime(1000);
    if (i % 3 === 0 || i === 100) report(step('route', i, 100, { loss: 1 / i }));
  }
  report({ status: 'done', name: 'route', metrics: { accuracy: 0.92 } });
  printLine(log, 'next');
  report.close();
  expect(log.text).toMatchInlineSnapshot(`
    "sparsify: skipped, nothing to do
    route: started, 100 steps
    route: 12 %, step 12/100, 1 min 28 s left, loss 0.0833
    route: 21 %, step 21/100, 1 min 19 s left, loss 0.0476
    route: 30 %, step 30/100, 1 min 10 s left, loss 0.0333
    route: 42 %, step 42/100, 58 s left, loss 0.0238
    route: 51 %, step 51/100, 49 s left, loss 0.0196
    route: 60 %, step 60/100, 40 s left, loss 0.0167
    route: 72 %, step 72/100, 28 s left, loss 0.0139
    route: 81 %, step 81/100, 19 s left, loss 0.0123
    route: 90 %, step 90/100, 10 s left, loss 0.0111
    route: done in 1 min 40 s, accuracy 0.9200
    next
    "
  `);
});

test('resumed work starts its plain lines where it goes on', () => {
  const log = new Log();
  const report = progressReporter(log);
  report({ status: 'initiate', name: 'route', step: 45, steps: 100 });
  report(step('route', 49, 100));
  report(step('route', 50, 100));
  report.close();
  expect(log.text.split('\n')).toEqual([
    'route: started, 100 steps, from step 45',
    'route: 50 %, step 50/100',
    '',
  ]);
});

test.each([
  ['NO_COLOR', '1'],
  ['CI', 'true'],
  ['TERM', 'dumb'],
])('a terminal under %s=%s gets plain lines', (name, value) => {
  vi.stubEnv(name, value);
  const screen = new Screen(80);
  const report = progressReporter(screen);
  report({ status: 'initiate', name: 'route', steps: 100 });
  report.close();
  expect(screen.text).toBe('route: started, 100 steps');
  expect(screen.cursorVisible).toBe(true);
});
