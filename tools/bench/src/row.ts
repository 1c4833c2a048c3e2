import type { Bar } from './bars.js';
import type { Times } from './statistics.js';

/** One measured ratio, or another figure that has a bar. */
export interface Row {
  name: string;
  /** Absent where the ratio is there to be known only. */
  bar?: Bar;
  /** The ratio or figure, in the unit that the name says; null where it could not be measured. */
  value: number | null;
  /** Whether it was measured and meets its bar, if it has one. */
  holds: boolean;
  /** Milliseconds of the participants, by label. */
  times?: Record<string, Times>;
  /** In place of times where the row is about memory. */
  mebibytes?: Record<string, number>;
  /** Gigabytes (10⁹) that are read and written in a second, by label, where times are about bandwidth. */
  gigabytesPerSecond?: Record<string, number>;
  /** Why there is no value. */
  error?: string;
}

/** A row that could not be measured, which never holds. */
export function failedRow({ name, bar }: Pick<Row, 'name' | 'bar'>, error: unknown): Row {
  const message = error instanceof Error ? error.message : String(error);
  return { name, ...(bar && { bar }), value: null, holds: false, error: message };
}
