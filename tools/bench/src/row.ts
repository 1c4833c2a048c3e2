import type { Bar } from './bars.js';
import type { Times } from './statistics.js';

/** One measured ratio. */
export interface Row {
  name: string;
  /** Absent where the ratio is there to be known only. */
  bar?: Bar;
  /** The ratio, or null where it could not be measured. */
  value: number | null;
  /** Whether it was measured and meets its bar, if it has one. */
  holds: boolean;
  /** Milliseconds of the two participants, by label. */
  times?: Record<string, Times>;
  /** In place of times where the row is about memory. */
  mebibytes?: Record<string, number>;
  /** Why there is no value. */
  error?: string;
}

/** A row that could not be measured, which never holds. */
export function failedRow({ name, bar }: Pick<Row, 'name' | 'bar'>, error: unknown): Row {
  const message = error instanceof Error ? error.message : String(error);
  return { name, ...(bar && { bar }), value: null, holds: false, error: message };
}
