import type { SplitName } from './types.js';

/** Examples of one split as they were read, before their labels are looked up. */
export interface Chunk {
  split: SplitName;
  /** Texts, or the bytes of encoded images. */
  values: (string | Uint8Array)[];
  /** What the data say is each value's class: a number or a name; absent where the task has none. */
  labels?: unknown[];
  /** The names that stand for class numbers, where the data give them. */
  classNames?: string[] | undefined;
  /** The files that were read. */
  paths: string[];
  /** The file and the row (from 0) in it, for messages. */
  where(row: number): string;
}
