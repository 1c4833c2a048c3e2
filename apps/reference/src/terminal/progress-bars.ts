import type { ProgressCallback, ProgressEvent } from '@d2dmoe/core';
import { formatDuration, formatMetric } from './format.js';
import { canRedraw, LiveRegion, type OutputStream, printLine } from './live-region.js';

/** Milliseconds between two frames: ten a second. */
const frameTime = 100;
/** Percent between two plain lines. */
const plainStep = 10;

/** A progress callback that draws, and its end. */
export type ProgressReporter = ProgressCallback & {
  /** Draws the last state and gives the terminal back; later events are ignored. Calling it again does nothing. */
  close(): void;
};

/**
 * Shows progress events to a person: on a terminal, one bar per running task, redrawn in place at most ten times a
 * second; elsewhere, and where `NO_COLOR` or `CI` is set, plain lines at the start, every 10 % and at the end.
 *
 * @param stream Usually `process.stderr`, so that results alone go to standard output.
 */
export function progressReporter(stream: OutputStream): ProgressReporter {
  return canRedraw(stream) ? barReporter(stream) : lineReporter(stream);
}

/** What is known about one task. */
class Task {
  readonly name: string;
  readonly #started = performance.now();
  /** The first percentage seen, and when: resumed work starts in the middle. */
  #first: { percent: number; time: number } | undefined;
  percent: number | undefined;
  step: number | undefined;
  steps: number | undefined;
  metrics: Record<string, number> = {};

  constructor(name: string) {
    this.name = name;
  }

  take({ progress, step, steps, metrics }: ProgressEvent): void {
    this.step = step ?? this.step;
    this.steps = steps ?? this.steps;
    this.metrics = metrics ?? this.metrics;
    const counted = step !== undefined && this.steps ? (100 * step) / this.steps : undefined;
    const percent = progress ?? counted;
    if (percent === undefined || Number.isNaN(percent)) return;
    this.percent = Math.min(100, Math.max(0, percent));
    this.#first ??= { percent: this.percent, time: performance.now() };
  }

  /** Seconds since the task began. */
  get elapsed(): number {
    return (performance.now() - this.#started) / 1000;
  }

  /** Seconds that the rest will take at the speed so far; undefined while it is too early to say. */
  get left(): number | undefined {
    if (this.#first === undefined || this.percent === undefined) return undefined;
    const done = this.percent - this.#first.percent;
    const seconds = (performance.now() - this.#first.time) / 1000;
    if (done <= 0 || seconds < 1) return undefined;
    return (seconds / done) * (100 - this.percent);
  }

  get figures(): string[] {
    return Object.entries(this.metrics).map(([name, value]) => `${name} ${formatMetric(value)}`);
  }

  /** `  12/1500`, or only the step where their number is unknown. */
  get stepsDone(): string | undefined {
    if (this.step === undefined || this.steps === undefined) return this.step?.toString();
    return `${String(this.step).padStart(String(this.steps).length)}/${this.steps}`;
  }
}

/** The line that stays when a task has ended. */
function finalLine(task: Task, status: 'done' | 'skip'): string {
  if (status === 'skip') return `${task.name}: skipped, nothing to do`;
  return [`${task.name}: done in ${formatDuration(task.elapsed)}`, ...task.figures].join(', ');
}

function lineReporter(stream: OutputStream): ProgressReporter {
  const running = new Map<string, { task: Task; shown: number }>();
  let closed = false;

  const report = (event: ProgressEvent) => {
    if (closed) return;
    const { name, status } = event;
    const entry = running.get(name) ?? { task: new Task(name), shown: 0 };
    const { task } = entry;
    task.take(event);
    if (status === 'done' || status === 'skip') {
      running.delete(name);
      printLine(stream, finalLine(task, status));
      return;
    }
    const tenth = Math.floor((task.percent ?? 0) / plainStep);
    if (!running.has(name)) {
      running.set(name, entry);
      entry.shown = tenth;
      const size = task.steps === undefined ? '' : `, ${task.steps} steps`;
      const resumed = task.step ? `, from step ${task.step}` : '';
      printLine(stream, `${name}: started${size}${resumed}`);
    } else if (tenth > entry.shown) {
      entry.shown = tenth;
      if (tenth * plainStep < 100) printLine(stream, plainLine(task));
    }
  };
  return Object.assign(report, {
    close: () => {
      closed = true;
    },
  });
}

function plainLine(task: Task): string {
  const parts = [`${task.name}: ${Math.floor(task.percent ?? 0)} %`];
  if (task.stepsDone !== undefined) parts.push(`step ${task.stepsDone.trim()}`);
  if (task.left !== undefined) parts.push(`${formatDuration(task.left)} left`);
  return [...parts, ...task.figures].join(', ');
}

function barReporter(stream: OutputStream): ProgressReporter {
  const region = new LiveRegion(stream);
  const running = new Map<string, Task>();
  let drawnAt = Number.NEGATIVE_INFINITY;
  let timer: NodeJS.Timeout | undefined;
  let closed = false;

  const draw = (above?: string) => {
    clearTimeout(timer);
    timer = undefined;
    drawnAt = performance.now();
    region.draw(barLines([...running.values()], region.width), above);
  };
  const onResize = () => {
    if (running.size > 0) draw();
  };
  stream.on('resize', onResize);

  const report = (event: ProgressEvent) => {
    if (closed) return;
    const { name, status } = event;
    const task = running.get(name) ?? new Task(name);
    task.take(event);
    if (status === 'done' || status === 'skip') {
      running.delete(name);
      draw(finalLine(task, status));
      return;
    }
    running.set(name, task);
    const wait = drawnAt + frameTime - performance.now();
    if (wait <= 0) draw();
    else timer ??= setTimeout(draw, wait).unref();
  };
  return Object.assign(report, {
    close: () => {
      if (closed) return;
      closed = true;
      stream.off('resize', onResize);
      draw();
      region.close();
    },
  });
}

/**
 * A line of at most `width` characters for each task: name, bar, percent, then steps, time left and figures as far as
 * they fit. The bars are equally long and give way to the rest down to a certain length.
 */
function barLines(tasks: Task[], width: number): string[] {
  const gap = '  ';
  const shortestBar = 8;
  const longestBar = 24;
  const nameWidth = Math.max(...tasks.map((task) => task.name.length), 0);

  const rows = tasks.map((task) => {
    const name = task.name.padEnd(nameWidth);
    const percent = (task.percent === undefined ? '' : `${Math.floor(task.percent)} %`).padStart(5);
    const left = task.left === undefined ? '' : `${formatDuration(task.left)} left`;
    let free = width - [name, ' '.repeat(shortestBar), percent].join(gap).length;
    const details: string[] = [];
    for (const part of [task.stepsDone, left.padEnd(16), ...task.figures]) {
      if (part === undefined) continue;
      if (free < gap.length + part.length) break;
      free -= gap.length + part.length;
      details.push(part);
    }
    return { task, name, percent, details, free };
  });

  const free = Math.min(...rows.map((row) => row.free));
  // Without room for the shortest bar, name and percent matter more.
  const barWidth = free < 0 ? 0 : Math.min(longestBar, shortestBar + free);
  return rows.map(({ task, name, percent, details }) => {
    const bar = drawBar(task.percent ?? 0, barWidth);
    return [name, bar, percent, ...details].filter((part) => part !== '').join(gap);
  });
}

function drawBar(percent: number, width: number): string {
  const full = Math.round((width * percent) / 100);
  return `${'█'.repeat(full)}${'░'.repeat(width - full)}`;
}
